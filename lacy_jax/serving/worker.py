"""The one thread that owns the scheduler. Everybody else talks to it through a queue of commands."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from lacy_jax.cascade import Completion, Piece, Request, Scheduler
from lacy_jax.errors import ConfigError, DataError
from lacy_jax.serving.errors import ApiError

State = Literal["starting", "ready", "failed", "stopped"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Update:
    """News of one row of a job. Without anything else it says that the row was taken on.

    row: its index in the job; pieces: final text; completion or error: only in a row's last update.
    """

    row: int
    pieces: tuple[Piece, ...] = ()
    completion: Completion | None = None
    error: ApiError | None = None

    @property
    def last(self) -> bool:
        return self.completion is not None or self.error is not None


@dataclass(frozen=True)
class _Row:
    job: int
    index: int
    deliver: Callable[[Update], None]


class Worker:
    """Runs the scheduler's rounds while there are rows, and sleeps while there are none.

    A job is the rows of one request. Methods may be called from any thread; `deliver` is called in the worker's.
    A round that raises ends every open row with an error, and every later one at once: a scheduler in an
    unknown state is not asked again.
    """

    def __init__(self, scheduler: Scheduler, *, warm_up: Callable[[], None] | None = None):
        """`warm_up` is called first, in the worker's thread; until it returns, the worker is "starting"."""
        self._scheduler = scheduler
        self._warm_up = warm_up
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._rows: dict[int, _Row] = {}
        self._thread = threading.Thread(target=self._run, name="lacy-scheduler", daemon=True)
        self._state: State = "starting"
        self.running = 0
        self.round_began: float | None = None

    @property
    def state(self) -> State:
        """ "ready" only while the thread lives and the scheduler is sound."""
        return "stopped" if self._state == "ready" and not self._thread.is_alive() else self._state

    @property
    def alive(self) -> bool:
        """Whether the thread is there, busy or not."""
        return self._thread.is_alive()

    def start(self) -> None:
        if self._warm_up is None:
            self._state = "ready"
        self._thread.start()

    def submit(self, job: int, requests: Sequence[Request], deliver: Callable[[Update], None]) -> None:
        """Takes on a job: each row is answered by updates, the last of which ends it. Never blocks."""
        self._commands.put(partial(self._add, job, tuple(requests), deliver))

    def cancel(self, job: int) -> None:
        """Ends what still runs of a job; no update says so."""
        self._commands.put(partial(self._cancel, job))

    def stop(self, *, timeout: float) -> bool:
        """Ends the thread after its round; False where it is still busy after `timeout` seconds."""
        self._commands.put(self._stop)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        if self._warm_up is not None:
            try:
                self._warm_up()
                self._state = "ready"
            except BaseException as error:  # serve ends the process on "failed" before "ready"; nobody waits yet
                _log.critical("the server could not start", exc_info=error)
                self._state = "failed"
        while self._state != "stopped":
            try:
                self._take_commands()
                if self._rows and self._state == "ready":
                    self._round()
                self.running = self._scheduler.running
            except BaseException as error:  # whatever it is, nobody may be left waiting
                _log.critical("the scheduler failed; all open requests end", exc_info=error)
                self._state = "failed"
                self.running = 0
                self._end_all("the server failed while it worked on this request; see its log")

    def _take_commands(self) -> None:
        """All commands that wait; for the first one, it sleeps where there is nothing else to do."""
        command = self._commands.get() if not self._rows else None
        while True:
            if command is not None:
                command()
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                return

    def _round(self) -> None:
        self.round_began = time.monotonic()
        try:
            events = self._scheduler.step()
        finally:
            self.round_began = None
        for event in events:
            row = self._rows.get(event.id)
            if row is None:  # cancelled in the meantime
                continue
            if event.completion is not None:
                del self._rows[event.id]
            row.deliver(Update(row.index, event.pieces, event.completion))

    def _add(self, job: int, requests: tuple[Request, ...], deliver: Callable[[Update], None]) -> None:
        for index, request in enumerate(requests):
            if self._state != "ready":
                deliver(Update(index, error=ApiError(503, "the server cannot work; see its log")))
                continue
            try:
                identity = self._scheduler.add(request)
            except (ConfigError, DataError) as error:
                deliver(Update(index, error=ApiError(400, " ".join(str(error).split()))))
                continue
            except Exception:  # nothing of the row is in the scheduler yet: only this request fails
                _log.exception("a request could not be taken on")
                deliver(Update(index, error=ApiError(500, "the server failed on this request; see its log")))
                continue
            self._rows[identity] = _Row(job, index, deliver)
            deliver(Update(index))

    def _cancel(self, job: int) -> None:
        for identity in [identity for identity, row in self._rows.items() if row.job == job]:
            del self._rows[identity]
            if self._state == "ready":
                self._scheduler.cancel(identity)

    def _stop(self) -> None:
        self._state = "stopped"
        self._end_all("the server is shutting down")

    def _end_all(self, message: str) -> None:
        rows, self._rows = self._rows, {}
        for row in rows.values():
            row.deliver(Update(row.index, error=ApiError(503 if self._state == "stopped" else 500, message)))
