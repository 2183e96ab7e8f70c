"""Disks that are full, folders that cannot be written: one line, before the work or in its middle, and nothing is lost.

A limit on the size of files stands for a full disk: the system refuses the same calls, with another number.
"""

import contextlib
import dataclasses
import errno
import importlib
import resource
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lacy_jax
from lacy_jax.checkpoints.format import newest_steps
from lacy_jax.config import Config
from lacy_jax.console import Reporter
from lacy_jax.data.prepare import prepare
from lacy_jax.data.prepared import Prepared
from lacy_jax.doors import Door, enter
from lacy_jax.errors import LacyError, StorageError
from lacy_jax.flags import Given
from lacy_jax.folders import of_storage, unwritable, writing
from lacy_jax.paths import absolute
from lacy_jax.start import preparing_problems, training_problems
from lacy_jax.training.loop import train
from lacy_jax.training.metrics import read_metrics
from tests.test_buckets import assert_same_model, records
from tests.test_doors import flags_of


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_folders_are_tried_before_the_work(
    tmp_path: Path, small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    assert unwritable(str(tmp_path)) == unwritable(str(tmp_path / "a" / "b")) == ""
    assert not (tmp_path / "a").exists()
    assert unwritable(str(tmp_path / "file" / "b")) == f"{tmp_path}/file is a file, not a folder"
    assert unwritable("/proc/run").startswith("cannot write to /proc (")
    with files_of_at_most(1000):
        assert unwritable(str(tmp_path)) == f"cannot write to {tmp_path} (File too large)"

    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    config = dataclasses.replace(small_config, data=dataclasses.replace(small_config.data, directory=str(tmp_path)))
    said = f"{tmp_path}: cannot write to {tmp_path} (Read-only file system)"
    assert list(preparing_problems(config)) == [f"config.data.directory={said}"]
    assert f"--workdir={said}" in list(training_problems(config, workdir=str(tmp_path)))
    with pytest.raises(LacyError, match="cannot write to"):
        lacy_jax.export("nowhere", out=str(tmp_path / "out"))


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    RuntimeError("write() failed: No space left on device; writing a.array_record"),  # ArrayRecord
    ValueError('Error writing "a/0" in OCDBT: Failed to write 9 bytes: Disk quota exceeded'),  # TensorStore
    ValueError("Error writing gs://a/b: PERMISSION_DENIED"),
]
OTHER = [OSError(errno.ENOENT, "No such file or directory"), ValueError("shapes differ"), KeyError("a")]


@pytest.mark.parametrize("error", FULL, ids=repr)
def test_what_libraries_raise_of_a_full_disk_is_one_line(error: Exception) -> None:
    with pytest.raises(StorageError) as found, writing("a checkpoint", kept=lambda: "; step 3 is whole"):
        raise error
    assert str(found.value) == f"a checkpoint cannot be written ({error}); step 3 is whole"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        # As TensorStore, ArrayRecord, SQLite and s3fs say them.
        (ValueError("UNKNOWN: Error reading local file: Input/output error [os_error_code='5']"), True),
        (ValueError("FAILED_PRECONDITION: Transport endpoint is not connected"), True),
        (RuntimeError("ABORTED: pread() failed: Stale file handle; reading a.array_record"), True),
        (RuntimeError("UNAVAILABLE: pread() failed: Connection timed out"), True),
        (sqlite3.OperationalError("disk I/O error"), True),
        (OSError(errno.EBUSY, "SlowDown"), True),
        (ConnectionResetError("reset by peer"), True),
        (TimeoutError(), True),
        (ValueError("DATA_LOSS: Error decoding chunk of gs://bucket/run/checkpoints/6"), False),
        (RuntimeError("INVALID_ARGUMENT: hash mismatch in chunk; reading a quotation"), False),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), False),
        (sqlite3.DatabaseError("file is not a database"), False),
    ],
    ids=range(12),
)
def test_what_says_nothing_of_a_file_s_content(error: Exception, expected: bool) -> None:
    assert of_storage(error) == expected


@pytest.mark.parametrize("error", OTHER, ids=repr)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as found, writing("a checkpoint"):
        raise error
    assert found.value is error


@pytest.mark.parametrize("name", [None, "x.bin"])
def test_a_door_has_a_status_for_it(name: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    def full(_given: Given) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", name)

    assert enter(Door("fill", "about", (), full), []) == 4
    where = f" {name}" if name else ""
    assert capsys.readouterr().err == f"fill: cannot write or read{where}: No space left on device\n"


@pytest.mark.parametrize(("end", "said"), [("", "Is a directory"), ("/file/below", "Not a directory")])
def test_a_folder_in_place_of_a_file_is_one_line(
    tmp_path: Path, end: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()

    def write(_: Given) -> int:
        (tmp_path / end.lstrip("/")).write_text("x")
        return 0

    assert enter(Door("write", "", (), write), []) == 2
    assert capsys.readouterr().err == f"write: cannot write or read {tmp_path}{end}: {said}\n"


def test_a_disk_without_room_for_a_checkpoint_is_found_before_the_first_step(
    small_config: Config, small_data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=200_000))
    with pytest.raises(StorageError, match=r"a checkpoint of this run takes 0\.\d MB, and 0\.2 MB are free: make room"):
        train(small_config, prepared=small_data, workdir=str(tmp_path), reporter=Reporter())
    assert read_metrics(str(tmp_path)) == []


class FullFrom(Reporter):
    """From the progress of step 5 on, when `saved` is there, no file of the process may grow beyond `size` bytes."""

    def __init__(self, stack: contextlib.ExitStack, *, saved: Path, size: int):
        super().__init__()
        self._stack, self._saved, self._size = stack, saved, size

    def update(self, stage: str, done: int, *_: object) -> None:
        if stage.startswith("train") and done == 5:
            while not self._saved.exists():
                time.sleep(0.01)
            self._stack.enter_context(files_of_at_most(self._size))


@pytest.mark.parametrize(
    ("size", "said"), [(40_000, "a checkpoint cannot be written"), (1000, r"metrics\.jsonl cannot be written")]
)
def test_a_disk_that_fills_up_in_a_run_costs_no_checkpoint(
    size: int, said: str, small_config: Config, small_data: Prepared, small_run: Path, tmp_path: Path
) -> None:
    # The embedding alone takes 60 kB, the log and TensorBoard's file less than 20; how arrays share files is chance.
    with contextlib.ExitStack() as stack:
        reporter = FullFrom(stack, saved=tmp_path / "checkpoints" / "3", size=size)
        with pytest.raises(StorageError, match=said):
            train(small_config, prepared=small_data, workdir=str(tmp_path), reporter=reporter)
    _, whole = newest_steps(absolute(tmp_path / "checkpoints"))
    assert whole is not None
    assert whole.name == "3"
    assert len(read_metrics(str(tmp_path))) >= 4
    # TensorStore may still be writing to the save that failed; another process would go on in the folder itself.
    left = shutil.copytree(tmp_path, tmp_path / "left", ignore=shutil.ignore_patterns("*-tmp", "left"))
    train(small_config, prepared=small_data, workdir=str(left), reporter=Reporter())
    assert records(left) == records(small_run)
    assert_same_model(left, small_run)


def test_a_disk_that_fills_up_while_preparing(
    small_config: Config, small_data: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = dataclasses.replace(small_config.data, directory=str(tmp_path))
    config = dataclasses.replace(small_config, data=there)
    words: list[Any] = [word for word in flags_of(config, tmp_path) if not word.startswith("--workdir")]
    with files_of_at_most(70_000):
        assert enter(importlib.import_module("lacy_jax.prepare").DOOR, words) == 4
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {tmp_path}/")
    assert "cannot be written (" in line
    assert not list(tmp_path.glob("packed/*/1.0.0"))
    found = prepare(config)
    assert found.fingerprint == small_data.fingerprint
    assert len(found.train) == len(small_data.train)
