"""Rows that are decoded in groups, a thread for each, are decoded as they are in one."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lacy_jax.cascade.decoding import programs, session
from lacy_jax.cascade.decoding.engine import Engine
from lacy_jax.cascade.decoding.sampling import Sampling
from lacy_jax.cascade.decoding.session import Session, group_count
from lacy_jax.checkpoints.loading import LoadedModel
from tests.cascade.test_engine import assert_same, row_of

Model = Callable[..., LoadedModel]


@pytest.mark.parametrize("groups", [2, 3])
def test_groups_change_nothing(model: Model, rng: np.random.Generator, groups: int) -> None:
    """Some rows or all, read or written, greedy, drawn, spelt or whole: the same steps, in whatever group a row is."""
    loaded = model(scale=3.0)
    one, several = (Session(Engine(loaded), slots=6, groups=count) for count in (1, groups))
    assert one.slots == several.slots == 6
    rows = [row_of(loaded, length, rng) for length in (3, 40, 17, 5, 60, 1)]
    for slots in (range(6), (0,), (1, 2, 5), (5, 0), (2, 4), range(6)):
        options: dict[str, Any] = {
            "ahead": int(rng.integers(1, 9)),
            "sampling": {slot: Sampling(temperature=0.9, top_p=0.9, seed=slot) for slot in (1, 4)},
            "given": {slot: row_of(loaded, 2, rng) for slot in (0, 2)},
            "whole": (1, 3),
        }
        asked = {slot: rows[slot] for slot in slots}
        expected, found = one.steps(asked, **options), several.steps(asked, **options)
        assert expected.keys() == found.keys() == set(slots)
        for slot in slots:
            for step, other in zip(found[slot], expected[slot], strict=True):
                assert_same(step, other)
            assert several.held(slot) == one.held(slot)
            rows[slot] = [*rows[slot], *(step.token for step in expected[slot])]
    assert 1 <= several.steps_within(1e-9) <= several.steps_within(1e9) == programs.MOST_STEPS


def test_one_group_that_fails_leaves_the_others_whole(
    model: Model, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = model(scale=3.0)
    rows = {slot: row_of(loaded, 20, rng) for slot in range(4)}
    expected = Session(Engine(loaded), slots=4, groups=1).steps(rows)
    several, run = Session(Engine(loaded), slots=4, groups=2), session._Group._run

    def fails(group: session._Group, *arguments: Any, **options: Any) -> Any:
        found = run(group, *arguments, **options)
        if group is several._groups[1]:
            raise RuntimeError("out of memory")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(session._Group, "_run", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            several.steps(rows)
    assert [several.held(slot) for slot in rows] == [rows[0], [], rows[2], []]
    for slot, (step,) in several.steps(rows).items():
        assert_same(step, expected[slot][0])


def test_groups_where_the_caches_are_large_beside_the_weights(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each group has four rows at least, all have as many, and each reads all weights."""
    engine = Engine(model(context=140))
    weights, row = (session._bytes(x) for x in (engine.weights.params, Session(engine, slots=1)._groups[0]._cache))
    for cores in (1, 2, 3, 16):
        monkeypatch.setattr(session, "cores", lambda cores=cores: cores)
        for slots in (1, 3, 7, 8, 12, 64):
            most = min(cores, slots // 4, 1 + int(2 * slots * row / weights))
            count = group_count(engine, slots)
            assert slots % count == 0
            assert count == max((n for n in (1, 2, 3, 4, 8, 16) if n <= most and slots % n == 0), default=1)
    monkeypatch.setattr(session.jax, "default_backend", lambda: "gpu")
    assert group_count(engine, 64) == 1


def test_threads_compile_a_program_once() -> None:
    """The second waits for the first to be done; after that none waits."""
    inside, leave, entered = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with programs.compiled_once("a test", 8):
            inside.set()
            leave.wait(60)

    def second() -> None:
        with programs.compiled_once("a test", 8):
            entered.set()

    threads = [threading.Thread(target=target) for target in (first, second)]
    threads[0].start()
    assert inside.wait(60)
    threads[1].start()
    assert not entered.wait(0.1)
    leave.set()
    assert entered.wait(60)
    for thread in threads:
        thread.join()
    with programs.compiled_once("a test", 8), programs.compiled_once("a test", 8):
        pass
