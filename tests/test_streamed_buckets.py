"""A block shuffle of data in gs:// and s3://, against emulators over HTTP: the runs and batches of a disk."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import lacy_jax
from lacy_jax.config import Config
from lacy_jax.console import Reporter
from lacy_jax.data import shards
from lacy_jax.data.check import data_problems
from lacy_jax.data.loader import batch_at
from lacy_jax.data.origin import batch_texts
from lacy_jax.data.prepare import prepare
from lacy_jax.errors import StorageError
from lacy_jax.folders import bucket_files
from lacy_jax.training.loop import train
from tests.bucket_files import put
from tests.s3 import emulated

pytestmark = pytest.mark.slow  # a server that stands in for the cloud


@pytest.fixture(scope="module", params=["gs", "s3"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    with emulated(request.param) as address:
        yield address


def with_data(config: Config, **changes: Any) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def parameters(workdir: Path) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(lacy_jax.load(str(workdir)).params)]


def test_a_run_reads_what_it_would_read_on_a_disk(
    bucket: str, small_shards: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LACY_CACHE", str(tmp_path / "cache"))
    here, address = prepare(small_shards), f"{bucket}/data/packed/small-2/1.0.0"
    put(here.packed.directory, to=address)
    config = with_data(small_shards, packed=f"{address}/")
    assert list(data_problems(config)) == []
    there = prepare(config)
    assert there.fingerprint == here.fingerprint
    assert not [path for path in tmp_path.rglob("*") if "train" in path.name]
    for step in (0, 37, 200):
        batches = [batch_at(each.train, step, batch_size=8, seed=0) for each in (here, there)]
        assert np.array_equal(batches[0].tokens, batches[1].tokens)
    assert batch_texts(there, 3, config.data) == batch_texts(here, 3, config.data)

    mixed = prepare(with_data(small_shards, mixture=f"one:3:{address}"))
    assert np.array_equal(batch_at(mixed.train, 200, batch_size=8, seed=0).tokens, batches[0].tokens)

    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    train(small_shards, prepared=here, workdir=str(straight), reporter=Reporter(quiet=True))
    shutil.copytree(straight, resumed)
    shutil.rmtree(resumed / "checkpoints" / "6")
    monkeypatch.setattr(shards, "_PAUSES", (0.0, 0.0))
    files, root = bucket_files(address)
    lost = {name: files.cat_file(name) for name in files.find(root) if "train" in name}
    files.rm(list(lost))
    with pytest.raises(StorageError, match=rf"{address}/packed-train.* cannot be read .*; tried 3 times"):
        train(config, prepared=prepare(config), workdir=str(resumed), reporter=Reporter(quiet=True))
    for name, content in lost.items():
        files.pipe_file(name, content)
    assert train(config, prepared=there, workdir=str(resumed), reporter=Reporter(quiet=True)).step == 6
    assert parameters(resumed) == parameters(straight)
