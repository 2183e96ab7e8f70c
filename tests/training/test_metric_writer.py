"""metrics.jsonl: only appended to, cut where a run goes on, whole after a kill or a full disk."""

import errno
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from lacy_jax.data.files import read_json_log
from lacy_jax.errors import StorageError
from lacy_jax.paths import absolute
from lacy_jax.training.metrics import METRICS_FILE, MetricWriter, read_metrics


def write(folder: Path, *steps: int, resume_step: int) -> None:
    writer = MetricWriter(str(folder), resume_step=resume_step)
    for step in steps:
        writer.write({"loss": float(step), "seconds": 2.0 * step}, step=step, split="train")
    writer.close()


def test_a_run_that_goes_on_changes_no_byte_of_what_is_there(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, resume_step=0)
    path = tmp_path / METRICS_FILE
    before, inode = path.read_bytes(), path.stat().st_ino
    assert MetricWriter(str(tmp_path), resume_step=3).seconds_before == 6.0
    assert (path.read_bytes(), path.stat().st_ino) == (before, inode)
    write(tmp_path, 4, resume_step=3)
    assert path.read_bytes().startswith(before)
    assert path.stat().st_ino == inode


def test_steps_that_are_repeated_and_a_line_that_was_cut_off_go(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, resume_step=0)
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 4, "los')
    write(tmp_path, 3, resume_step=2)
    assert [record["step"] for record in read_metrics(str(tmp_path))] == [1, 2, 3]
    assert len((tmp_path / METRICS_FILE).read_text().splitlines()) == 3


@pytest.mark.parametrize("call", ["open", "write", "rename"])
def test_a_kill_while_it_is_cut_loses_nothing(tmp_path: Path, call: str) -> None:
    """At each thing that the file system is asked for, the process that resumes is killed."""
    steps = range(1, 50)
    write(tmp_path, *steps, resume_step=0)
    code = f"""
import os, signal, sys
from pathlib import Path
from lacy_jax.training.metrics import MetricWriter

def kill(name, arguments):
    asked = {{"open": ("open",), "write": ("os.truncate",), "rename": ("os.rename",)}}[{call!r}]
    writes = name != "open" or (arguments[1] or "r")[0] != "r"
    if name in asked and writes and {str(tmp_path)!r} in str(arguments[0]):
        os.kill(os.getpid(), signal.SIGKILL)

if {call!r} == "write":
    original = Path.write_bytes
    def write_bytes(self, content):
        original(self, content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    Path.write_bytes = write_bytes
sys.addaudithook(kill)
MetricWriter({str(tmp_path)!r}, resume_step=40)
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [record["step"] for record in read_metrics(str(tmp_path))] == list(steps)
    write(tmp_path, 41, resume_step=40)
    assert [record["step"] for record in read_metrics(str(tmp_path))] == list(range(1, 42))


def test_a_disk_that_is_full_ends_in_one_line_and_loses_nothing(tmp_path: Path) -> None:
    """Files of this process may not grow beyond a size: what a full disk is to a program."""
    writer = MetricWriter(str(tmp_path), resume_step=0)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    written: list[int] = []

    def write_on() -> None:
        for step in itertools.count(1):
            writer.write({"loss": 1.0}, step=step, split="train")
            written.append(step)

    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limit[1]))
        with pytest.raises(StorageError, match=r"metrics.jsonl cannot be written .File too large."):
            write_on()
        writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert len(written) > 10
    found = [record["step"] for record in read_metrics(str(tmp_path))]
    assert found[: len(written)] == written
    write(tmp_path, written[-1], resume_step=written[-2])
    assert [record["step"] for record in read_metrics(str(tmp_path))] == written


def test_tensorboard_has_the_same_numbers_and_forgets_repeated_steps(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, resume_step=0)
    (path,) = (tmp_path / "tensorboard").iterdir()
    found = list(events(path.read_bytes()))
    assert [(e.step, [(v.tag, v.simple_value) for v in e.summary.value]) for e in found[3:]] == [
        (step, [("train/loss", step), ("train/seconds", 2 * step)]) for step in (1, 2, 3)
    ]
    assert [(event.step, event.session_log.status) for event in found[2:3]] == [(1, 1)]


def events(content: bytes) -> list[Event]:
    """Of a file of TFRecords: length, its checksum, the record, its checksum."""
    found, start = [], 0
    while start < len(content):
        length = int.from_bytes(content[start : start + 8], "little")
        found.append(Event.FromString(content[start + 12 : start + 12 + length]))
        start += length + 16
    return found


def test_lines_are_strict_json(tmp_path: Path) -> None:
    writer = MetricWriter(str(tmp_path), resume_step=0)
    writer.write({"loss": float("nan")}, step=1, split="train")
    writer.close()
    line = (tmp_path / METRICS_FILE).read_text()
    assert json.loads(line, parse_constant=pytest.fail)["loss"] is None
    assert read_json_log(tmp_path / METRICS_FILE) == [{"step": 1, "split": "train", "loss": None}]
    assert os.listdir(tmp_path / "tensorboard")


def test_a_log_that_cannot_be_read_is_not_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = MetricWriter(str(tmp_path), resume_step=0)
    writer.write({"loss": 1.0}, step=1, split="train")
    writer.close()
    content = writer.path.read_bytes()

    def fails(_: object) -> bytes:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr(type(absolute(tmp_path)), "exists", lambda _: False)  # what it says where `stat` fails
        patch.setattr(type(absolute(tmp_path)), "read_bytes", fails)
        with pytest.raises(StorageError, match=r"metrics\.jsonl cannot be read .*Stale"):
            MetricWriter(str(tmp_path), resume_step=1)
    assert writer.path.read_bytes() == content
