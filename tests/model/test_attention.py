"""Attention and the feed-forward product, values and gradients, against NumPy in float64."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacy_jax.model.attention import attend
from lacy_jax.model.product import product


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@functools.partial(jax.jit, static_argnums=0)
def with_gradients(function: Callable[..., jax.Array], gradient: jax.Array, *inputs: jax.Array) -> tuple[Any, ...]:
    """(output, gradient of each input), compiled as one program."""
    out, backward = jax.vjp(function, *inputs)
    return out, *backward(gradient)


def attention_reference(
    q_BTHN: np.ndarray, k_BTKN: np.ndarray, v_BTKN: np.ndarray, grad_BTHN: np.ndarray
) -> tuple[np.ndarray, ...]:
    """(output, dq, dk, dv), one query at a time."""
    batch, time, heads, width = q_BTHN.shape
    shared = heads // k_BTKN.shape[2]
    out, dq = np.zeros((2, *q_BTHN.shape))
    dk, dv = np.zeros((2, *k_BTKN.shape))
    for b, t, h in np.ndindex(batch, time, heads):
        k, v = (x[b, : t + 1, h // shared] for x in (k_BTKN, v_BTKN))
        scores = k @ q_BTHN[b, t, h] / width**0.5
        p = np.exp(scores - scores.max())
        p /= p.sum()
        out[b, t, h] = p @ v
        d_p = v @ grad_BTHN[b, t, h]
        d_scores = (np.diag(p) - np.outer(p, p)) @ d_p / width**0.5  # the Jacobian of a softmax, written out
        dq[b, t, h] = d_scores @ k
        dk[b, : t + 1, h // shared] += np.outer(d_scores, q_BTHN[b, t, h])
        dv[b, : t + 1, h // shared] += np.outer(p, grad_BTHN[b, t, h])
    return out, dq, dk, dv


# A multiple of the four blocks, one that is not, less than one a block, a single token; K below H.
@pytest.mark.parametrize(("time", "kv_heads"), [(16, 4), (24, 2), (13, 1), (3, 4), (1, 2)])
def test_attention(rng: np.random.Generator, time: int, kv_heads: int) -> None:
    q, grad = 2 * rng.normal(size=(2, 2, time, 4, 8))
    k, v = rng.normal(size=(2, 2, time, kv_heads, 8))
    found = with_gradients(attend, *(np.float32(x) for x in (grad, q, k, v)))
    for name, ours, theirs in zip(("out", "dq", "dk", "dv"), found, attention_reference(q, k, v, grad), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5, err_msg=name)


def test_attention_in_bfloat16(rng: np.random.Generator) -> None:
    """As near to the truth as eight bits allow: each value is rounded once or twice on its way."""
    q, k, v, grad = rng.normal(size=(4, 1, 32, 2, 16))
    found = with_gradients(attend, *(x.astype(jnp.bfloat16) for x in (grad, q, k, v)))
    for ours, theirs in zip(found, attention_reference(q, k, v, grad), strict=True):
        assert ours.dtype == jnp.bfloat16
        error = np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max()
        assert error < 0.02


@pytest.mark.parametrize(("inner", "outer"), [(6, 24), (24, 6), (6, 6)])
def test_product(rng: np.random.Generator, inner: int, outer: int) -> None:
    x, weights, grad = rng.normal(size=(2, 5, inner)), rng.normal(size=(inner, outer)), rng.normal(size=(2, 5, outer))
    out, dx, d_weights = with_gradients(product, *(np.float32(each) for each in (grad, x, weights)))
    np.testing.assert_allclose(out, x @ weights, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dx, grad @ weights.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(d_weights, np.tensordot(x, grad, axes=((0, 1), (0, 1))), rtol=1e-5, atol=1e-5)
