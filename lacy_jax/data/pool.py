"""Processes that mark documents, in order. Each is replaced now and then, and the work goes on when one dies.

A batch whose process dies, or is killed because it takes too long, is tried again, then each of its documents alone. A
document on which that happens again and again is given up, with the reason. The processes (pool_worker.py) are
started by their command, not by `multiprocessing`: they import no script, and may be started from a process of any
kind, also a worker of Beam or Dask.
"""

import collections
import contextlib
import logging
import os
import pickle
import queue
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from lacy_jax.config import AnnotateConfig
from lacy_jax.data.batches import BATCH, document_batches
from lacy_jax.data.documents import BEGINNING, Document, LeftOut, Spans
from lacy_jax.errors import DataError

COMMAND = (sys.executable, "-m", "lacy_jax.data.pool_worker")
LIFETIME = 20_000_000  # characters that a process marks before it is replaced: spaCy's string store only grows
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
_TRIES = 2  # of a batch, and then of each document alone
_SECONDS_TO_DIE = 10  # after its pipe is closed, so that we see its own status, not that of our signal
_MOST_LOST = 20  # documents in a row that are given up: then the fault is not theirs
_LONGEST_POLL = 2**31 - 1  # milliseconds, 24 days

_NOTHING: Mapping[str, Any] = {}

Marks = Spans | LeftOut
"""What becomes of a document: its marks, or why there are none."""


class _Died(Exception):
    """A process ended, or was ended, before it answered."""


def time_limit(documents: Sequence[Document], timeout: float) -> float:
    """Seconds that a process may take for these documents; timeout: for `BATCH` characters, or fewer."""
    return timeout * max(1.0, sum(len(document.text) for document in documents) / BATCH)


class Pool:
    """`size` processes of an annotator; they start when they are first needed. Threads may share one."""

    def __init__(self, settings: AnnotateConfig, *, size: int, further: Mapping[str, Any] = _NOTHING) -> None:
        """further: what the annotator is given beside its settings."""
        self._start = (settings, dict(further))
        self._slots: queue.SimpleQueue[_Process | None] = queue.SimpleQueue()
        self._processes: set[_Process] = set()
        self._lock = threading.Lock()
        self._lost = 0  # documents given up since one was marked
        self._closed = False
        for _ in range(size):
            self._slots.put(None)

    def mark(self, documents: Sequence[Document]) -> list[Marks]:
        """The marks of each document; waits for a process that is free.

        Raises:
            DataError: the annotator cannot start, or too many documents in a row are given up.
        """
        for _ in range(_TRIES if len(documents) > 1 else 0):
            if not isinstance(marks := self._try(documents), str):
                return marks
        return [self._mark_alone(document) for document in documents]

    def close(self) -> None:
        """Ends the processes, at once."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.end()

    def process_ids(self) -> list[int]:
        """Those of the processes that run."""
        with self._lock:
            return sorted(process.id for process in self._processes)

    def _mark_alone(self, document: Document) -> Marks:
        for _ in range(_TRIES):
            if not isinstance(marks := self._try([document]), str):
                return marks[0]
        self._lost += 1
        if self._lost >= _MOST_LOST:
            raise DataError(
                f"annotate: {_MOST_LOST} documents in a row could not be marked; with the last, "
                f"{document.id!r}, {marks}. If memory is short, set annotate.workers lower"
            )
        return LeftOut(f"cannot be marked: {marks}", document.text[:BEGINNING])

    def _try(self, documents: Sequence[Document]) -> list[Marks] | str:
        """The marks, or what went wrong."""
        process = self._slots.get()
        try:
            if process is None or process.marked >= LIFETIME:
                process = self._replace(process)
            kind, answer = process.ask(documents)
        except _Died as death:
            self._remove(process)
            process = None
            if not self._closed:
                logging.warning("annotate: %d documents from %r on: %s", len(documents), documents[0].id, death)
            return str(death)
        finally:
            self._slots.put(process)
        if kind == "problem":
            raise DataError(*answer)
        if kind == "marks":
            self._lost = 0
        marks: list[Marks] | str = answer
        return marks

    def _replace(self, process: "_Process | None") -> "_Process":
        self._remove(process)
        with self._lock:
            if self._closed:
                raise _Died("the work has ended")
            process = _Process(self._start)
            self._processes.add(process)
            return process

    def _remove(self, process: "_Process | None") -> None:
        if process is not None:
            process.end()
            with self._lock:
                self._processes.discard(process)


class _Process:
    """One process, which answers a list of documents with their marks.

    marked: characters of text so far.
    """

    def __init__(self, start: tuple[AnnotateConfig, dict[str, Any]]) -> None:
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        one_thread = dict.fromkeys(_THREAD_SETTINGS, "1")  # unless the environment sets another number
        self.marked = 0
        self._start = start
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**one_thread, **os.environ, "PYTHONPATH": paths},
        )
        self.id = self._process.pid
        self._greeted = False

    def ask(self, documents: Sequence[Document]) -> tuple[str, Any]:
        """("marks", one `Spans` per document), ("failed", what was raised), or ("problem", lines for the user).

        Raises:
            _Died: the process did, or it took too long.
        """
        try:
            if not self._greeted:
                self._send(self._start)
                kind, answer = self._receive()
                if kind == "problem":
                    return kind, answer
                self._greeted = True
            self._send([*documents])
            self.marked += sum(len(document.text) for document in documents)
            seconds = time_limit(documents, self._start[0].timeout)
            if not self._answers_within(seconds):
                raise _Died(f"the annotator took more than {seconds:,.0f} seconds (config.annotate.timeout)")
            return self._receive()
        except (OSError, EOFError, ValueError, pickle.UnpicklingError):  # ValueError: it was ended meanwhile
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_SECONDS_TO_DIE)
            self.end()
            raise _Died(f"the worker process died ({_status(self._process.returncode)})") from None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what could not be sent
                pipe.close()  # type: ignore[union-attr]  # both are pipes

    def _send(self, value: object) -> None:
        pickle.dump(value, self._process.stdin)  # type: ignore[arg-type]
        self._process.stdin.flush()  # type: ignore[union-attr]

    def _answers_within(self, seconds: float) -> bool:
        """Waits for the beginning of an answer, or for the end of the process."""
        answer = select.poll()
        answer.register(self._process.stdout, select.POLLIN)  # type: ignore[arg-type]
        return bool(answer.poll(min(seconds * 1000, _LONGEST_POLL)))

    def _receive(self) -> tuple[str, Any]:
        answer: tuple[str, Any] = pickle.load(self._process.stdout)  # type: ignore[arg-type]
        return answer


def _status(code: int) -> str:
    if code == -signal.SIGKILL:
        return "SIGKILL, most likely for want of memory"
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def mark_in_pool(
    documents: Iterable[Document], settings: AnnotateConfig, *, workers: int, further: Mapping[str, Any] = _NOTHING
) -> Iterator[tuple[Document, Marks]]:
    """Each document with its marks, in order. No more batches are read than `workers` processes need.

    further: what the annotator is given beside its settings.

    Raises:
        DataError: as `Pool.mark`.
    """
    pool = Pool(settings, size=workers, further=further)
    waiting: collections.deque[tuple[list[Document], Future[list[Marks]]]] = collections.deque()
    with ThreadPoolExecutor(workers) as threads:
        try:
            for batch in document_batches(documents):
                waiting.append((batch, threads.submit(pool.mark, batch)))
                if len(waiting) > 2 * workers:
                    done, future = waiting.popleft()
                    yield from zip(done, future.result(), strict=True)
            for done, future in waiting:
                yield from zip(done, future.result(), strict=True)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            pool.close()
