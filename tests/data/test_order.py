"""The block shuffle: the windows that a plain loop over lanes finds; each shard once an epoch; hosts need their own."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest

from lacy_jax.data.loader import batch_at, batch_windows
from lacy_jax.data.mixing import Interleaving, Mixed
from lacy_jax.data.order import BlockOrder, Blocks
from lacy_jax.data.weights import knots
from lacy_jax.errors import DataError
from tests.data.test_mixing import Source, config_of


def drawn(count: int, nth: int, *, seed: int, stream: int) -> list[int]:
    """The numbers below `count`, sorted by numbers that are drawn for them."""
    keys = np.random.Philox(key=[seed, nth], counter=[0, 0, 0, stream]).random_raw(count).tolist()
    return sorted(range(count), key=keys.__getitem__)


def plain_loop(sizes: list[int], *, batch_size: int, lanes: int, seed: int, steps: int) -> list[int]:
    """The windows of all batches: every lane holds the rest of a visit, and takes a shard when nothing is left."""
    firsts = [sum(sizes[:shard]) for shard in range(len(sizes))]
    count = len(sizes)
    visits, left, read = [0] * lanes, [[] for _ in range(lanes)], []
    for _, lane, _ in itertools.product(range(steps), range(lanes), range(batch_size // lanes)):
        if not left[lane]:
            nth = visits[lane] * lanes + lane
            shard, visits[lane] = drawn(count, nth // count, seed=seed, stream=0)[nth % count], visits[lane] + 1
            windows = drawn(sizes[shard], nth, seed=seed, stream=1)
            left[lane] = [firsts[shard] + window for window in windows[: min(sizes)]]
        read.append(left[lane].pop(0))
    return read


CASES = {  # shards' sizes, batch size -> lanes
    "one shard": ([7], 4, 1),
    "one window": ([1], 3, 1),
    "fewer shards than rows": ([5, 6, 5], 8, 2),
    "more shards than rows": ([4] * 9, 3, 3),
    "a batch is several visits": ([2, 3], 8, 2),
    "a prime batch": ([6] * 5, 7, 1),
    "many": ([3, 4] * 40, 192, 64),
}


@pytest.mark.parametrize("case", CASES)
def test_windows_are_those_of_a_plain_loop(case: str) -> None:
    sizes, batch_size, lanes = CASES[case]
    steps = 3 * sum(sizes) // batch_size + 2
    order = BlockOrder(sizes, batch_size=batch_size, seed=5)
    assert order.lanes == lanes
    slow = plain_loop(sizes, batch_size=batch_size, lanes=lanes, seed=5, steps=steps)
    assert [order[number] for number in range(len(slow))] == slow
    for number in random.Random(0).sample(range(len(slow)), min(50, len(slow))):  # from anywhere
        assert order[number] == slow[number]


@pytest.mark.parametrize("case", CASES)
def test_every_epoch_visits_each_shard_once_and_a_visit_has_no_window_twice(case: str) -> None:
    sizes, batch_size, lanes = CASES[case]
    length, shards = min(sizes), [shard for shard, size in enumerate(sizes) for _ in range(size)]
    epochs = lanes  # as many shards as all lanes visit in whole visits
    order = BlockOrder(sizes, batch_size=batch_size, seed=1)
    rows = batch_size // lanes
    own: list[list[int]] = [[] for _ in range(lanes)]
    for number in range(-(-len(sizes) * length // rows) * batch_size):
        own[number % batch_size // rows].append(order[number])
    visits = [[each[j * length : (j + 1) * length] for each in own] for j in range(len(sizes))]
    for visit in itertools.chain.from_iterable(visits):
        assert len({shards[window] for window in visit}) == 1
        assert len(set(visit)) == length
    visited = [shards[visit[0]] for visit in itertools.chain.from_iterable(visits)]
    for epoch in range(epochs):
        assert sorted(visited[epoch * len(sizes) : (epoch + 1) * len(sizes)]) == list(range(len(sizes)))


def test_every_window_has_its_turn_and_the_order_is_another_in_every_visit() -> None:
    sizes = [4, 5]
    order = BlockOrder(sizes, batch_size=2, seed=0)
    read = [order[number] for number in range(4 * 2 * 100)]
    assert set(read) == set(range(9))
    counts = Counter(read)
    assert max(counts.values()) < 1.6 * min(counts.values())  # of the larger shard each is left out now and then
    small = [window for window in read if window < 4]
    assert len({tuple(small[start : start + 4]) for start in range(0, len(small), 4)}) > 12  # of 24 orders


def test_seeds_differ_and_the_order_is_the_same_in_every_version() -> None:
    """A run resumes in the order it began with."""
    orders = [BlockOrder([4, 4, 4], batch_size=2, seed=seed) for seed in (3, 4)]
    first, second = ([order[number] for number in range(12)] for order in orders)
    assert first != second
    assert first == [7, 8, 5, 10, 6, 11, 4, 9, 0, 0, 1, 1]


def blocks(sizes: list[int], held: list | None = None) -> Blocks:
    note = (lambda lanes: held.append(lanes)) if held is not None else (lambda _: None)
    return Blocks(Source(sum(sizes)), sizes, hold=note)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_share_the_batch_and_need_the_shards_of_their_own_lanes(hosts: int) -> None:
    sizes, batch_size = [6] * 40, 16
    firsts, needed = [6 * shard for shard in range(40)], []
    for host in range(hosts):
        held: list[dict[int, list[int]]] = []
        source, rows = blocks(sizes, held), range(host * 16 // hosts, (host + 1) * 16 // hosts)
        for step in range(12):
            alone = batch_at(blocks(sizes), step, batch_size=batch_size, seed=2).tokens
            own = batch_at(source, step, batch_size=batch_size, seed=2, rows=rows).tokens
            assert np.array_equal(own, alone[np.array(rows)])
            assert sorted(held[-1]) == list(rows)  # 16 lanes, a row each
            for row, window in zip(rows, own[:, 0].tolist(), strict=True):
                assert window - 6 < firsts[held[-1][row][0]] <= window
        following = [{lane: each[-1] for lane, each in lanes.items()} for lanes in (held[0], held[5])]
        assert following[0] == following[1] == {lane: each[0] for lane, each in held[6].items()}
        needed += [shard for lanes in (held[0], held[6]) for each in lanes.values() for shard in each[:-1]]
    assert len(needed) == len(set(needed)) == 32  # of 40: each is needed by one host


def test_the_end_of_a_visit_within_a_batch() -> None:
    order = BlockOrder([3, 3, 3, 3], batch_size=4, seed=0)  # 4 lanes of one row
    assert {len(each) for each in order.shards(range(4)).values()} == {2}
    wide = BlockOrder([3, 3], batch_size=8, seed=0)  # 2 lanes of four rows
    first, second = wide.shards(range(8)), wide.shards(range(8, 16))
    assert [len(each) for each in (*first.values(), *second.values())] == [3, 3, 3, 3]
    assert [each[1:] for each in first.values()] == [each[:2] for each in second.values()]


def test_a_mixture_reads_each_dataset_in_its_own_order() -> None:
    held: dict[str, list] = {"a": [], "b": []}
    shares = Interleaving(knots(config_of("2", "1")), batch_size=6)
    sources = {"a": blocks([5, 6, 5], held["a"]), "b": Blocks(Source(8, 100), [4, 4], hold=held["b"].append)}
    source, found = Mixed(sources, shares), {"a": [], "b": []}
    for step in range(20):
        rows = [3, 0] if step == 7 else range(6)
        batch = batch_at(source, step, batch_size=6, seed=1, rows=rows)
        if step == 7:
            assert np.array_equal(batch.tokens, batch_at(source, step, batch_size=6, seed=1).tokens[[3, 0]])
            batch = batch_at(source, step, batch_size=6, seed=1)
        for window, dataset in zip(batch.tokens[:, 0].tolist(), batch.sources.tolist(), strict=True):
            found["ab"[dataset]].append(window)
    alone = {"a": BlockOrder([5, 6, 5], batch_size=6, seed=1), "b": BlockOrder([4, 4], batch_size=6, seed=1)}
    for name, first in (("a", 0), ("b", 100)):
        assert found[name] == [first + alone[name][number] for number in range(len(found[name]))]
        assert held[name]
    one = Mixed({"a": sources["a"]}, Interleaving(knots(config_of("1")), batch_size=6))
    options = {"batch_size": 6, "seed": 1}
    assert batch_windows(one, 4, **options) == batch_windows(sources["a"], 4, **options)


def test_shards_of_other_sizes_are_refused() -> None:
    with pytest.raises(DataError, match="needs shards of one size, and these have 3 to 5 windows"):
        blocks([5, 3])
