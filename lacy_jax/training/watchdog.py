"""Shows where a run hangs: the stack of every thread, printed when a step does not end."""

import faulthandler
import os
import sys
import threading
import time

import jax

COMPILING = 3.0  # times the limit, the first time that something runs: it may compile


class Watchdog:
    """Watches one thing after another; a context manager.

    The stacks come from `faulthandler`'s own C thread, so they come even where a library holds Python's lock; the line
    above them, with process and step, comes from a Python thread. Both go to this process' stderr, and the run goes
    on: a hang of one process is only understood from the stacks of all.
    """

    def __init__(self, seconds: float):
        """`seconds` without a call of `watch` are a hang; 0 watches nothing."""
        self._seconds = seconds
        self._seen: set[str] = set()
        self._what, self._limit, self._since = "", 0.0, 0.0
        self._changed = threading.Condition()
        self._closed = False

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            threading.Thread(target=self._announce, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()

    def watch(self, what: str, step: int) -> None:
        """From now on this is under way: "step", "validation after step", ..., and a number."""
        if not self._seconds:
            return
        limit = self._seconds * (1.0 if what in self._seen else COMPILING)
        self._seen.add(what)
        with self._changed:
            self._what, self._limit, self._since = f"{what} {step:,}", limit, time.monotonic()
            self._changed.notify()
        # A moment later than the line that says what they are.
        faulthandler.dump_traceback_later(limit + 0.2, file=sys.__stderr__ or 2)

    def _announce(self) -> None:
        told = -1.0
        with self._changed:
            while not self._closed:
                left = self._since + self._limit - time.monotonic()
                if self._since and left <= 0 and told != self._since:
                    told = self._since
                    line = f"process {jax.process_index()}: {self._what} has not ended after {self._limit:,.0f} s"
                    os.write(2, f"{line}; the stack of every thread:\n".encode())
                self._changed.wait(left if left > 0 else None)
