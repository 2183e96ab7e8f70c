"""A work folder belongs to one run: who holds it, and what frees it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest

import lacy_jax
from lacy_jax import evaluate, main
from lacy_jax.config import Config
from lacy_jax.data.prepared import Prepared
from lacy_jax.doors import enter
from lacy_jax.errors import FolderError
from lacy_jax.runtime import claims, distributed
from lacy_jax.runtime.claims import LOCK_FILE, check_claim, claimed
from tests.s3 import emulated
from tests.test_doors import flags_of

HOLD = """
import os, sys
from lacy_jax.runtime.claims import claimed
with claimed(sys.argv[1]):
    if sys.argv[2:] == ["fork"] and not os.fork():
        os.write(1, b"%d\\n" % os.getpid())
        os.close(1)
        sys.stdin.read()
        os._exit(0)
    os.write(1, b"held\\n")
    sys.stdin.read()
"""


def hold(folder: Path, *words: str) -> subprocess.Popen[str]:
    """A process that holds `folder` until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_second_run_is_refused_and_told_which_is_the_first(tmp_path: Path) -> None:
    with hold(tmp_path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FolderError) as refused, claimed(str(tmp_path)):
            pass
        said = str(refused.value)
        assert f"process {other.pid} on {socket.gethostname()}, since 20" in said
        assert str(tmp_path) in said
        assert "\n" not in said
        other.communicate()
    with claimed(str(tmp_path)):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK_FILE).exists()


def test_the_doors_refuse_it_too(
    tmp_path: Path, small_config: Config, small_data: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    assert small_data
    with hold(tmp_path) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(FolderError, match=f"process {other.pid} on "):
            lacy_jax.train(small_config, workdir=str(tmp_path), say="nothing")
        assert enter(main.DOOR, flags_of(small_config, tmp_path)) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert re.match(f"error: {tmp_path}: another run works there .process {other.pid} on .* since .*; wait", line)
        study = ["--study=configs/study_biographies.py", f"--workdir={tmp_path}"]
        assert enter(evaluate.DOOR, study) == 2
        assert f"process {other.pid} on " in capsys.readouterr().err
        other.communicate()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_frees_it_though_its_children_live(tmp_path: Path) -> None:
    other = hold(tmp_path, "fork")
    assert other.stdin is not None
    assert other.stdout is not None
    lines = {other.stdout.readline(), other.stdout.readline()}
    child = int(next(line for line in lines if line != "held\n"))
    other.send_signal(signal.SIGKILL)
    other.wait()
    os.kill(child, 0)
    with claimed(str(tmp_path)):
        pass
    other.stdin.close()
    other.stdout.close()


def test_one_process_gets_it_once(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with claimed(str(tmp_path / "run")):
        with pytest.raises(FolderError, match=f"process {os.getpid()} "), claimed(str(tmp_path / "link")):
            pass
        with pytest.raises(FolderError), claimed(str(tmp_path / "run")):
            pass
    with claimed(str(tmp_path / "run")):
        check_claim(str(tmp_path / "run"))


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    with claimed(str(tmp_path / "new")):
        pass
    assert list(tmp_path.iterdir()) == []
    with claimed(str(tmp_path / "old")):
        (tmp_path / "old" / "a").touch()
    assert list(tmp_path.rglob("*")) == [tmp_path / "old", tmp_path / "old" / "a"]


def test_a_file_that_is_removed_while_it_is_opened_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened, original = tmp_path / LOCK_FILE, list[int](), os.open

    def late(name: Path, *flags: int) -> int:
        opened.append(original(name, *flags))
        if len(opened) == 1:
            path.unlink()  # as its holder does, between our opening and our locking
        return opened[-1]

    monkeypatch.setattr(os, "open", late)
    with claimed(str(tmp_path)):
        assert len(opened) == 2
        assert os.path.samestat(path.stat(), os.fstat(opened[1]))


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b'{"pid": 1}', b"\xff", b'{"pid": "x", "host": 1, "since": 2}'),
        *(b"[" * 4096, b'{"pid": Infinity, "host": 1, "since": 2}'),
    ],
)
def test_a_holder_that_cannot_be_read_is_still_one(content: bytes) -> None:
    assert claims._described(content) == "it does not say which"


def test_what_a_holder_says_stays_one_line() -> None:
    said = claims._described(json.dumps({"pid": 7, "host": "a\n\x1b[2Jb", "since": "now\r" * 99}).encode())
    assert said.isprintable()
    assert len(said) < 200


@pytest.fixture(scope="module", params=["gs", "s3"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    with emulated(request.param) as address:
        yield address


class Clock:
    """Time that goes by only where somebody sleeps; then something happens first."""

    def __init__(self, happens: Callable[[], object] = lambda: None):
        self.now, self._happens = 0.0, happens

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self._happens()
        self.now += seconds


def take(folder: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> tuple[claims._Lease, list[str]]:
    monkeypatch.setattr(claims, "time", clock)
    lease, said = claims._Lease(f"{folder}/{LOCK_FILE}"), list[str]()
    claims._take(lease, workdir=folder, say=said.append)
    return lease, said


def test_a_lease_that_is_renewed_is_refused(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first, said = take(f"{bucket}/renewed", Clock(), monkeypatch)
    assert not said
    clock = Clock(lambda: claims._renew(first))
    with pytest.raises(FolderError, match=f"another run works there .process {os.getpid()} on "):
        take(f"{bucket}/renewed", clock, monkeypatch)
    assert clock.now <= claims.BEAT_SECONDS
    assert not first.lost


def test_a_lease_that_is_not_is_taken_over_and_its_holder_knows(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = f"{bucket}/silent"
    first, _ = take(folder, Clock(), monkeypatch)
    clock = Clock()
    second, said = take(folder, clock, monkeypatch)
    assert claims.EXPIRY_SECONDS <= clock.now < claims.EXPIRY_SECONDS + claims.BEAT_SECONDS
    assert len(said) == 1
    monkeypatch.setitem(claims._held, folder, lambda: first.lost)
    check_claim(folder)
    claims._renew(first)
    claims._renew(second)
    with pytest.raises(FolderError, match="another run took the folder over"):
        check_claim(folder)
    first.release()  # of another by now: left alone
    assert second.read()[0] == second.version
    second.release()
    assert second.read() == ("", b"")


def test_a_lease_that_is_given_back_is_free_at_once(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = f"{bucket}/given_back"
    first, _ = take(folder, Clock(), monkeypatch)
    clock = Clock(first.release)
    take(folder, clock, monkeypatch)
    assert clock.now <= claims.BEAT_SECONDS


def test_of_two_who_wait_one_gets_it(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = f"{bucket}/two"
    take(folder, Clock(), monkeypatch)
    other = claims._Lease(f"{folder}/{LOCK_FILE}")

    def other_is_quicker() -> None:
        if clock.now + claims.BEAT_SECONDS / 4 >= claims.EXPIRY_SECONDS:
            other.write(other.read()[0])

    clock = Clock(other_is_quicker)
    with pytest.raises(FolderError):
        take(folder, clock, monkeypatch)
    assert other.read()[0] == other.version


def test_an_answer_that_got_lost_is_no_loss(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, _ = take(f"{bucket}/answer", Clock(), monkeypatch)
    lease.version = "1"  # as if the last write had been asked for twice
    claims._renew(lease)
    assert not lease.lost
    claims._renew(lease)
    assert not lease.lost


def test_the_block_holds_a_lease_and_gives_it_back(bucket: str) -> None:
    folder = f"{bucket}/block/"
    lease = claims._Lease(f"{bucket}/block/{LOCK_FILE}")
    with claimed(folder):
        assert json.loads(lease.read()[1])["host"] == socket.gethostname()
        check_claim(folder)
    assert lease.read() == ("", b"")


def test_the_doors_refuse_a_folder_in_a_bucket_too(
    bucket: str,
    small_config: Config,
    small_data: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert small_data
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)  # the second one looks until it has seen a beat
    folder = f"{bucket}/doors"
    words = [word for word in flags_of(small_config, Path("x")) if not word.startswith("--workdir")]
    with claimed(folder):
        assert enter(main.DOOR, [*words, f"--workdir={folder}"]) == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {folder}: another run works there (process {os.getpid()} on ")
        check_claim(folder)


class Heedless:
    """The object of a server that takes every write."""

    def __init__(self, _: str):
        self.written = 0

    def read(self) -> tuple[str, bytes]:
        return "", b""

    def write(self, _: bytes, *, over: str) -> str:
        assert isinstance(over, str)
        self.written += 1
        return str(self.written)

    def remove(self, version: str) -> None:
        assert version == str(self.written)


def test_a_server_that_heeds_no_conditions_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "conditional_object", Heedless)
    said: list[str] = []
    with claimed("s3://runs/heedless", say=said.append):
        pass
    (line,) = said
    assert line.startswith("s3://runs/heedless/.lock: the server heeds no conditions")


def test_several_processes_are_refused_in_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    refused = pytest.raises(FolderError, match=r"s3://a/b: a run of 2 processes cannot work in s3://")
    with refused, distributed.claimed_by_all("s3://a/b", say=print):
        pass
