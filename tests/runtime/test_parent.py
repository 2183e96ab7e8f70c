"""Processes end when the one that started them is killed."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lacy_jax import doors
from lacy_jax.doors import TERMINATED, Door
from lacy_jax.runtime.parent import run_child
from tests.waiting import until


def lives(process: int) -> bool:
    """Whether it runs; one that ended and that nobody has asked for does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def started(tmp_path: Path, code: str, *arguments: object) -> "subprocess.Popen[str]":
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(code))
    command = [sys.executable, str(script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


MARKING = """
    from lacy_jax.config import AnnotateConfig
    from lacy_jax.data import pool
    from lacy_jax.data.documents import Document

    started = pool.Pool(AnnotateConfig(), size=2)
    text = Document("0", "", "Albert Einstein was born in Ulm. " * 20_000)  # a minute of work
    with pool.ThreadPoolExecutor(2) as threads:
        for _ in range(2):
            threads.submit(started.mark, [text])
        while len(started.process_ids()) < 2:
            pass
        print(*started.process_ids(), flush=True)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_that_mark_end_with_their_parent(tmp_path: Path, number: signal.Signals) -> None:
    parent = started(tmp_path, MARKING)
    assert parent.stdout is not None
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(workers) == 2
    assert all(map(lives, workers))
    parent.send_signal(number)
    assert parent.wait(60) == -number
    until(lambda: not any(map(lives, workers)))


CHILD = """
    import pathlib, signal, sys, time
    from lacy_jax.runtime.parent import end_with_parent

    def save(*_):
        pathlib.Path(sys.argv[1], "saved").touch()
        sys.exit(143)

    signal.signal(signal.SIGTERM, save)
    end_with_parent()
    pathlib.Path(sys.argv[1], "ready").touch()
    while True:
        time.sleep(0.05)
"""
PARENT = """
    import os, sys
    from lacy_jax.runtime.parent import run_child

    with open(os.devnull, "w") as nothing:
        run_child([sys.executable, *sys.argv[1:]], output=nothing, environment=os.environ)
"""


def test_a_run_of_a_study_is_told_to_save_when_the_study_is_killed(tmp_path: Path) -> None:
    child = tmp_path / "child.py"
    child.write_text(textwrap.dedent(CHILD))
    parent = started(tmp_path, PARENT, child, tmp_path)
    until((tmp_path / "ready").exists)
    assert not (tmp_path / "saved").exists()
    parent.kill()
    parent.wait(60)
    until((tmp_path / "saved").exists)


def test_a_command_gives_its_status_and_its_lines(tmp_path: Path) -> None:
    open_before = len(os.listdir("/dev/fd"))
    with open(tmp_path / "log.txt", "w") as log:
        command = [sys.executable, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"]
        assert run_child(command, output=log, environment=os.environ) == 3
    assert sorted((tmp_path / "log.txt").read_text().split()) == ["err", "out"]
    assert len(os.listdir("/dev/fd")) == open_before


def test_the_first_process_of_a_container_ends_at_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system ignores it there, unless the process has a handler: a cluster would wait, and then kill."""
    ended: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    door = Door("name", "", (), lambda _: signal.raise_signal(signal.SIGTERM) or 0)
    monkeypatch.setattr(doors.os, "getpid", lambda: 1)
    monkeypatch.setattr(doors.os, "_exit", ended.append)
    monkeypatch.setattr(doors.sys, "argv", ["name"])
    try:
        with pytest.raises(SystemExit):
            doors.run(door)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == [TERMINATED]
