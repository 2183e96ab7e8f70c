"""`config.objective.call_rate`: what a call costs follows the share of the targets that call."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from lacy_jax.config import ObjectiveConfig
from lacy_jax.objective import HeadScalars, call_nll, objective_sums
from lacy_jax.training.loss import batch_loss, call_cost, token_scalars
from lacy_jax.training.state import init_state
from tests.training.test_step import CALL, CONFIG, VOCAB, make_batch

PADDING = 8


def where_it_rests(own: np.ndarray, theirs: np.ndarray, *, cost: float, rate: float) -> np.ndarray:
    """p(CALL) of each target in float64, by the closed form of its minimum at a cost, and that cost by bisection.

    -log((1 - s) p + s r) + c s has its minimum over s in [0, 1] at 1 / c - p / (r - p) where r > p, else at 0.
    """
    gain = np.maximum(theirs - own, 1e-12)

    def called(log_cost: float) -> np.ndarray:
        return np.asarray(np.clip(np.exp(-log_cost) - own / gain, 0.0, 1.0))

    def off(log_cost: float) -> float:
        return float(log_cost - np.log(cost * (called(log_cost).mean() / rate) ** 2 + 1e-30))

    return called(optimize.brentq(off, -20.0, 20.0))


@pytest.mark.parametrize(("cost", "rate"), [(1.0, 0.1), (1.0, 0.3), (0.1, 0.2)])
def test_the_share_comes_to_rest_where_the_cost_says(cost: float, rate: float) -> None:
    rng = np.random.default_rng(0)
    own, theirs = rng.uniform(0.01, 0.9, 200), rng.uniform(0.05, 1.0, 200)
    settings = ObjectiveConfig(rule="loss", treatment="mixture", call_cost=cost, call_rate=rate)
    valid = jnp.arange(len(own) + PADDING)[None] < len(own)
    rows = [np.pad(each, (0, PADDING), constant_values=0.5)[None] for each in (own, theirs)]

    def scalars(call: jax.Array) -> HeadScalars:
        return HeadScalars(lse=jnp.zeros(valid.shape), target=jnp.log(jnp.asarray(rows[0])), call=call)

    @jax.jit
    def step(call: jax.Array) -> jax.Array:
        def loss(call: jax.Array) -> jax.Array:
            said = scalars(call)
            price = call_cost(said, valid, settings)
            options = {"treatment": "mixture", "normalizer": "full", "partner_right": jnp.asarray(rows[1])}
            return objective_sums(said, valid, valid, call_cost=price, **options).loss  # type: ignore[arg-type]

        return jnp.clip(call - jax.grad(loss)(call), -12.0, 12.0)

    # The padding calls always, and does not count.
    call = jax.lax.fori_loop(0, 4000, lambda _, each: step(each), jnp.where(valid, 0.0, 12.0))
    found = np.exp(-np.asarray(call_nll(scalars(call))))[0, : len(own)]
    expected = where_it_rests(own, theirs, cost=cost, rate=rate)
    np.testing.assert_allclose(found.mean(), expected.mean(), rtol=0.02)
    np.testing.assert_allclose(found, expected, atol=0.03)
    assert rate / 2 < found.mean() < 2 * rate


def test_the_loss_of_a_batch_has_that_cost() -> None:
    """Against the same loss without a cost, and p(CALL) of the valid targets."""
    batch = make_batch(0)
    params = init_state(CONFIG, vocab=VOCAB).params

    def loss(**settings: float) -> float:
        objective = ObjectiveConfig(rule="loss", treatment="mixture", **settings)  # type: ignore[arg-type]
        config = dataclasses.replace(CONFIG, objective=objective)
        return float(batch_loss(params, batch, config=config, call_id=CALL, step=jnp.int32(0))[0])

    scalars = token_scalars(params, batch, model=CONFIG.model, call_id=CALL, vocab_chunks=1)
    called = np.exp(-np.asarray(call_nll(scalars), np.float64))[np.asarray(batch.valid)]
    price = 0.5 * (called.mean() / 0.005) ** 2
    assert 0.1 < price < 1.0
    assert loss(call_cost=0.5, call_rate=0.005) - loss(call_cost=0.0) == pytest.approx(price * called.sum(), rel=1e-3)


def test_without_a_rate_the_cost_is_the_setting() -> None:
    scalars = HeadScalars(*(jnp.zeros((1, 4)) for _ in range(3)))
    assert call_cost(scalars, jnp.ones((1, 4), bool), ObjectiveConfig(treatment="mixture", call_cost=0.7)) == 0.7
    nothing = call_cost(scalars, jnp.zeros((1, 4), bool), ObjectiveConfig(treatment="mixture", call_rate=0.1))
    assert float(nothing) == 0.0  # of a batch without a target
