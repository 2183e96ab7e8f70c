"""The order of windows: an epoch is a bijection, hosts are disjoint, a step number is all there is to resume."""

import gc
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from lacy_jax.data.batch import Batch, document_starts
from lacy_jax.data.loader import batch_at, prefetch, window_batch
from lacy_jax.errors import DataError

WINDOW = 5


class Source:
    """Window i holds the number i; reading window `broken` fails."""

    def __init__(self, count: int, *, broken: int = -1, seconds: float = 0.0) -> None:
        self.count, self.broken, self.seconds, self.reads = count, broken, seconds, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        assert 0 <= index < self.count
        self.reads += 1
        time.sleep(self.seconds)
        if index == self.broken:
            raise OSError("the disk is gone")
        tokens = np.full(WINDOW + 1, index, np.int32)
        starts = document_starts(tokens, end_id=-1)
        return {"tokens": tokens, "factual": tokens % 2 == 0, "starts": starts, "length": 1 + index % WINDOW}


def numbers(batch: Batch) -> list[int]:
    return batch.tokens[:, 0].tolist()


def order(source: Source, steps: range, **options: int) -> list[int]:
    return [number for step in steps for number in numbers(batch_at(source, step, **options))]


def test_batch_layout() -> None:
    batch = batch_at(Source(20), 3, batch_size=4, seed=1)
    assert batch.tokens.shape == batch.factual.shape == (4, WINDOW + 1)
    assert (batch.tokens.dtype, batch.factual.dtype, batch.lengths.dtype) == (np.int32, np.bool_, np.int32)
    for row, number in enumerate(numbers(batch)):
        assert batch.lengths[row] == 1 + number % WINDOW
        assert batch.factual[row].all() == (number % 2 == 0)


@pytest.mark.parametrize("seed", [0, 1, 12345])
@pytest.mark.parametrize(("count", "batch_size"), [(60, 4), (7, 3), (1, 2), (3, 8)])
def test_every_epoch_is_a_bijection(count: int, batch_size: int, seed: int) -> None:
    epochs = 6
    steps = range(-(-count * epochs // batch_size))
    seen = order(Source(count), steps, batch_size=batch_size, seed=seed)
    for epoch in range(epochs):  # batches run on across the ends of epochs
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_differ() -> None:
    source = Source(100)
    first, second = order(source, range(10), batch_size=10, seed=0), order(source, range(10, 20), batch_size=10, seed=0)
    assert first != second
    assert first != order(source, range(10), batch_size=10, seed=1)
    assert first != sorted(first)


def test_order_is_the_same_in_every_version() -> None:
    """A run resumes in the order it began with. If a new grain changes this, pin it or say so in the changelog."""
    assert order(Source(10), range(2), batch_size=5, seed=3) == [4, 6, 9, 7, 5, 3, 1, 8, 2, 0]


@pytest.mark.parametrize("hosts", [1, 2, 3, 4, 6, 12])
def test_hosts_share_the_global_batch(hosts: int) -> None:
    for step in (0, 3, 4, 1000):
        alone = numbers(batch_at(Source(50), step, batch_size=12, seed=5))
        for host in range(hosts):
            source = Source(50)
            rows = range(host, 12, hosts)  # not neighbours: whatever a host's devices hold
            found = numbers(batch_at(source, step, batch_size=12, seed=5, rows=rows))
            assert found == [alone[row] for row in rows]
            assert source.reads == 12 // hosts


def test_resuming_needs_the_step_alone() -> None:
    options = {"batch_size": 4, "seed": 9}
    whole = prefetch(Source(30), 0, **options)
    straight = [numbers(next(whole)) for _ in range(12)]
    resumed = prefetch(Source(30), 7, **options)
    assert [numbers(next(resumed)) for _ in range(5)] == straight[7:]
    halves = [prefetch(Source(30), 7, rows=rows, **options) for rows in ([0, 1], np.array([2, 3]))]
    assert [numbers(next(halves[0])) + numbers(next(halves[1])) for _ in range(5)] == straight[7:]
    assert straight == [numbers(batch_at(Source(30), step, **options)) for step in range(12)]
    for each in (whole, resumed, *halves):
        each.close()


def threads() -> int:
    return sum(thread.name.startswith("batches") for thread in threading.enumerate())


def wait_for(condition) -> bool:
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_prefetch_reads_ahead_by_its_depth() -> None:
    source = Source(100)
    batches = prefetch(source, 0, batch_size=4, seed=0, depth=3)
    next(batches)
    assert wait_for(lambda: source.reads == 16)
    time.sleep(0.05)
    assert source.reads == 16  # the one given and three ahead
    batches.close()


def test_batches_are_placed_ahead_in_the_thread_that_reads_them() -> None:
    placed: list[str] = []

    def place(batch: Batch) -> list[int]:
        if len(placed) == 3:
            raise OSError("the device is full")
        placed.append(threading.current_thread().name)
        return numbers(batch)

    batches = prefetch(Source(100), 0, batch_size=4, seed=0, place=place)
    found = [next(batches)]
    assert wait_for(lambda: len(placed) == 3)  # the one given and two ahead
    assert all(name.startswith("batches") for name in placed)
    found += [next(batches), next(batches)]
    assert found == [numbers(batch_at(Source(100), step, batch_size=4, seed=0)) for step in range(3)]
    with pytest.raises(OSError, match="the device is full"):
        next(batches)


@pytest.mark.parametrize("how", ["close", "drop"])
def test_prefetch_ends_its_thread(how: str) -> None:
    before = threads()
    batches: Iterator[Batch] | None = prefetch(Source(100), 0, batch_size=4, seed=0)
    next(batches)
    assert threads() == before + 1
    if how == "close":
        batches.close()
    batches = None
    gc.collect()
    assert wait_for(lambda: threads() == before)


def test_nothing_is_read_after_closing() -> None:
    source = Source(100, seconds=0.01)
    batches = prefetch(source, 0, batch_size=4, seed=0, depth=1000)
    next(batches)
    batches.close()
    reads = source.reads
    assert reads < 4 * 1000  # what was asked for and not begun is not read
    time.sleep(0.2)
    assert source.reads == reads


def test_exceptions_surface_at_their_batch() -> None:
    clean = Source(20)
    broken = numbers(batch_at(clean, 2, batch_size=4, seed=0))[1]
    batches = prefetch(Source(20, broken=broken), 0, batch_size=4, seed=0)
    assert numbers(next(batches)) == numbers(batch_at(clean, 0, batch_size=4, seed=0))
    next(batches)
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
    assert wait_for(lambda: threads() == 0)


@pytest.mark.parametrize("read", [batch_at, prefetch, window_batch])
def test_refusals(read) -> None:
    options = {"batch_size": 4} if read is window_batch else {"batch_size": 4, "seed": 0}
    with pytest.raises(DataError, match="no windows"):
        read(Source(0), 0, **options)
    with pytest.raises(DataError, match="a batch of 4 rows has no row 4"):
        read(Source(9), 0, rows=[3, 4], **options)


@pytest.mark.parametrize("hosts", [1, 2])
def test_window_batches_are_one_pass_in_order(hosts: int) -> None:
    source = Source(10)
    seen = []
    for index in range(4):  # the fourth is behind the end
        for host in range(hosts):
            rows = range(4 // hosts * host, 4 // hosts * (host + 1))
            batch = window_batch(source, index, batch_size=4, rows=rows)
            assert batch.tokens.shape == (4 // hosts, WINDOW + 1)
            assert batch.tokens.dtype == np.int32
            seen += [number for number, length in zip(numbers(batch), batch.lengths, strict=True) if length]
            assert not batch.factual[batch.lengths == 0].any()
    assert seen == list(range(10))
