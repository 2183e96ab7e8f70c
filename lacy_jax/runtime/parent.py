"""Processes that end when the one that started them does, even where that was killed. Imports no JAX."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO

VARIABLE = "LACY_JAX_PARENT"  # the read end of a pipe whose other end only the parent has


def worker_ends_with_parent() -> None:
    """To be called in a process of `multiprocessing`: without its parent it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        _when(lambda: multiprocessing.connection.wait([parent.sentinel]), then=lambda: os._exit(1))


def run_child(command: Sequence[str], *, output: IO[str], environment: Mapping[str, str]) -> int:
    """Runs one of our commands to its end; returns its status. If this process ends first, the command gets SIGTERM."""
    if os.name != "posix":
        return subprocess.run(command, stdout=output, stderr=output, env=environment).returncode
    theirs, ours = os.pipe()
    try:
        child = subprocess.Popen(
            command, stdout=output, stderr=output, env={**environment, VARIABLE: str(theirs)}, pass_fds=[theirs]
        )
        os.close(theirs)
        return child.wait()
    finally:
        os.close(ours)


def end_with_parent() -> None:
    """To be called where a command begins: it gets SIGTERM, on which a run saves, once its `run_child` is gone."""
    given = os.environ.pop(VARIABLE, "")
    if given.isdecimal():
        pipe = int(given)
        os.set_inheritable(pipe, False)
        _when(lambda: os.read(pipe, 1), then=lambda: os.kill(os.getpid(), signal.SIGTERM))


def _when(ended: Callable[[], object], *, then: Callable[[], None]) -> None:
    def wait() -> None:
        ended()
        then()

    threading.Thread(target=wait, name="parent", daemon=True).start()
