"""Rows that are decoded in groups, a thread for each, are decoded as they are in one."""

import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from lacy_jax.cascade.decoding import programs, session
from lacy_jax.cascade.decoding.engine import Engine
from lacy_jax.cascade.decoding.sampling import Sampling
from lacy_jax.cascade.decoding.session import Session, group_count
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import ModelConfig
from lacy_jax.model.decoder import init_params
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
    both, failed = threading.Barrier(2, timeout=60), threading.Event()

    def fails(group: session._Group, *arguments: Any, **options: Any) -> Any:
        both.wait()  # they run at once
        if group is several._groups[0]:
            failed.set()
            raise RuntimeError("out of memory")
        failed.wait(60)
        time.sleep(0.1)  # the call goes on to wait for this one
        return run(group, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(session._Group, "_run", fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            several.steps(rows)
    assert [several.held(slot) for slot in rows] == [[], rows[1], [], rows[3]]
    for slot, (step,) in several.steps(rows).items():
        assert_same(step, expected[slot][0])


@pytest.mark.parametrize(
    ("layers", "width", "kv_heads", "mlp_width", "vocab", "slots", "cores", "expected"),
    [
        (4, 192, 3, 768, 4224, 8, 2, 2),  # the demo's model
        (4, 192, 3, 768, 4224, 63, 2, 2),
        (4, 192, 3, 768, 4224, 64, 1, 1),
        (4, 192, 3, 768, 4224, 64, 64, 10),
        (4, 192, 3, 768, 4224, 7, 2, 1),  # too few rows for two
        (30, 576, 3, 1536, 49152, 16, 2, 1),  # SmolLM2-135M: twice its weights are more than its caches spread
        (30, 576, 3, 1536, 49152, 64, 2, 2),
        (30, 576, 3, 1536, 49152, 64, 16, 2),
    ],
)
def test_groups_where_the_caches_are_large_beside_the_weights(
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
    layers: int,
    width: int,
    kv_heads: int,
    mlp_width: int,
    vocab: int,
    slots: int,
    cores: int,
    expected: int,
) -> None:
    """What was measured (docs/cascade.md), and what follows for more cores. Sizes alone: no array is made."""
    engine = Engine(model())
    engine.config = ModelConfig(
        layers=layers, width=width, heads=width // 64, kv_heads=kv_heads, mlp_width=mlp_width, compute_dtype="float32"
    )
    params = jax.eval_shape(lambda: init_params(engine.config, vocab=vocab, key=jax.random.key(0)))
    engine.weights = engine.weights._replace(params=params)
    monkeypatch.setattr(session, "cores", lambda: cores)
    assert group_count(engine, slots) == expected
    monkeypatch.setattr(session.jax, "default_backend", lambda: "gpu")
    assert group_count(engine, slots) == 1


def test_more_slots_than_groups_share_evenly(model: Model, rng: np.random.Generator) -> None:
    loaded = model(scale=3.0)
    several = Session(Engine(loaded), slots=5, groups=2)
    assert several.slots == 5
    rows = {slot: row_of(loaded, 9 + slot, rng) for slot in range(5)}
    found = several.steps(rows, ahead=3)
    for slot, row in rows.items():
        alone = Session(Engine(loaded), slots=1).steps({0: row}, ahead=3)[0]
        for step, other in zip(found[slot], alone, strict=True):
            assert_same(step, other)


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
    with programs.compiled_once("a test", 1):
        pass  # another program does not wait
    leave.set()
    assert entered.wait(60)
    for thread in threads:
        thread.join()
    with programs.compiled_once("a test", 8), programs.compiled_once("a test", 8):
        pass
