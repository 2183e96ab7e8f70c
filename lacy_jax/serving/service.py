"""Requests on their way: admission, their rows' updates, time limits, shutdown. All in the event loop's thread."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lacy_jax.cascade import Completion, Counts, Piece, Request
from lacy_jax.serving.errors import ApiError
from lacy_jax.serving.metrics import Metrics
from lacy_jax.serving.settings import Settings
from lacy_jax.serving.worker import State, Update, Worker

_NOT_ABLE = "the server cannot work; see its log"

Ending = Literal["complete", "refused", "disconnect", "time", "error", "shutdown"]


@dataclass(frozen=True)
class Finished:
    """A choice at its end. finish: as in Completion, or "time" where the request's time was over."""

    text: str
    pieces: tuple[Piece, ...]
    counts: Counts
    finish: str

    @classmethod
    def of(cls, completion: Completion) -> "Finished":
        return cls(completion.text, completion.pieces, completion.counts, completion.finish)

    @classmethod
    def cut(cls, pieces: Sequence[Piece]) -> "Finished":
        """What a row had when its time was over. Calls that were not answered are not known."""
        partner = [piece for piece in pieces if piece.source == "partner"]
        counts = Counts(
            generated=sum(piece.tokens for piece in pieces),
            delegated=sum(piece.tokens for piece in partner),
            calls=len(partner),
        )
        return cls("".join(piece.text for piece in pieces), tuple(pieces), counts, "time")


@dataclass(frozen=True)
class Progress:
    """New pieces of a choice, or its end (then `finished`; its last pieces may come with it)."""

    choice: int
    pieces: tuple[Piece, ...]
    finished: Finished | None


@dataclass
class Job:
    """The rows of one request."""

    number: int
    requests: tuple[Request, ...]
    began: float
    open: set[int]
    updates: asyncio.Queue[Update] = field(default_factory=asyncio.Queue)
    pieces: dict[int, list[Piece]] = field(default_factory=dict)
    ending: Ending = "disconnect"  # unless something else is known when it is closed


class Service:
    """What the routes ask for completions."""

    def __init__(self, worker: Worker, settings: Settings, metrics: Metrics):
        self.settings = settings
        self.draining = False
        self._worker = worker
        self._metrics = metrics
        self._jobs: dict[int, Job] = {}
        self._numbers = itertools.count()
        metrics.gauge("lacy_rows_running", "Rows in slots of the scheduler", lambda: worker.running)
        metrics.gauge("lacy_rows_waiting", "Rows that wait for a slot", lambda: self.waiting)
        metrics.gauge("lacy_ready", "1 while the worker is able to work", lambda: float(worker.state == "ready"))
        metrics.gauge("lacy_round_seconds", "How long the scheduler's present round takes already", self.round_seconds)

    @property
    def open_rows(self) -> int:
        return sum(len(job.open) for job in self._jobs.values())

    @property
    def waiting(self) -> int:
        return max(0, self.open_rows - self._worker.running)

    @property
    def state(self) -> State | str:
        """The worker's; "draining" where no more requests are taken on, "stuck" where a round outlasts any request."""
        if self._worker.state != "ready":
            return self._worker.state
        if self.round_seconds() > self.settings.request_seconds:
            return "stuck"
        return "draining" if self.draining else "ready"

    def round_seconds(self) -> float:
        began = self._worker.round_began
        return 0.0 if began is None else time.monotonic() - began

    async def start(self, requests: tuple[Request, ...], *, began: float) -> Job:
        """Hands the rows to the worker, and returns once it has taken on all of them.

        Raises:
            ApiError: 429 queue full; 503 shutting down, not able to work or out of time; 400 a row it refuses.
        """
        job = self._submit(requests, began)
        try:
            for _ in requests:
                update = await self._next(job)
                if update is None:
                    raise _no_time()
                if update.error is not None:
                    raise update.error
        except BaseException:
            job.ending = "refused"
            self.close(job)
            raise
        return job

    def _submit(self, requests: tuple[Request, ...], began: float) -> Job:
        if self.draining:
            raise ApiError(503, "the server is shutting down", retry_after=10)
        if self.state == "starting":
            raise ApiError(503, "the server is starting; try again later", retry_after=5)
        if self.state != "ready":
            raise ApiError(503, _NOT_ABLE)
        limit = self.settings.batch_size + self.settings.max_queue
        if self.open_rows + len(requests) > limit:
            message = f"the queue is full: {self.open_rows} of {limit} rows are taken; try again later"
            raise ApiError(429, message, code="queue_full", retry_after=1)
        job = Job(next(self._numbers), requests, began, open=set(range(len(requests))))
        self._jobs[job.number] = job
        loop = asyncio.get_running_loop()

        def deliver(update: Update) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._receive, job, update)

        self._worker.submit(job.number, requests, deliver)
        return job

    def _receive(self, job: Job, update: Update) -> None:
        """Counts here, not where updates are read: a client that reads slowly holds no place in the queue."""
        for piece in update.pieces:
            self._metrics.count_piece(piece)
        if update.completion is not None:
            self._metrics.count_choice(update.completion.counts)
        if update.last:
            job.open.discard(update.row)
        job.updates.put_nowait(update)

    async def follow(self, job: Job) -> AsyncIterator[Progress]:
        """The job's news until all its choices have ended. At the time limit, those still open end with what they have.

        Raises:
            ApiError: the worker failed, the server shuts down, or time was over before there was any text.
        """
        left = set(range(len(job.requests)))
        while left:
            update = await self._next(job)
            if update is None:
                job.ending = "time"
                if not job.pieces and len(left) == len(job.requests):
                    raise _no_time()
                for row in sorted(left):
                    yield Progress(row, (), Finished.cut(job.pieces.get(row, [])))
                return
            if update.error is not None:
                job.ending = "error" if job.ending == "disconnect" else job.ending
                raise update.error
            if update.pieces:
                if not job.pieces:
                    self._metrics.time_first_piece(time.monotonic() - job.began)
                job.pieces.setdefault(update.row, []).extend(update.pieces)
            finished = None
            if update.completion is not None:
                left.discard(update.row)
                finished = Finished.of(update.completion)
            if not left:
                job.ending = "complete"
            yield Progress(update.row, update.pieces, finished)
        self._metrics.time_completion(time.monotonic() - job.began)

    async def _next(self, job: Job) -> Update | None:
        """The next update, None where the request's time is over."""
        left = job.began + self.settings.request_seconds - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)):
                return await job.updates.get()
        except TimeoutError:
            return None

    def close(self, job: Job) -> None:
        """Ends the job: what still runs of it is cancelled. To be called once, whatever became of it."""
        del self._jobs[job.number]
        if job.open:
            self._worker.cancel(job.number)
        if job.ending not in ("complete", "refused"):
            self._metrics.interrupted.labels(job.ending).inc()

    def end_lost(self) -> None:
        """Ends all jobs where the worker's thread is gone: nobody would ever answer them."""
        if self._jobs and not self._worker.alive:
            self.abort(_NOT_ABLE)

    def abort(self, message: str) -> None:
        """Ends all jobs with an error: the grace time of a shutdown is over, or there is no worker."""
        for job in list(self._jobs.values()):
            for row in job.open:
                job.updates.put_nowait(Update(row, error=ApiError(503, message)))
            if job.open:
                job.ending = "shutdown"
                self._worker.cancel(job.number)
                job.open.clear()


def _no_time() -> ApiError:
    message = "time was over before the request got its turn; try again later"
    return ApiError(503, message, code="timeout", retry_after=5)
