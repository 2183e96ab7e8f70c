"""The processes that send a run's records, as the run sees them: started, looked at, ended."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from etils import epath

from lacy_jax.data.files import write_whole
from lacy_jax.folders import read_file
from lacy_jax.training.tracking.sender import END_SECONDS
from lacy_jax.training.tracking.trackers import Tracked

ID_FILE = "tracking_id"


def run_id(workdir: epath.Path) -> str:
    """The id of the run in a work folder, in all trackers: made at its first start."""
    path = workdir / ID_FILE
    found = (read_file(path) or b"").decode("utf-8", "replace").strip()
    if found.isalnum():
        return found[:32]
    made = uuid.uuid4().hex[:16]
    write_whole(path, made.encode())
    return made


class Senders:
    """One process for each tracker. Nothing that happens to them stops the run.

    command: what starts one, its last argument left out. limit: seconds that `close` waits, for all together.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        run: Tracked,
        path: Path,
        say: Callable[[str], None],
        command: Sequence[str] = (sys.executable, "-m", "lacy_jax.training.tracking.sender"),
        limit: float = END_SECONDS,
    ):
        self._say, self._limit = say, limit
        Path(run.folder).mkdir(parents=True, exist_ok=True)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in names:
            job = {"tracker": name, "path": str(path), "run": dataclasses.asdict(run)}
            with (Path(run.folder) / f"{name}.log").open("ab") as log:
                self._processes[name] = subprocess.Popen(
                    [*command, json.dumps(job)],
                    stdin=subprocess.PIPE,
                    stdout=sys.__stderr__ or subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the run, which ends them in good order
                )

    def close(self) -> None:
        """Lets each send the rest; what is not done within the limit is ended."""
        for process in self._processes.values():
            with contextlib.suppress(OSError):  # it has ended
                os.write(process.stdin.fileno(), b"ended")  # type: ignore[union-attr]
            process.stdin.close()  # type: ignore[union-attr]
        deadline = time.monotonic() + self._limit
        for name, process in self._processes.items():
            try:
                status = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                status = process.wait()
            if status:
                self._say(f"tracker {name}: not all was sent; the same command sends the rest of metrics.jsonl")
