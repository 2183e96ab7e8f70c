"""The training step: the same in any number of microbatches, and what it may not contain."""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from lacy_jax.config import Config, MeshConfig, ModelConfig, ObjectiveConfig, OptimizerConfig, TrainingConfig
from lacy_jax.data.batch import Batch, document_starts
from lacy_jax.model import decoder
from lacy_jax.runtime import sharding
from lacy_jax.training import step as training_step
from lacy_jax.training.loss import take_targets
from lacy_jax.training.state import TrainState, add_count, count_value, init_state, state_shardings
from lacy_jax.training.step import jit_train_step
from tests.objective import reference

VOCAB, CALL = 256, 200
MODEL = ModelConfig(layers=2, width=32, heads=8, context=16, compute_dtype="float32")
CONFIG = Config(
    model=MODEL,
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
    training=TrainingConfig(steps=10),
)


def make_batch(seed: int, rows: int = 16) -> Batch:
    """Rows with different lengths and different shares of factual tokens, one row wholly padding."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, MODEL.context + 2, rows)
    lengths[3] = 0
    tokens = rng.integers(0, CALL, (rows, MODEL.context + 1)).astype(np.int32)
    return Batch(
        tokens=tokens,
        factual=rng.random((rows, MODEL.context + 1)) < rng.random((rows, 1)),
        starts=np.stack([document_starts(row, end_id=0) for row in tokens % 7]),
        lengths=lengths.astype(np.int32),
    )


def run(config: Config, *, steps: int = 3) -> tuple[list, dict]:
    """Sums of some steps, and final parameters, on one device (tests/runtime/test_sharding.py: on more)."""
    records, states = run_batches(config, [make_batch(index) for index in range(steps)])
    return records, states[-1].params


@functools.cache
def programs(config: Config, mesh: Mesh, *_patched: object) -> tuple[Callable[[], TrainState], Callable[..., Any]]:
    """What makes a new state, and a step: compiled once for all tests of these settings and of these functions."""
    placed = state_shardings(config, vocab=VOCAB, mesh=mesh)
    new = jax.jit(lambda: init_state(config, vocab=VOCAB), out_shardings=placed)
    return new, jit_train_step(config, vocab=VOCAB, call_id=CALL, mesh=mesh)


def run_batches(config: Config, batches: list[Batch], *, start: TrainState | None = None) -> tuple[list, list]:
    """Sums of a step on each batch, and the states after them, on one device; `start`: a new state where not given."""
    mesh = sharding.make_mesh(MeshConfig(), batch_size=16, devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        placed = state_shardings(config, vocab=VOCAB, mesh=mesh)
        new, step = programs(config, mesh, training_step.train_step, training_step._by_branch)
        state = new() if start is None else jax.device_put(start, placed)
        records, states = [], []
        for batch in batches:
            state, sums = step(state, jax.device_put(batch, sharding.batch_sharding(mesh)), None)
            records.append(jax.device_get(sums))
            states.append(jax.device_get(state))
        return records, states


def assert_same_bits(found: TrainState, expected: TrainState) -> None:
    for (path, one), other in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes(), jax.tree_util.keystr(path)


@pytest.fixture(params=["_by_branch", "_by_element"])
def choice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips as CPUs do, and as GPUs and TPUs do."""
    monkeypatch.setattr(training_step, "_by_branch", getattr(training_step, request.param))


@pytest.mark.usefixtures("choice")
@pytest.mark.parametrize("microbatches", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_batch_that_is_not_finite_is_skipped(microbatches: int) -> None:
    """The run goes on as if the batch had been read and not learned from."""
    config = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, microbatches=microbatches))
    batches = [make_batch(index) for index in range(3)]
    batches[1].tokens[5, 0] = 10**6  # no row of the embedding: NaN
    records, states = run_batches(config, batches)
    assert [bool(np.isfinite(each["loss"])) for each in records] == [True, False, True]
    targets = int(np.maximum(batches[1].lengths - 1, 0).sum())
    read = np.array([0, count_value(states[0].tokens) + targets], np.int32)
    skipped = dataclasses.replace(states[0], step=np.int32(2), tokens=read)
    assert_same_bits(states[1], skipped)
    assert count_value(records[1]["ground_truth_tokens"]) == count_value(records[0]["ground_truth_tokens"]) > 0
    _, alone = run_batches(config, batches[2:], start=skipped)
    assert_same_bits(states[2], alone[0])


@pytest.mark.usefixtures("choice")
def test_a_gradient_alone_that_is_not_finite_is_skipped() -> None:
    """A norm that overflows would leave Adam's moments at infinity; the loss is a number all the same."""
    start = jax.device_get(init_state(CONFIG, vocab=VOCAB))
    start.params["final_norm"]["scale"] = start.params["final_norm"]["scale"] * np.float32(1e22)
    start.params["embedding"]["embedding"] = start.params["embedding"]["embedding"] * np.float32(1e-22)
    records, states = run_batches(CONFIG, [make_batch(0)], start=start)
    assert np.isfinite(records[0]["loss"])
    assert not np.isfinite(records[0]["gradient_norm"])
    assert_same_bits(states[0], dataclasses.replace(start, step=np.int32(1), tokens=states[0].tokens))


def test_the_check_changes_no_bit_of_a_healthy_run(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [make_batch(index) for index in range(3)]
    _, checked = run_batches(CONFIG, batches)
    monkeypatch.setattr(training_step, "train_step", training_step.update)
    _, unchecked = run_batches(CONFIG, batches)
    assert_same_bits(checked[-1], unchecked[-1])


@pytest.mark.parametrize(
    ("rule", "treatment"),
    [
        ("factual_loss", "call"),
        pytest.param("loss", "ignore", marks=pytest.mark.slow),
    ],
)
def test_microbatches_change_nothing(rule: str, treatment: str) -> None:
    objective = ObjectiveConfig(rule=rule, treatment=treatment)  # type: ignore[arg-type]
    config = dataclasses.replace(CONFIG, objective=objective)
    split = dataclasses.replace(config, training=dataclasses.replace(config.training, microbatches=4))
    (expected, expected_params), (found, found_params) = run(config), run(split)
    for one, other in zip(expected, found, strict=True):
        assert one["count/taken"] == other["count/taken"]
        np.testing.assert_allclose(other["loss"], one["loss"], rtol=1e-5)
        np.testing.assert_allclose(other["gradient_norm"], one["gradient_norm"], rtol=1e-5)
    # Adam divides by the gradient's own size, so rounding of tiny gradients shows in full: compare loosely.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), expected_params, found_params)


def with_losses(batch: Batch, *, seed: int = 0) -> Batch:
    """A partner that says nothing of the end of a document, as in packed data."""
    nats = np.random.default_rng(seed).exponential(4.0, batch.tokens.shape).astype(np.float32)
    nats[batch.tokens % 7 == 0] = np.nan
    return dataclasses.replace(batch, partner_losses=nats)


def test_with_a_partners_losses_a_rule_takes_what_the_partner_saves() -> None:
    objective = ObjectiveConfig(rule="factual_loss", rate=0.5, partner_losses="stored")
    config, batch = dataclasses.replace(CONFIG, objective=objective), with_losses(make_batch(0))
    losses = np.random.default_rng(1).exponential(4.0, batch.targets.shape).astype(np.float32)
    options = {"config": config, "step": jnp.int32(0), "reference_losses": None}
    taken = np.asarray(take_targets(jnp.asarray(losses), batch, **options))  # type: ignore[arg-type]
    saved = losses - batch.target_partner_losses
    factual, valid = batch.target_factual, np.asarray(batch.valid)
    np.testing.assert_array_equal(taken, reference.select(saved, factual & valid, factual, valid, 0.5, "factual"))
    by_loss = take_targets(jnp.asarray(losses), batch, **options | {"config": CONFIG})  # type: ignore[arg-type]
    assert (taken != np.asarray(by_loss)).any()
    with pytest.raises(ValueError, match="the batch has no partner_losses"):
        take_targets(jnp.asarray(losses), make_batch(0), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("treatment", ["call", "mixture"])
def test_microbatches_read_their_own_rows_of_a_partners_losses(treatment: str) -> None:
    objective = ObjectiveConfig(treatment=treatment, partner_losses="stored")  # type: ignore[arg-type]
    config = dataclasses.replace(CONFIG, objective=objective)
    split = dataclasses.replace(config, training=dataclasses.replace(config.training, microbatches=4))
    batches = [with_losses(make_batch(index), seed=index) for index in range(2)]
    (expected, _), (found, _), (without, _) = (
        run_batches(config, batches),
        run_batches(split, batches),
        run_batches(dataclasses.replace(CONFIG, objective=ObjectiveConfig(treatment=treatment)), batches),  # type: ignore[arg-type]
    )
    for one, other, third in zip(expected, found, without, strict=True):
        assert one["count/taken"] == other["count/taken"]
        np.testing.assert_allclose(other["loss"], one["loss"], rtol=1e-5)
        assert abs(third["loss"] / one["loss"] - 1) > 1e-4


def test_scope_microbatch_selects_within_each_microbatch() -> None:
    """With one row a microbatch, every row with k factual targets gives up about 60% of its own."""
    objective = ObjectiveConfig(rule="factual_loss", scope="microbatch")
    training = dataclasses.replace(CONFIG.training, microbatches=16)
    records, _ = run(dataclasses.replace(CONFIG, objective=objective, training=training), steps=1)
    batch = make_batch(0)
    valid = np.arange(1, MODEL.context + 1) < batch.lengths[:, None]
    expected = sum(int(np.round(np.float32(0.6) * n)) for n in (batch.factual[:, 1:] & valid).sum(axis=1))
    assert records[0]["count/taken"] == expected


def test_the_budgets_count_targets() -> None:
    records, _ = run(CONFIG, steps=2)
    batches = [make_batch(0), make_batch(1)]
    targets = [int(np.maximum(batch.lengths - 1, 0).sum()) for batch in batches]
    assert [count_value(record["tokens"]) for record in records] == [targets[0], sum(targets)]
    taken = [int(record["count/taken"]) for record in records]
    assert count_value(records[1]["ground_truth_tokens"]) == sum(targets) - sum(taken)
    assert sum(taken) > 0


def test_counters_pass_two_thousand_million() -> None:
    counter = jnp.zeros(2, jnp.int32)
    for _ in range(5):
        counter = add_count(counter, jnp.int32(2**30 - 1))
    assert count_value(counter) == 5 * (2**30 - 1)


def test_plain_training_without_facts_equals_cross_entropy() -> None:
    """The first loss of method ntp is the mean NLL that a plain softmax without the last columns gives."""
    config = dataclasses.replace(CONFIG, objective=ObjectiveConfig(rule="none", normalizer="renormalized"))
    records, _ = run(config, steps=1)
    params = init_state(config, vocab=VOCAB).params
    batch = make_batch(0)
    hidden = np.asarray(decoder.forward(params, batch.tokens[:, :-1], config=MODEL), np.float64)
    logits = (hidden @ np.asarray(decoder.output_matrix(params), np.float64).T)[..., :CALL]
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = -np.take_along_axis(log_probabilities, batch.tokens[:, 1:, None], axis=-1)[..., 0]
    valid = np.arange(1, MODEL.context + 1) < batch.lengths[:, None]
    np.testing.assert_allclose(records[0]["loss"] / records[0]["weight"], nll[valid].mean(), rtol=1e-5)


def test_compiled_for_eight_devices_there_is_no_sort_and_the_state_is_donated() -> None:
    model = dataclasses.replace(MODEL, compute_dtype="bfloat16")
    config = dataclasses.replace(CONFIG, model=model)
    mesh = sharding.make_mesh(MeshConfig(2, 2, 2), batch_size=16)
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(lambda: init_state(config, vocab=VOCAB))
        step = jit_train_step(config, vocab=VOCAB, call_id=CALL, mesh=mesh)
        lowered = step.lower(shapes, jax.eval_shape(lambda: jax.tree.map(jnp.asarray, make_batch(0))), None)
        compiled = lowered.compile()
    text = compiled.as_text()
    assert not re.search(r"\bsort\(", text)
    donated = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    assert compiled.memory_analysis().alias_size_in_bytes * mesh.devices.size >= donated
    assert "sharding_constraint" in lowered.as_text() or "@Sharding" in lowered.as_text()


def test_the_rate_is_logged_as_it_is_used() -> None:
    objective = ObjectiveConfig(rate=0.6, rate_warmup_steps=4)
    records, _ = run(dataclasses.replace(CONFIG, objective=objective), steps=6)
    assert [float(record["rate"]) for record in records] == pytest.approx([0.0, 0.15, 0.3, 0.45, 0.6, 0.6])
    for record in records:
        taken = round(float(record["rate"]) * float(record["count/factual"]))
        assert float(record["count/taken"]) == pytest.approx(taken, abs=1)


def test_random_rules_draw_anew_in_each_microbatch_and_step() -> None:
    config = dataclasses.replace(CONFIG, objective=ObjectiveConfig(rule="random", rate=0.5, rate_of="valid"))
    batch = jax.tree.map(jnp.asarray, make_batch(0))
    losses = jnp.zeros(batch.targets.shape)

    def taken(step: int, microbatch: int) -> np.ndarray:
        found = take_targets(
            losses, batch, config=config, step=jnp.int32(step), reference_losses=None, microbatch=microbatch
        )
        return np.asarray(found)

    draws = [taken(0, 0), taken(0, 1), taken(1, 0)]
    assert len({draw.tobytes() for draw in draws}) == 3
    assert len({int(draw.sum()) for draw in draws}) == 1
    np.testing.assert_array_equal(taken(0, 1), draws[1])
