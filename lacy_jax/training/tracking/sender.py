"""The process that sends a run's records to one tracker: it follows metrics.jsonl, and sends what the tracker lacks.

    python -m lacy_jax.training.tracking.sender '{"tracker": ..., "path": ..., "run": {...}}'

The file is the queue. So a tracker that is down or slow loses nothing and keeps nobody waiting, and a run that goes on
sends no step twice. The process ends when its input does: after a word, the run has ended; without one, it was killed.
"""

import itertools
import json
import math
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import filelock

from lacy_jax.training.tracking.trackers import Outcome, Tracked, Tracker, open_tracker

POLL_SECONDS = 2.0  # between two looks at the file
RETRY_SECONDS = 60.0  # after a failure
END_SECONDS = 60  # for the rest, once the run has ended

Wait = Callable[[float], Literal["running"] | Outcome]


class Tail:
    """The steps of a metrics.jsonl that grows, each with the numbers of all of its records."""

    def __init__(self, path: Path):
        self._path, self._offset = path, 0
        self._waiting: list[dict[str, Any]] = []  # of the last step, which may get more

    def steps(self, *, last: Literal["sent", "kept"]) -> Iterator[tuple[int, dict[str, float]]]:
        """What is new. last: whether the last step is given, too, or kept until a later one is there."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content, _, _ = file.read().rpartition(b"\n")
        self._offset += len(content) + bool(content)
        rows = [*self._waiting, *map(json.loads, content.splitlines())]
        newest = rows[-1]["step"] if rows and last == "kept" else None
        self._waiting = [row for row in rows if row["step"] == newest]
        whole = [row for row in rows if row["step"] != newest]
        for step, of_step in itertools.groupby(whole, key=lambda row: int(row["step"])):
            yield step, numbers(list(of_step))


def numbers(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The finite numbers of the records of one step, as `<split>/<name>`."""
    return {
        f"{record['split']}/{name}": value
        for record in records
        for name, value in record.items()
        if name != "step" and type(value) in (int, float) and math.isfinite(value)
    }


def follow(opened: Callable[[], Tracker], path: Path, *, wait: Wait, warn: Callable[[str], None]) -> int:
    """Sends until the run ends; 0 if the tracker then has everything. Warns once, however often the tracker fails."""
    tracker: Tracker | None = None
    tail, said, pause = Tail(path), False, 0.0
    while True:
        state = wait(pause)
        pause = POLL_SECONDS
        try:
            if tracker is None:
                tracker, tail = opened(), Tail(path)
            for step, found in tail.steps(last="sent" if state == "ended" else "kept"):
                if step > tracker.last:
                    tracker.send(step, found)
                    tracker.last = step
            if state != "running":
                tracker.close(state)
                return 0
        except Exception as error:  # whatever a tracker's package raises
            tracker, pause = None, RETRY_SECONDS
            if not said:
                warn(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
                said = True
            if state != "running":
                return 1


def _wait(seconds: float) -> Literal["running"] | Outcome:
    if not select.select([0], [], [], seconds)[0]:
        return "running"
    signal.alarm(END_SECONDS)  # also where nobody waits for this process
    return "ended" if os.read(0, 16) else "killed"


def _alone(run: Tracked, name: str) -> filelock.BaseFileLock:
    """Held by the one process that sends this run to this tracker. That of a killed start may still be at its end."""
    lock = filelock.FileLock(Path(run.folder) / f"{name}.lock")
    try:
        return lock.acquire(timeout=0).lock
    except filelock.Timeout:
        print("waiting for the process of an earlier start", file=sys.stderr, flush=True)
        return lock.acquire().lock


def main() -> int:
    job = json.loads(sys.argv[1])
    name, run = job["tracker"], Tracked(**job["run"])
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # what packages print goes to the log

        def warn(error: str) -> None:
            print(
                f"tracker {name}: {error}; the run goes on, metrics.jsonl has everything, and it is sent when {name} "
                "answers",
                file=out,
                flush=True,
            )

        with _alone(run, name):
            return follow(lambda: open_tracker(name, run), Path(job["path"]), wait=_wait, warn=warn)


if __name__ == "__main__":
    sys.exit(main())
