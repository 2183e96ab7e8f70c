"""Batch k is a function of (seed, k): nothing needs to be saved to resume, on any number of hosts."""

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from lacy_jax.data.batch import Batch
from lacy_jax.data.datasets import LOSSES
from lacy_jax.data.mixing import Mixed
from lacy_jax.data.order import Blocks, Windows, order_of
from lacy_jax.errors import DataError

Rows = Sequence[int] | np.ndarray  # numbers of rows of a batch


def batch_at(source: Windows, step: int, *, batch_size: int, seed: int, rows: Rows | None = None) -> Batch[np.ndarray]:
    """Rows `rows` (default: all) of global batch `step` (from 0).

    The windows are shuffled anew in every epoch, and batches run on across epochs' ends. Only what is asked for is
    read: a host asks for the rows that its devices hold (`sharding.process_rows`), and only their shards are fetched.

    Raises:
        DataError: no windows, a row that the batch does not have, or a damaged shard.
        StorageError: a shard cannot be fetched.
    """
    chosen = _chosen(source, rows, batch_size=batch_size)
    places = _places(source, step, batch_size=batch_size, seed=seed, rows=chosen)
    for dataset, own in enumerate(_datasets(source)):
        if isinstance(own, Blocks):
            numbers = [number for each, number in places if each == dataset]
            own.hold(numbers, batch_size=batch_size, seed=seed)
    return _collate([source[window] for window in _windows(source, places, batch_size=batch_size, seed=seed)])


def batch_windows(source: Windows, step: int, *, batch_size: int, seed: int, rows: Rows | None = None) -> list[int]:
    """The numbers of the windows that `batch_at` reads, row by row; nothing is read.

    Raises:
        DataError: no windows, or a row that the batch does not have.
    """
    chosen = _chosen(source, rows, batch_size=batch_size)
    places = _places(source, step, batch_size=batch_size, seed=seed, rows=chosen)
    return _windows(source, places, batch_size=batch_size, seed=seed)


def _datasets(source: Windows) -> Sequence[Windows]:
    return source.sources if isinstance(source, Mixed) else (source,)


def _places(source: Windows, step: int, *, batch_size: int, seed: int, rows: Sequence[int]) -> list[tuple[int, int]]:
    """Of some rows of a batch: the dataset, and a number in the dataset's own order."""
    if isinstance(source, Mixed):
        return source.batch_numbers(step, batch_size=batch_size, seed=seed, rows=rows)
    return [(0, step * batch_size + row) for row in rows]


def _windows(source: Windows, places: Sequence[tuple[int, int]], *, batch_size: int, seed: int) -> list[int]:
    """The windows at these places.

    Each dataset is read in the order in which a run on it alone would read it, shuffled anew in every epoch.
    """
    datasets = _datasets(source)
    orders = [order_of(own, batch_size=batch_size, seed=seed) for own in datasets]
    firsts = [0, *itertools.accumulate(map(len, datasets))]  # as in `Joined`
    return [firsts[dataset] + int(orders[dataset][number]) for dataset, number in places]


def window_batch(source: Windows, index: int, *, batch_size: int, rows: Rows | None = None) -> Batch[np.ndarray]:
    """Rows `rows` (default: all) of the `index`-th batch of the windows in their order, once through: for evaluation.

    Rows after the last window have length 0.

    Raises:
        DataError: as `batch_at`.
    """
    positions = [index * batch_size + row for row in _chosen(source, rows, batch_size=batch_size)]
    empty = {name: np.zeros_like(value) for name, value in source[0].items()}
    return _collate([source[position] if position < len(source) else empty for position in positions])


def prefetch(
    source: Windows,
    start_step: int,
    *,
    batch_size: int,
    seed: int,
    rows: Rows | None = None,
    depth: int = 2,
    place: Callable[[Batch[np.ndarray]], Any] = lambda batch: batch,
) -> Iterator[Any]:
    """Batches `start_step`, `start_step + 1`, ... without end, `depth` of them read ahead in a thread.

    An exception of the thread is raised here, at its batch. Closing the iterator, or dropping it, ends the thread.

    Args:
        place: called in the thread with each batch; what it gives is given here. It puts batches on devices.
    """
    chosen = _chosen(source, rows, batch_size=batch_size)
    return _read_ahead(
        lambda step: place(batch_at(source, step, batch_size=batch_size, seed=seed, rows=chosen)),
        start_step,
        depth=depth,
    )


def _read_ahead(read: Callable[[int], Any], start_step: int, *, depth: int) -> Iterator[Any]:
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
    pending: collections.deque[Future[Any]] = collections.deque()
    try:
        for step in itertools.count(start_step):
            pending.append(executor.submit(read, step))
            if len(pending) > depth:
                yield pending.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _collate(records: Sequence[dict[str, Any]]) -> Batch[np.ndarray]:
    return Batch(
        tokens=np.stack([record["tokens"] for record in records]),
        factual=np.stack([record["factual"] for record in records]),
        starts=np.stack([record["starts"] for record in records]),
        lengths=np.array([record["length"] for record in records], np.int32),
        sources=np.array([record["source"] for record in records], np.int32) if "source" in records[0] else None,
        partner_losses=np.stack([record[LOSSES] for record in records]) if LOSSES in records[0] else None,
    )


def _chosen(source: Windows, rows: Rows | None, *, batch_size: int) -> list[int]:
    if not len(source):
        raise DataError("there are no windows to make batches of: prepare a corpus with more text")
    chosen = list(range(batch_size)) if rows is None else [int(row) for row in rows]
    wrong = [row for row in chosen if not 0 <= row < batch_size]
    if wrong:
        raise DataError(f"a batch of {batch_size} rows has no row {wrong[0]}")
    return chosen
