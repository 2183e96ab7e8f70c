"""The head's three scalars and what is derived from them, at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacy_jax.objective import (
    HeadScalars,
    call_log_odds,
    call_nll,
    call_probability,
    greedy_tokens,
    head_scalars,
    nll_with_call,
    nll_without_call,
    objective_sums,
)
from tests.objective.reference import random_inputs

ODDS = np.array([-80.0, -40, -27.63, -14, -1, 0, 1, 14, 27.63, 40, 80])


def scalars_of(odds: np.ndarray) -> HeadScalars:
    odds = jnp.asarray(odds, jnp.float32)[None]
    return HeadScalars(lse=jnp.full_like(odds, 3.0), target=jnp.full_like(odds, 1.0), call=3.0 + odds)


def test_derived_values_are_exact_at_any_log_odds():
    scalars = scalars_of(ODDS)
    odds = np.float64(call_log_odds(scalars))[0]
    close = {"rtol": 1e-6, "atol": 0}
    np.testing.assert_allclose(call_nll(scalars)[0], np.log1p(np.exp(-np.abs(odds))) + np.maximum(-odds, 0), **close)
    np.testing.assert_allclose(call_probability(scalars)[0], 1 / (1 + np.exp(-odds)), **close)
    np.testing.assert_allclose(nll_with_call(scalars)[0], 2 + np.logaddexp(0, odds), **close)
    np.testing.assert_array_equal(nll_without_call(scalars), np.full((1, len(ODDS)), 2.0))


@pytest.mark.parametrize("function", [call_nll, nll_with_call])
def test_gradients_are_finite_and_exact_at_any_log_odds(function):
    scalars = scalars_of(ODDS)
    gradient = jax.grad(lambda call: function(HeadScalars(scalars.lse, scalars.target, call)).sum())(scalars.call)[0]
    odds = np.float64(call_log_odds(scalars))[0]
    expected = -1 / (1 + np.exp(odds)) if function is call_nll else 1 / (1 + np.exp(-odds))
    np.testing.assert_allclose(gradient, expected, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nll_is_never_negative_where_the_model_is_certain(dtype):
    """lse and target come from the same rounded logits: a certain prediction costs 0, not -0.1."""
    rng = np.random.default_rng(0)
    embedding = jnp.asarray(rng.normal(size=(256, 64)), dtype)
    targets = jnp.asarray(rng.integers(0, 250, (4, 32)), jnp.int32)
    hidden = 7.3 * embedding[targets]
    for chunks in (1, 4):
        scalars = jax.jit(lambda c=chunks: head_scalars(hidden, embedding, targets, 250, vocab_chunks=c))()
        assert scalars.target.min() > 100
        assert nll_without_call(scalars).min() >= 0
        assert scalars.lse.dtype == scalars.target.dtype == scalars.call.dtype == jnp.float32


def test_the_embedding_keeps_its_dtype_in_the_gradient():
    inputs = random_inputs(0, batch=2, time=3, width=8, vocab=32)
    for dtype in (jnp.float32, jnp.bfloat16):
        embedding = jnp.asarray(inputs.embedding, dtype)

        def loss(hidden, embedding):
            return head_scalars(hidden, embedding, inputs.targets, inputs.call_id).lse.sum()

        gradients = jax.grad(loss, (0, 1))(jnp.asarray(inputs.hidden, jnp.bfloat16), embedding)
        assert [g.dtype for g in gradients] == [jnp.bfloat16, dtype]


@pytest.mark.parametrize("chunks", [1, 2, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_greedy_tokens_are_numpys_argmax_without_call_and_padding(chunks, dtype):
    inputs = random_inputs(1, batch=3, time=50, width=4, vocab=64)
    # Whole numbers: the same logits in any arithmetic, and many ties.
    hidden, embedding = np.round(inputs.hidden), np.round(inputs.embedding)
    greedy = jax.jit(greedy_tokens, static_argnums=2, static_argnames="vocab_chunks")
    tokens = greedy(jnp.asarray(hidden, dtype), embedding, inputs.call_id, vocab_chunks=chunks)
    logits = np.asarray(jnp.asarray(np.einsum("btd,vd->btv", hidden, embedding), dtype), np.float32)
    np.testing.assert_array_equal(tokens, logits[..., : inputs.call_id].argmax(-1))


def test_errors_say_what_is_wrong():
    hidden, embedding, targets = jnp.zeros((1, 2, 4)), jnp.zeros((128, 4)), jnp.zeros((1, 2), jnp.int32)
    with pytest.raises(ValueError, match="call_id 128 is not a column"):
        head_scalars(hidden, embedding, targets, 128)
    with pytest.raises(ValueError, match="vocab_chunks 3 does not divide"):
        head_scalars(hidden, embedding, targets, 100, vocab_chunks=3)
    with pytest.raises(ValueError, match="vocab_chunks 0 does not divide"):
        greedy_tokens(hidden, embedding, 100, vocab_chunks=0)
    scalars = head_scalars(hidden, embedding, targets, 100)
    ones = jnp.ones((1, 2), bool)
    with pytest.raises(ValueError, match="normalizer must be 'renormalized'"):
        objective_sums(scalars, ones, ones, treatment="joint", normalizer="full")
    for treatment in ("soft", "mixture"):
        with pytest.raises(ValueError, match=f"treatment '{treatment}' .* normalizer must be 'full'"):
            objective_sums(scalars, ones, ones, treatment=treatment)
    with pytest.raises(ValueError, match="unknown treatment 'skip'"):
        objective_sums(scalars, ones, ones, treatment="skip")
    with pytest.raises(ValueError, match="unknown normalizer 'half'"):
        objective_sums(scalars, ones, ones, treatment="call", normalizer="half")
