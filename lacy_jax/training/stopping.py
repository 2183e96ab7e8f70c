"""Stopping in good order: SIGTERM (preemption, a time limit) or Ctrl-C, agreed on by all processes of a run."""

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

SLOW_SECONDS = 1.0  # from here on a step is waited for before the next one is sent to the devices


class Stops:
    """When a run is to stop. `asked` and `wait` are to be called before and after every step."""

    def __init__(self, asked: Callable[[int], bool], *, now: Callable[[], float] = time.monotonic):
        self._asked, self._now = asked, now
        self._began = now()
        self.step_seconds: float | None = None  # of the last step; None before the first

    def asked(self, step: int) -> bool:
        """Whether to save that step and return."""
        self._began = self._now()
        return self._asked(step)

    def wait(self, results: Any) -> None:
        """Waits for a step's results where steps are slow.

        Without that the next step would be on its way when a signal comes, and would have to end before the run can.
        Fast steps are not waited for: the devices would stand still in between.
        """
        if self.step_seconds is None or self.step_seconds >= SLOW_SECONDS:
            jax.block_until_ready(results)
        self.step_seconds = self._now() - self._began

    def describe(self, number: int) -> str:
        """What a signal is answered at once."""
        seconds = "" if self.step_seconds is None else f", up to {math.ceil(self.step_seconds)} s"
        return f"{signal.Signals(number).name}: saving after this step{seconds}"


@contextlib.contextmanager
def stop_requests(say: Callable[[str], None]) -> Iterator[Stops]:
    """Gives what says when to stop; a signal is answered by `say`, at once, whatever the main thread is doing.

    Alone, a process stops after the step under way, and a second signal kills it. Of several, it is enough that one is
    signalled: JAX's preemption service, which holds SIGTERM since `jax.distributed.initialize`, lets all of them stop
    after the same step, the one that follows the furthest. A question costs no communication.
    """
    if jax.process_count() > 1:
        with _handlers({signal.SIGINT: lambda *_: signal.raise_signal(signal.SIGTERM)}):
            yield Stops(multihost_utils.reached_preemption_sync_point)
        return
    stop = threading.Event()
    stops = Stops(lambda _step: stop.is_set())

    def request(number: int, _frame: Any) -> None:
        stop.set()
        signal.signal(number, previous[number])

    with (
        _handlers({signal.SIGTERM: request, signal.SIGINT: request}) as previous,
        _answered(lambda number: say(stops.describe(number)), once_of=list(previous)),
    ):
        yield stops


@contextlib.contextmanager
def _handlers(handlers: dict[int, Any]) -> Iterator[dict[int, Any]]:
    """Signal handlers for a while; gives those before. Only a program's main thread may have any."""
    if threading.current_thread() is not threading.main_thread():
        yield {}
        return
    previous = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        yield previous
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _answered(answer: Callable[[int], None], *, once_of: list[int]) -> Iterator[None]:
    """The first signal of these numbers is answered by a thread: handlers of Python's wait for the main thread."""
    if not once_of:
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)  # as Python demands

    def listen() -> None:
        while number := os.read(reader, 1):
            if number[0] in once_of:
                answer(number[0])
                return

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writer)
        thread.join()
        os.close(reader)
