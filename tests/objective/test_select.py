"""Selection against sorting: ties, signs, infinities, NaN, rates, and errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lacy_jax.objective import rate_at, select_targets
from tests.objective import reference

SHAPE = (3, 11)
# Few distinct values, so that ties are the rule; and every kind of float that orders strangely.
SCORES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1.5, 1e-45, -1e-45, 3e38, -3e38, np.inf, -np.inf, np.nan])
SIZE = SHAPE[0] * SHAPE[1]


def grid(values: st.SearchStrategy) -> st.SearchStrategy[np.ndarray]:
    return st.lists(values, min_size=SIZE, max_size=SIZE).map(lambda xs: np.array(xs).reshape(SHAPE))


@functools.partial(jax.jit, static_argnames=("rule", "rate_of"))
def select(losses, factual, valid, rate, *, rule, rate_of="factual", reference_losses=None, key=None):
    return select_targets(
        losses, factual, valid, rule=rule, rate=rate, rate_of=rate_of, reference_losses=reference_losses, key=key
    )


@settings(max_examples=150, deadline=None)
@given(
    losses=grid(SCORES | st.floats(-20, 20, width=32)),
    factual=grid(st.booleans()),
    valid=grid(st.booleans()),
    rate=st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1),
    rule=st.sampled_from(["factual_loss", "loss"]),
    rate_of=st.sampled_from(["factual", "valid"]),
)
def test_takes_what_sorting_takes(losses, factual, valid, rate, rule, rate_of):
    # XLA counts denormal numbers as 0 on some backends: here they are ties with it.
    losses = np.where((np.abs(losses) < 1e-38) & (losses != 0), 0.0, losses).astype(np.float32)
    taken = select(losses, factual, valid, rate, rule=rule, rate_of=rate_of)
    candidates = factual & valid if rule == "factual_loss" else valid
    np.testing.assert_array_equal(taken, reference.select(losses, candidates, factual, valid, rate, rate_of))


def test_all_equal_scores_are_taken_from_the_front():
    ones = np.ones((4, 5), bool)
    taken = select(np.full((4, 5), np.log(32_000), np.float32), ones, ones, 0.35, rule="factual_loss")
    np.testing.assert_array_equal(np.flatnonzero(taken), np.arange(7))


@pytest.mark.parametrize("size", [1, 255, 256, 65_537])
def test_any_number_of_ties(size):
    ones = np.ones((1, size), bool)
    for k in {0, 1, size // 2, size}:
        taken = select(np.zeros((1, size), np.float32), ones, ones, k / size, rule="loss", rate_of="valid")
        np.testing.assert_array_equal(np.flatnonzero(taken), np.arange(k))


def test_rounds_half_to_even_of_the_count():
    ones, losses = np.ones((1, 5), bool), np.arange(5, dtype=np.float32)[None]
    counts = [int(np.sum(select(losses, ones, ones, rate, rule="loss"))) for rate in (0.5, 0.7)]
    assert counts == [2, 4]  # 2.5 -> 2; 3.5 -> 4


def test_excess_loss_is_signed():
    losses, references = np.float32([[1.0, 5.0, 9.0]]), np.float32([[2.0, 4.0, 30.0]])
    ones = np.ones((1, 3), bool)
    taken = select(losses, ones, ones, 2 / 3, rule="excess_loss", reference_losses=references)
    np.testing.assert_array_equal(taken, [[True, True, False]])


def test_bfloat16_losses_and_judged_bits():
    rng = np.random.default_rng(0)
    losses = rng.normal(5, 2, SHAPE).astype(jnp.bfloat16)
    factual, valid = rng.random(SHAPE) < 0.5, np.ones(SHAPE, bool)
    own = select(losses, factual, valid, 0.6, rule="factual_loss")
    judged = select(losses.astype(np.float32), factual, valid, 0.6, rule="judged_loss")
    np.testing.assert_array_equal(own, judged)


def test_random_rules_draw_evenly_and_anew_for_every_key():
    valid, factual, zeros = np.ones((20, 50), bool), np.zeros((20, 50), bool), np.zeros((20, 50), np.float32)
    valid[:, 40:], factual[:, ::4] = False, True
    draws = [
        np.asarray(select(zeros, factual, valid, 0.5, rule="random_factual", rate_of="factual", key=key))
        for key in jax.random.split(jax.random.key(0), 100)
    ]
    candidates = factual & valid
    assert all(draw.sum() == 100 and not np.any(draw & ~candidates) for draw in draws)
    # 100 fair draws: a share within 6 standard deviations of 1/2 everywhere.
    assert np.all(np.abs(np.mean(draws, axis=0)[candidates] - 0.5) < 6 * 0.5 / np.sqrt(100))
    anywhere = select(zeros, factual, valid, 0.5, rule="random", rate_of="valid", key=jax.random.key(1))
    assert anywhere.sum() == 400
    assert not np.any(anywhere & ~valid)


def test_no_gradient_flows_through_the_choice():
    ones = jnp.ones((1, 4), bool)

    def loss(losses):
        return jnp.sum(jnp.where(select_targets(losses, ones, ones, rule="loss", rate=0.5), 0.0, losses))

    np.testing.assert_array_equal(jax.grad(loss)(jnp.array([[3.0, 1.0, 4.0, 2.0]])), [[0, 1, 0, 1]])


@pytest.mark.parametrize(
    ("rule", "message"),
    [("excess_loss", "needs reference_losses"), ("random", "needs key"), ("random_factual", "needs key")],
)
def test_a_rule_says_what_it_lacks(rule, message):
    ones = jnp.ones((1, 4), bool)
    with pytest.raises(ValueError, match=message):
        select_targets(jnp.zeros((1, 4)), ones, ones, rule=rule, rate=0.5)


def test_unknown_settings_are_refused():
    ones = jnp.ones((1, 4), bool)
    with pytest.raises(ValueError, match="unknown rule 'lowest'"):
        select_targets(jnp.zeros((1, 4)), ones, ones, rule="lowest", rate=0.5)
    with pytest.raises(ValueError, match="unknown rate_of 'all'"):
        select_targets(jnp.zeros((1, 4)), ones, ones, rule="loss", rate=0.5, rate_of="all")


def test_rate_warms_up_from_zero():
    at = jax.jit(functools.partial(rate_at, rate=0.6, warmup_steps=4))
    np.testing.assert_allclose([at(step) for step in (0, 1, 2, 4, 9)], [0, 0.15, 0.3, 0.6, 0.6], rtol=1e-6)
    assert rate_at(0, rate=0.6, warmup_steps=0) == np.float32(0.6)
