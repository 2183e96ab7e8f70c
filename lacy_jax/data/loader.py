"""Batch k is a function of (seed, k): nothing needs to be saved to resume, on any number of hosts."""

import collections
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import grain
import numpy as np

from lacy_jax.data.corpus import DataError


class Windows(Protocol):
    """Records {"tokens": int32[T + 1], "factual": bool[T + 1], "length": int} by number: a `PackedSource`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


@dataclass(frozen=True, eq=False)
class HostBatch:
    """One host's b windows of T targets.

    tokens: int32[b, T + 1]: inputs are tokens[:, :-1], targets tokens[:, 1:].
    factual: bool[b, T + 1], of the tokens themselves: factual[:, 1:] is that of the targets.
    lengths: int32[b], real tokens in each row; the rest is padding.
    """

    tokens: np.ndarray
    factual: np.ndarray
    lengths: np.ndarray


def batch_at(source: Windows, step: int, *, batch_size: int, seed: int, host: int = 0, hosts: int = 1) -> HostBatch:
    """This host's rows of global batch `step` (from 0).

    The windows are shuffled anew in every epoch, and batches run on across epochs' ends. Of the `batch_size` rows of
    the global batch, host h has the h-th of `hosts` equal slices, so b = batch_size / hosts.

    Raises:
        DataError: no windows, or a batch that cannot be divided among the hosts.
    """
    _check(source, batch_size=batch_size, host=host, hosts=hosts)
    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    rows = batch_size // hosts
    first = step * batch_size + host * rows
    return _collate([source[order[position]] for position in range(first, first + rows)])


def window_batch(source: Windows, index: int, *, batch_size: int, host: int = 0, hosts: int = 1) -> HostBatch:
    """This host's rows of the `index`-th batch of the windows in their order, once through: for evaluation.

    Rows behind the last window have length 0.

    Raises:
        DataError: as `batch_at`.
    """
    _check(source, batch_size=batch_size, host=host, hosts=hosts)
    rows = batch_size // hosts
    first = index * batch_size + host * rows
    records = [source[position] for position in range(first, min(first + rows, len(source)))]
    model = source[0]
    empty = {"tokens": np.zeros_like(model["tokens"]), "factual": np.zeros_like(model["factual"]), "length": 0}
    return _collate(records + [empty] * (rows - len(records)))


def prefetch(
    source: Windows,
    start_step: int,
    *,
    batch_size: int,
    seed: int,
    host: int = 0,
    hosts: int = 1,
    depth: int = 2,
) -> Iterator[HostBatch]:
    """Batches `start_step`, `start_step + 1`, ... without end, `depth` of them read ahead in a thread.

    An exception of the thread is raised here, at its batch. Closing the iterator, or dropping it, ends the thread.
    """
    _check(source, batch_size=batch_size, host=host, hosts=hosts)
    return _read_ahead(source, start_step, depth=depth, batch_size=batch_size, seed=seed, host=host, hosts=hosts)


def _read_ahead(source: Windows, start_step: int, *, depth: int, **place: int) -> Iterator[HostBatch]:
    executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
    pending: collections.deque[Future[HostBatch]] = collections.deque()
    try:
        for step in itertools.count(start_step):
            pending.append(executor.submit(batch_at, source, step, **place))
            if len(pending) > depth:
                yield pending.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _collate(records: Sequence[dict[str, Any]]) -> HostBatch:
    return HostBatch(
        tokens=np.stack([record["tokens"] for record in records]),
        factual=np.stack([record["factual"] for record in records]),
        lengths=np.array([record["length"] for record in records], np.int32),
    )


def _check(source: Windows, *, batch_size: int, host: int, hosts: int) -> None:
    if not len(source):
        raise DataError("there are no windows to make batches of: prepare a corpus with more text")
    if batch_size % hosts or not 0 <= host < hosts:
        raise DataError(f"data.batch_size={batch_size} cannot be divided among {hosts} hosts (this one is {host})")
