"""Data that is copied from gs:// and s3://, and what is refused before anything runs (test_buckets.py: runs there)."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import lacy_jax
from lacy_jax import folders
from lacy_jax.config import Config
from lacy_jax.data.check import data_problems
from lacy_jax.data.loader import batch_at
from lacy_jax.data.prepare import prepare
from lacy_jax.data.prepared import Prepared
from lacy_jax.doors import enter
from lacy_jax.errors import CheckpointError, StorageError
from lacy_jax.folders import local_copy
from lacy_jax.paths import absolute
from lacy_jax.start import training_problems
from tests.bucket_files import put
from tests.s3 import emulated, s3_settings

pytestmark = pytest.mark.slow  # a server that stands in for the cloud

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module", params=["gs", "s3"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    with emulated(request.param) as address:
        yield address


def test_a_path_in_a_bucket_stays_one() -> None:
    assert str(absolute("gs://a/b").parent / "c") == "gs://a/c"
    assert str(absolute("s3://a/b")) == "s3://a/b"
    assert str(absolute("a")) == f"{Path.cwd()}/a"


def test_prepared_data_is_copied_once(
    bucket: str, small_config: Config, small_data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LACY_CACHE", str(tmp_path))
    there = f"{bucket}/data/packed/small-1/1.0.0"
    put(small_data.packed.directory, to=there)
    config = Config(**{**vars(small_config), "data": {**vars(small_config.data), "packed": there}})
    assert list(data_problems(config)) == []
    said: list[tuple[str, int, int | None]] = []
    found = prepare(config, progress=lambda *each: said.append(each))
    assert found.fingerprint == small_data.fingerprint
    for split in ("train", "validation"):
        own, copied = getattr(small_data, split), getattr(found, split)
        assert len(own) == len(copied)
        assert all(np.array_equal(own[k]["tokens"], copied[k]["tokens"]) for k in range(len(own)))
    size = sum(path.stat().st_size for path in small_data.packed.directory.rglob("*") if path.is_file())
    assert said[-1] == ("copy data", size, size)
    said.clear()
    prepare(config, progress=lambda *each: said.append(each))
    assert not said

    missing = Config(**{**vars(small_config), "data": {**vars(small_config.data), "packed": f"{bucket}/data/none"}})
    assert list(data_problems(missing)) == [f"config.data.packed: there is no folder {bucket}/data/none"]
    mixture = {**vars(small_config.data), "mixture": f"here:1:{there},none:1:{bucket}/data/none"}
    assert list(data_problems(Config(**{**vars(small_config), "data": mixture}))) == [
        f"config.data.mixture: none: there is no folder {bucket}/data/none"
    ]
    mixed = prepare(Config(**{**vars(small_config), "data": {**mixture, "mixture": f"here:1:{there}"}}))
    batches = [batch_at(source, 3, batch_size=8, seed=0) for source in (mixed.train, small_data.train)]
    assert batches[0].tokens.tolist() == batches[1].tokens.tolist()


def test_a_copy_that_was_cut_off_is_gone_on_with(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LACY_CACHE", str(tmp_path))
    for name in ("a", "b/c"):
        (absolute(f"{bucket}/copy/x") / name).write_text(name)
    (absolute(f"{bucket}/copy/x") / "0").write_text("0")
    fetched, original = list[str](), folders._fetch

    def fetch(files: Any, source: str, *, into: Path) -> int:
        if source.endswith("c") and "again" not in fetched:
            raise OSError(28, "No space left on device")
        fetched.append(source)
        return original(files, source, into=into)

    monkeypatch.setattr(folders, "_fetch", fetch)
    monkeypatch.setattr(folders, "_COPIES", 1)
    with pytest.raises(StorageError, match=r"cannot be copied to .* No space left on device"):
        local_copy(f"{bucket}/copy/x")
    assert fetched == ["runs/copy/x/0", "runs/copy/x/a"]
    fetched.append("again")
    copy = local_copy(f"{bucket}/copy/x/")
    assert fetched == ["runs/copy/x/0", "runs/copy/x/a", "again", "runs/copy/x/b/c"]
    assert (copy / "b" / "c").read_text() == "b/c"
    (absolute(f"{bucket}/copy/x") / "a").write_text("other")
    assert (local_copy(f"{bucket}/copy/x") / "a").read_text() == "other"


def test_an_object_cannot_leave_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Bucket:
        def find(self, root: str, **_: bool) -> dict[str, Any]:
            return {f"{root}/../../../out": {"size": 3}}

    monkeypatch.setenv("LACY_CACHE", str(tmp_path))
    monkeypatch.setattr(fsspec, "url_to_fs", lambda _: (Bucket(), "bad/x"))
    with pytest.raises(StorageError, match=r"has \.\. in it"):
        local_copy("gs://bad/x")
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("there", ["none", ""])
def test_a_bucket_that_is_not_there_is_named_before_anything_runs(
    bucket: str, there: str, small_config: Config
) -> None:
    missing = bucket.replace("runs", there)
    (line,) = training_problems(small_config, workdir=f"{missing}/run")
    assert line == f"--workdir={missing}/run: there is no bucket {missing}"


def test_a_server_that_does_not_answer_is_no_missing_bucket() -> None:
    """In a process of its own, since fsspec keeps its clients."""
    code = "from lacy_jax.folders import unwritable; print(unwritable('s3://a/run', buckets='allowed'))"
    nobody = {**s3_settings("http://127.0.0.1:9"), "AWS_MAX_ATTEMPTS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **nobody}, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("cannot write s3://a (EndpointConnectionError: ")


def test_a_bucket_of_another_kind_is_refused(small_config: Config) -> None:
    (line,) = training_problems(small_config, workdir="az://a/run")
    assert line == "--workdir=az://a/run: az:// is not known; buckets are gs://... and s3://..."


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, small_config: Config) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("gcsfs", "s3fs") else find(name))
    (line,) = training_problems(small_config, workdir="gs://a/run")
    assert line == '--workdir=gs://a/run: gs:// needs the package gcsfs: pip install "lacy_jax[gs]"'
    for scheme, package in folders.PACKAGES.items():
        with pytest.raises(CheckpointError, match=f'needs the package {package}: pip install "lacy_jax.{scheme}."'):
            lacy_jax.load(f"{scheme}://a/run")


DISK_ONLY = {
    "--config.data.directory": ("prepare", "--config=configs/slm_tiny.py", "--config.data.directory=gs://runs/d"),
    "--out": ("evaluate", "--suite=real_text", "--checkpoint=gs://runs/r"),
    "--workdir": ("evaluate", "--study=configs/study_biographies.py", "--workdir=gs://runs/s"),
    "--judge": ("acceptability", "--checkpoint=x", "--judge=http://localhost:1/v1#m", "--out=gs://runs/o"),
}


@pytest.mark.parametrize("flag", DISK_ONLY)
def test_what_needs_a_disk_says_so(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    name, *words = DISK_ONLY[flag]
    assert enter(importlib.import_module(f"lacy_jax.{name}").DOOR, words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "must be a folder on a disk of this machine" in line
    assert not Path("gs:").exists()
    assert not Path("s3:").exists()
