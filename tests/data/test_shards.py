"""A block shuffle of data that lies elsewhere: the batches of a disk, shards fetched in time, little kept here.

The bucket is a folder that is opened by `open_bytes`; tests/test_bucket_folders.py has servers that stand in for one.
"""

import contextlib
import itertools
import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lacy_jax.config import Config
from lacy_jax.data import shards
from lacy_jax.data.loader import batch_at, prefetch
from lacy_jax.data.order import BlockOrder, Blocks
from lacy_jax.data.pack import TRAIN_SHARDS, Packed, open_packed
from lacy_jax.data.prepare import prepare
from lacy_jax.data.shards import FetchedRecords
from lacy_jax.errors import DataError, StorageError
from tests.waiting import until

OPTIONS: dict[str, Any] = {"batch_size": 6, "seed": 1}


@pytest.fixture
def sharded(small_shards: Config) -> Path:
    return prepare(small_shards).packed.directory


class Bucket:
    """A folder in place of a bucket. Whoever asks for more than `passes` shards waits for the gate.

    fetched: names, in the order in which they were asked for. most_at_once: how many were.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.fetched, self.failures, self.passes = folder, list[str](), 0, 10**6
        self.pools = list[ThreadPoolExecutor]()
        self.open, self.most_at_once, self.lock, self.gate = 0, 0, threading.Lock(), threading.Event()

    @contextlib.contextmanager
    def open_bytes(self, path: str) -> Iterator[Any]:
        with self.lock:
            self.fetched.append(path)
            self.failures -= 1
            fails, waits = self.failures >= 0, len(self.fetched) > self.passes
            self.open += 1
            self.most_at_once = max(self.most_at_once, self.open)
        try:
            assert not waits or self.gate.wait(60)
            if fails:
                raise StorageError(f"{path} cannot be read (ClientError: no\nroute)")
            with open(self.folder / path.removeprefix("gs://b/data/"), "rb") as file:
                yield file
        finally:
            with self.lock:
                self.open -= 1


@pytest.fixture
def bucket(sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    found = Bucket(tmp_path / "bucket")

    def pool(*args: Any, **options: Any) -> ThreadPoolExecutor:
        found.pools.append(ThreadPoolExecutor(*args, **options))
        return found.pools[-1]

    shutil.copytree(sharded, found.folder)
    monkeypatch.setattr(shards, "open_bytes", found.open_bytes)
    monkeypatch.setattr(shards, "ThreadPoolExecutor", pool)
    monkeypatch.setattr(shards, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setenv("LACY_CACHE", str(tmp_path / "cache"))
    yield found
    for each in found.pools:  # what they fetch ahead they fetch from here
        each.shutdown(cancel_futures=True)


def opened(bucket: Bucket, *, tmp_path: Path) -> Packed:
    """The dataset with a copy here of all but its training shards."""
    here = tmp_path / "here"
    shutil.copytree(bucket.folder, here, ignore=shutil.ignore_patterns(f"{TRAIN_SHARDS}*"), dirs_exist_ok=True)
    return open_packed(here, shuffle="block", shards="gs://b/data")


def read_batches(source: Any, steps: int) -> None:
    with contextlib.closing(prefetch(source, 0, **OPTIONS)) as batches:  # type: ignore[type-var]
        for _ in itertools.islice(batches, steps):
            pass


@pytest.mark.parametrize("rows", [range(6), range(3), range(3, 6)], ids=str)
def test_batches_are_those_of_a_disk_and_a_host_fetches_the_shards_of_its_lanes(
    rows: range, bucket: Bucket, sharded: Path, tmp_path: Path
) -> None:
    here, full = open_packed(sharded, shuffle="block").train, open_packed(sharded).train
    there = opened(bucket, tmp_path=tmp_path).train
    assert isinstance(here, Blocks)
    assert len(here.sizes) > 12
    assert len(there) == sum(here.sizes) == len(here) == len(full)
    order = BlockOrder(here.sizes, **OPTIONS)  # 6 lanes, a row each
    reading, now, following = prefetch(there, 0, rows=rows, **OPTIONS), set[int](), set[int]()
    visits = set[tuple[int, int]]()
    for step in range(len(here) // 6):
        own, whole = next(reading), batch_at(here, step, **OPTIONS)
        assert np.array_equal(own.tokens, whole.tokens[np.array(rows)])
        assert np.array_equal(own.factual, whole.factual[np.array(rows)])
        for lane, (*each, last) in order.shards([6 * step + row for row in rows]).items():
            now.update(each)
            following.add(last)
            visits |= {(lane, shard) for shard in (*each, last)}
    reading.close()
    fetched = [int(name.split("-")[-3]) for name in bucket.fetched]
    assert now <= set(fetched) <= now | following
    assert len(fetched) <= len(visits)
    if len(rows) == 3:
        assert len(now) < len(here.sizes) / 2 + 4
    resumed = next(prefetch(opened(bucket, tmp_path=tmp_path).train, 31, **OPTIONS))
    assert np.array_equal(resumed.tokens, batch_at(here, 31, **OPTIONS).tokens)
    assert not np.array_equal(resumed.tokens, batch_at(full, 31, **OPTIONS).tokens)


def held(tmp_path: Path) -> int:
    """How many files without a name this process has open."""
    links = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.add(os.readlink(each))
    return sum(link.startswith(f"{tmp_path}/cache/shards/") and link.endswith("(deleted)") for link in links)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts the files that are open, in Linux' /proc")
def test_the_disk_holds_two_shards_for_each_lane(bucket: Bucket, tmp_path: Path) -> None:
    source, most = opened(bucket, tmp_path=tmp_path).train, 0
    for step in range(2 * len(source) // 6):
        batch_at(source, step, **OPTIONS)
        most = max(most, held(tmp_path))
    assert 6 <= most <= 2 * 6
    assert list((tmp_path / "cache" / "shards").iterdir()) == []
    del source
    assert held(tmp_path) == 0


def test_the_next_shards_are_fetched_ahead_one_at_a_time(bucket: Bucket, tmp_path: Path) -> None:
    source = opened(bucket, tmp_path=tmp_path).train
    first, following = zip(*BlockOrder(source.sizes, **OPTIONS).shards(range(6)).values(), strict=True)
    bucket.passes = 6
    batch_at(source, 0, **OPTIONS)
    bucket.most_at_once = 0
    for _ in range(6):
        batch_at(source, 0, **OPTIONS)
    until(lambda: len(bucket.fetched) > 6)
    bucket.gate.set()

    def fetched() -> bool:
        batch_at(source, 0, **OPTIONS)
        return len(bucket.fetched) == 12

    until(fetched)
    assert bucket.most_at_once == 1
    numbers = [int(name.split("-")[-3]) for name in bucket.fetched]
    assert set(numbers[:6]) == set(first)
    assert numbers[6:] == list(following)
    batch_at(source, min(source.sizes), **OPTIONS)  # of the second visits
    assert len(set(bucket.fetched)) == len(bucket.fetched)


def test_a_window_is_read_outside_the_order(bucket: Bucket, sharded: Path, tmp_path: Path) -> None:
    here, there = open_packed(sharded).train, opened(bucket, tmp_path=tmp_path).train
    for index in [*range(45), len(here) - 1, 0]:
        assert np.array_equal(there[index]["tokens"], here[index]["tokens"])
    assert len(bucket.fetched) == 4


def test_a_bucket_that_is_out_of_reach_is_asked_again(bucket: Bucket, tmp_path: Path) -> None:
    source, bucket.failures = opened(bucket, tmp_path=tmp_path).train, 2
    batch_at(source, 0, **OPTIONS)
    assert bucket.failures < 0
    bucket.failures = 10**6
    with pytest.raises(StorageError) as caught:
        read_batches(source, len(source) // 6)
    assert "\n" not in str(caught.value)
    assert "cannot be read (ClientError: no route); tried 4 times" in str(caught.value)
    bucket.failures = 0
    read_batches(source, len(source) // 6)  # nothing is remembered of it


def test_a_program_that_ends_does_not_wait_for_shards_that_are_not_begun(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, fetch = FetchedRecords._begin, FetchedRecords._fetch
    begun, waited_for = set[int](), threading.Event()

    def begin_and_wait(self: FetchedRecords, shard: int) -> Any:
        found = begin(self, shard)
        if shard in begun:  # by `hold`; now a window of it is asked for
            waited_for.set()
        begun.add(shard)
        return found

    def fetch_what_is_waited_for(self: FetchedRecords, shard: int) -> Any:
        assert waited_for.wait(60)  # one that has failed before would be fetched again, after the others
        return fetch(self, shard)

    monkeypatch.setattr(FetchedRecords, "_begin", begin_and_wait)
    monkeypatch.setattr(FetchedRecords, "_fetch", fetch_what_is_waited_for)
    monkeypatch.setattr(shards, "_FETCHES", 1)
    source = opened(bucket, tmp_path=tmp_path).train
    bucket.failures, bucket.passes = 10**6, 4  # the tries of the first
    with pytest.raises(StorageError, match="tried 4 times"):
        batch_at(source, 0, **OPTIONS)
    bucket.gate.set()
    bucket.pools[0].shutdown()
    assert len(bucket.fetched) <= 8  # of six shards


def test_damaged_shards_are_refused(bucket: Bucket, tmp_path: Path) -> None:
    file = min(bucket.folder.glob(f"{TRAIN_SHARDS}*"))
    source, content = opened(bucket, tmp_path=tmp_path).train, file.read_bytes()
    said = r"gs://b/data/packed-train\.array_record-00000-of-\d+ is damaged \("
    file.write_bytes(content[:-10])
    with pytest.raises(DataError, match=rf"{said}expected {len(content)} bytes, found {len(content) - 10}\)"):
        source[0]
    file.write_bytes(b"not ArrayRecord".ljust(len(content)))
    with pytest.raises(DataError, match=said):
        source[0]
    place = content.index(bytes(64)) // 2  # in the records; padding follows them
    file.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    with pytest.raises(DataError, match=said):
        read_batches(source, len(source) // 6 + 1)
    file.write_bytes(content)
    assert source[0]["length"] > 0
