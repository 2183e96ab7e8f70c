"""In what order training reads the windows of a dataset: a function of the seed and a number, so nothing is saved.

`config.data.shuffle` names it. "full" is `shuffled` over all windows. "block" is `BlockOrder`: the dataset is read
shard by shard, so that a machine needs few shards at a time, and those of a bucket can be fetched while they are read.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from lacy_jax.errors import DataError

_LANES = 64  # at most: how many shards are read at a time

LaneShards = Mapping[int, Sequence[int]]
"""For some lanes, by number: the shards that are read now, and at the end the one that the lane reads next."""


class Windows(Protocol):
    """Records of a window by number, as those of a `PackedSource`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


class Order(Protocol):
    """Which window number 0, 1, 2 ... of an endless sequence is."""

    def __getitem__(self, number: int, /) -> Any: ...


def shuffled(count: int, *, seed: int) -> Order:
    """The numbers 0 to `count` - 1 without end, item by item: in every epoch all of them, in an order of its own."""
    order: Order = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
    return order


class BlockOrder:
    """The windows of a dataset without end, item by item, read shard by shard in L lanes.

    Of `batch_size` numbers in a row, the first `batch_size` / L go to lane 0, the next to lane 1, and so on. A lane
    visits one shard after the other: lane l, in its visit j, the shard at place j * L + l of the shuffled shards. In a
    visit it reads as many windows as the smallest shard has, in an order of that visit alone. A shard that has one
    more leaves one out, another one in each visit.

    L is the largest divisor of `batch_size` that is neither above 64 nor above the number of shards: so all lanes are
    equally fast, and in every epoch each shard is visited once.
    """

    def __init__(self, sizes: Sequence[int], *, batch_size: int, seed: int) -> None:
        """sizes: how many windows each shard has; they differ by one at most."""
        most = min(_LANES, len(sizes), batch_size)
        self.lanes = next(lanes for lanes in range(most, 0, -1) if batch_size % lanes == 0)
        self._rows, self._length, self._sizes = batch_size // self.lanes, min(sizes), sizes
        self._firsts = [0, *itertools.accumulate(sizes)]

        # Not `shuffled`, which is slow for few items: 9 ms for one number of three.
        def permutations(stream: int, *, kept: int) -> Callable[[int, int], np.ndarray]:
            return functools.lru_cache(kept)(functools.partial(_permutation, seed=seed, stream=stream))

        self._shards, self._windows = permutations(0, kept=4), permutations(1, kept=2 * self.lanes)

    def __getitem__(self, number: int) -> int:
        lane, read = self._place(number)
        visit, place = divmod(read, self._length)
        shard = self._shard(lane, visit)
        return self._firsts[shard] + int(self._windows(self._sizes[shard], visit * self.lanes + lane)[place])

    def shards(self, numbers: Sequence[int]) -> LaneShards:
        """The shards that hold the windows of some numbers, and the next one of each lane."""
        visits: dict[int, set[int]] = {}
        for lane, read in map(self._place, numbers):
            visits.setdefault(lane, set()).add(read // self._length)
        return {
            lane: [self._shard(lane, visit) for visit in [*sorted(each), max(each) + 1]]
            for lane, each in visits.items()
        }

    def _place(self, number: int) -> tuple[int, int]:
        """The lane of a number, and how many windows the lane has read before it."""
        batch, row = divmod(number, self._rows * self.lanes)
        lane, place = divmod(row, self._rows)
        return lane, batch * self._rows + place

    def _shard(self, lane: int, visit: int) -> int:
        epoch, place = divmod(visit * self.lanes + lane, len(self._sizes))
        return int(self._shards(len(self._sizes), epoch)[place])


def _permutation(count: int, nth: int, *, seed: int, stream: int) -> np.ndarray:
    """The numbers 0 to `count` - 1 in an order of their own for each `nth`; int32 [count]."""
    keys = np.random.Philox(key=[seed, nth], counter=[0, 0, 0, stream]).random_raw(count)
    return np.argsort(keys, kind="stable").astype(np.int32)


class Blocks:
    """The windows of a dataset that training reads by `BlockOrder`, wherever its shards lie."""

    def __init__(
        self, windows: Windows, sizes: Sequence[int], *, hold: Callable[[LaneShards], None] = lambda _: None
    ) -> None:
        """sizes: how many windows each shard has. hold: called before windows are read, with the shards of some lanes.

        Raises:
            DataError: the sizes differ by more than one.
        """
        if max(sizes) - min(sizes) > 1:
            raise DataError(
                f"config.data.shuffle: block needs shards of one size, and these have {min(sizes):,} to "
                f"{max(sizes):,} windows; add --config.data.shuffle=full"
            )
        self._windows, self._hold = windows, hold
        self.sizes = tuple(sizes)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._windows[index]

    def hold(self, numbers: Sequence[int], *, batch_size: int, seed: int) -> None:
        """Lets the shards be fetched that hold the windows of these numbers of the order; does not wait for them."""
        self._hold(_block_order(self.sizes, batch_size=batch_size, seed=seed).shards(numbers))


def order_of(source: Windows, *, batch_size: int, seed: int) -> Order:
    """The order in which a run with batches of this size reads the windows of a dataset."""
    if isinstance(source, Blocks):
        return _block_order(source.sizes, batch_size=batch_size, seed=seed)
    return shuffled(len(source), seed=seed)


@functools.lru_cache(maxsize=32)
def _block_order(sizes: tuple[int, ...], *, batch_size: int, seed: int) -> BlockOrder:
    return BlockOrder(sizes, batch_size=batch_size, seed=seed)
