"""Cached decoding against the full forward pass, whatever the chunks, the lengths and the neighbours."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacy_jax.cascade.decoding import engine, programs
from lacy_jax.cascade.decoding.engine import Engine, Step
from lacy_jax.cascade.decoding.session import Session
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.model import decoder
from lacy_jax.model.probe import Probe

Model = Callable[..., LoadedModel]
CONTEXT = 400  # buckets 128, 256, 400


forward = jax.jit(decoder.forward, static_argnames="config")

PROGRAMS: tuple[Any, ...] = (
    programs._embedded, programs._read_layer, programs._take_rows, programs._write_rows, programs._put_rows
)  # fmt: skip


def hidden_states(loaded: LoadedModel, ids: Sequence[int]) -> np.ndarray:
    """One uncached pass over a row, float64 [T, D]; tokens after its end cannot matter, and save compilations."""
    padded = [*ids, *[0] * (loaded.model.context - len(ids))]
    hidden = np.asarray(forward(loaded.params, np.array([padded]), config=loaded.model))
    return hidden[0, : len(ids)].astype(np.float64)


def full_forward(loaded: LoadedModel, ids: Sequence[int]) -> list[Step]:
    """The head in float64 NumPy after every token of a row."""
    hidden = hidden_states(loaded, ids)
    logits = hidden @ np.asarray(decoder.output_matrix(loaded.params), np.float64).T
    call_id, end_id = loaded.tokenizer.call_id, loaded.tokenizer.end_id
    steps = []
    probe = loaded.factual_probe or Probe(weights=(0.0,) * hidden.shape[1], bias=0.0)
    factual = 1 / (1 + np.exp(-(hidden @ np.array(probe.weights) + probe.bias)))
    probe = loaded.saving_probe or probe
    saved = hidden @ np.array(probe.weights) + probe.bias if loaded.saving_probe else np.zeros(len(hidden))
    for row, gate, saving in zip(logits, factual, saved, strict=True):
        others = row[:call_id]
        lse = others.max() + np.log(np.exp(others - others.max()).sum())
        probabilities = np.exp(others - lse)
        allowed = [i for i in range(call_id) if loaded.tokenizer.byte_lengths[i] or i == end_id]
        steps.append(
            Step(
                token=max(allowed, key=lambda i: row[i]),
                call_score=row[call_id] - lse,
                call_logit=row[call_id],
                uncertainty=1 - probabilities.max(),
                entropy=lse - (probabilities * others).sum(),
                factual=gate,
                saving=saving,
            )
        )
    return steps


def assert_same(step: Step, expected: Step) -> None:
    assert step.token == expected.token
    values = Step._fields[1:]
    np.testing.assert_allclose(
        [getattr(step, name) for name in values], [getattr(expected, name) for name in values], rtol=2e-5, atol=2e-5
    )


def row_of(loaded: LoadedModel, length: int, rng: np.random.Generator) -> list[int]:
    return rng.integers(3, loaded.tokenizer.call_id, length).tolist()


@pytest.mark.parametrize("style", ["gpt2", pytest.param("llama", marks=pytest.mark.slow)])
def test_decoding_equals_full_forward_across_all_buckets(model: Model, rng: np.random.Generator, style: str) -> None:
    loaded = model(style, context=CONTEXT, scale=3.0)
    session = Session(Engine(loaded), slots=3)
    rows = [row_of(loaded, length, rng) for length in (CONTEXT - 1, 270, 140)]
    expected = [full_forward(loaded, row) for row in rows]
    fed = [2, 5, 1]
    crossed = set()
    while any(have < len(row) for have, row in zip(fed, rows, strict=True)):
        # Chunks of every size, one row at a time now and then, and often one token for all.
        growth = [int(rng.choice([0, 1, 1, 3, 40])) for _ in rows]
        fed = [min(len(row), have + more) for have, more, row in zip(fed, growth, rows, strict=True)]
        named = {slot: rows[slot][: fed[slot]] for slot, more in enumerate(growth) if more}
        if not named:
            continue
        for slot, (step,) in session.steps(named).items():
            assert_same(step, expected[slot][fed[slot] - 1])
        crossed.add(session._groups[0]._cache.length)
    assert crossed == {128, 256, CONTEXT}


@pytest.mark.parametrize("names", [["factual_probe"], ["saving_probe"], ["factual_probe", "saving_probe"]])
def test_the_probes_are_the_checkpoints(model: Model, rng: np.random.Generator, names: list[str]) -> None:
    plain = model(scale=3.0)
    probes = {name: Probe(weights=tuple(rng.normal(size=plain.model.width)), bias=-0.5) for name in names}
    loaded = dataclasses.replace(plain, **probes)  # type: ignore[arg-type]
    row = row_of(loaded, 20, rng)
    assert_same(Session(Engine(loaded), slots=1).steps({0: row})[0][0], full_forward(loaded, row)[-1])


def test_a_long_prompt_is_fed_in_chunks(model: Model, rng: np.random.Generator) -> None:
    loaded = model(context=600, scale=3.0)
    row = row_of(loaded, 599, rng)
    assert_same(Session(Engine(loaded), slots=1).steps({0: row})[0][0], full_forward(loaded, row)[-1])


def test_a_changed_row_keeps_only_what_it_shares(model: Model, rng: np.random.Generator) -> None:
    loaded = model(scale=3.0)
    session = Session(Engine(loaded), slots=2)
    old, other = row_of(loaded, 40, rng), row_of(loaded, 50, rng)
    session.steps({0: old, 1: other})
    for changed in (old[:30] + row_of(loaded, 7, rng), old[:10], other, old):
        assert_same(session.steps({0: changed})[0][0], full_forward(loaded, changed)[-1])
        assert list(session.held(0)) == changed
    # Slot 1 was never named, and is as it was.
    longer = [*other, 5]
    assert_same(session.steps({1: longer})[1][0], full_forward(loaded, longer)[-1])


@pytest.mark.parametrize("failing", ["read", "write"])
def test_a_step_that_failed_leaves_no_wrong_cache(
    model: Model, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """A device that fails half-way (out of memory, say): what it overwrote or donated is not taken for the row's."""
    loaded = model(scale=3.0)
    session = Session(Engine(loaded), slots=2)
    row, other = row_of(loaded, 40, rng), row_of(loaded, 50, rng)
    session.steps({0: row, 1: row})
    program = getattr(engine.programs, failing)

    def fails(*arguments: object, **options: object) -> None:
        program(*arguments, **options)
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine.programs, failing, fails)
        with pytest.raises(RuntimeError, match="out of memory"):
            session.steps({0: other})
    for slot in (0, 1):
        assert_same(session.steps({slot: row})[slot][0], full_forward(loaded, row)[-1])


@pytest.mark.parametrize("length", [127, 128, 129])
def test_waiting_at_a_buckets_edge_changes_nothing(model: Model, rng: np.random.Generator, length: int) -> None:
    """Rows that are not fed are padding, which goes to a slot that no row ever fills."""
    loaded = model(context=140, scale=3.0)
    session = Session(Engine(loaded), slots=2)
    row = row_of(loaded, length + 1, rng)
    session.steps({0: row[:-1], 1: row[:3]})
    session.steps({1: row[:4]})
    assert_same(session.steps({0: row})[0][0], full_forward(loaded, row)[-1])


@pytest.mark.parametrize("context", [8, 33, 140])
@pytest.mark.parametrize("style", ["gpt2", "llama"])
def test_a_row_beyond_the_context_is_seen_by_its_tail(
    model: Model, rng: np.random.Generator, context: int, style: str
) -> None:
    loaded = model(style, context=context, scale=3.0)
    session = Session(Engine(loaded), slots=1)
    row = row_of(loaded, 2 * context + 3, rng)
    for length in range(context - 3, len(row) + 1):
        start = engine.window_start(length, context=context)
        step = session.steps({0: row[:length]})[0][0]
        if length in (context - 1, context, context + 1, len(row)):
            assert_same(step, full_forward(loaded, row[start:length])[-1])


@pytest.mark.parametrize("context", [8, 9, 33, 1024])
def test_the_window_keeps_at_least_half_the_context(context: int) -> None:
    for length in range(1, 5 * context):
        seen = length - engine.window_start(length, context=context)
        assert seen == length if length < context else context // 2 <= seen < context
    # It moves half a context at a time, so that a row is rarely read anew.
    starts = {engine.window_start(length, context=context) for length in range(5 * context)}
    assert starts == set(range(0, max(starts) + 1, context // 2))


def test_call_and_control_tokens_are_never_emitted(model: Model) -> None:
    loaded = model("llama", scale=3.0)  # its output matrix is its own
    tokenizer = loaded.tokenizer
    matrix = np.array(decoder.output_matrix(loaded.params))
    forbidden = [0, 1, tokenizer.call_id, *range(tokenizer.vocab_size, len(matrix))]
    matrix[forbidden] = 100 * hidden_states(loaded, [5, 6])[-1]  # the highest logits by far
    changed = dataclasses.replace(loaded, params={**loaded.params, "output": {"embedding": jnp.array(matrix)}})
    step = Session(Engine(changed), slots=1).steps({0: [5, 6]})[0][0]
    assert step.token == full_forward(changed, [5, 6])[-1].token
    assert step.token not in forbidden
    assert step.call_logit > 100


@pytest.mark.slow
@pytest.mark.parametrize("style", ["gpt2", "llama"])
def test_bfloat16_across_all_buckets(model: Model, rng: np.random.Generator, style: str) -> None:
    """Against the full pass in bfloat16: what differs is the order of sums, whose results are rounded to 8 bits."""
    loaded = model(style, context=CONTEXT, scale=2.0)
    low = dataclasses.replace(loaded.model, compute_dtype="bfloat16")
    row = row_of(loaded, CONTEXT - 1, rng)
    padded = jnp.array([[*row, 0]])
    hidden = np.asarray(forward(loaded.params, padded, config=low)[0, : len(row)], np.float64)
    matrix = np.asarray(decoder.output_matrix(loaded.params).astype(jnp.bfloat16), np.float64)
    logits = hidden @ matrix[loaded.tokenizer.call_id]
    session = Session(Engine(loaded, compute_dtype="bfloat16"), slots=2)
    errors = []
    for length in (5, 6, 100, 127, 128, 129, 255, 256, 257, len(row)):
        step = session.steps({1: row[:length]})[1][0]
        assert np.isfinite([step.call_score, step.uncertainty, step.entropy]).all()
        errors.append(step.call_logit - logits[length - 1])
    # Each of a few roundings moves a logit by up to 2**-8 of its terms.
    assert np.abs(errors).max() < 8 * 2**-8 * np.abs(hidden).max() * np.abs(matrix[loaded.tokenizer.call_id]).sum()
    assert np.sqrt(np.mean(np.square(errors))) < 2**-5 * np.std(logits)


@pytest.mark.parametrize(("slots", "groups"), [(3, 1), (4, 2)])
def test_nothing_is_compiled_after_warming_up(model: Model, rng: np.random.Generator, slots: int, groups: int) -> None:
    loaded = model()
    session = Session(Engine(loaded), slots=slots, groups=groups)
    assert session.warm_up() > 0
    compiled = [program._cache_size() for program in PROGRAMS]
    for named, length in (([0], 5), ([0, 1, 2], 70), ([1], loaded.model.context + 3)):
        session.steps({slot: row_of(loaded, length, rng) for slot in named}, ahead=2)
    assert [program._cache_size() for program in PROGRAMS] == compiled


def test_cache_buckets() -> None:
    assert engine.cache_buckets(64) == (64,)
    assert engine.cache_buckets(128) == (128,)
    assert engine.cache_buckets(160) == (160,)
    assert engine.cache_buckets(300) == (128, 300)
    assert engine.cache_buckets(500) == (128, 256, 500)
    assert engine.cache_buckets(1024) == (128, 256, 1024)
    assert engine.cache_buckets(8192) == (128, 256, 1024, 4096, 8192)
