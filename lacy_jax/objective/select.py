"""Which targets are taken: the highest scores among the candidates, exactly, over the global batch."""

import jax
import jax.numpy as jnp

from lacy_jax.config import RateOf, Rule


def select_targets(
    losses: jax.Array,
    factual: jax.Array,
    valid: jax.Array,
    *,
    rule: Rule,
    rate: float | jax.Array,
    rate_of: RateOf = "factual",
    reference_losses: jax.Array | None = None,
    key: jax.Array | None = None,
) -> jax.Array:
    """Targets that the rule takes, bool [B, T]: never padding, the same set on every mesh.

    | rule | candidates | taken first |
    |---|---|---|
    | none | - | - |
    | factual_loss, judged_loss | factual | highest loss (LaCy; a judge's bits come in as `factual`) |
    | loss | all valid | highest loss |
    | excess_loss | all valid | highest loss - reference loss, signed (Rho-1) |
    | factual | factual | all of them, whatever the rate (Ignore facts) |
    | random, random_factual | all valid; factual | drawn with `key` |

    k = round(rate * count), half to even, in float32, where count is the number of factual or valid
    targets (`rate_of`); where there are fewer candidates than k, all are taken. Exactly k are: equal
    scores are taken in the order of their place in the batch. A NaN score is never taken.

    Args:
      losses: float [B, T], the NLL of the true token; any sign. No gradient flows through the choice.
      factual, valid: bool [B, T]; a factual target that is not valid does not count.
      rate: share in [0, 1], a number or a traced scalar (see `rate_at`).
      reference_losses: float [B, T], for excess_loss.
      key: for the random rules; JAX's default generator draws the same on every mesh.

    Raises:
      ValueError: rule or rate_of is unknown, or the rule lacks its reference_losses or key.
    """
    factual = factual & valid
    candidates = factual if rule in ("factual_loss", "judged_loss", "random_factual") else valid
    match rule:
        case "none" | "factual":
            return factual if rule == "factual" else jnp.zeros_like(valid)
        case "factual_loss" | "judged_loss" | "loss":
            scores = losses
        case "excess_loss" if reference_losses is not None:
            scores = losses.astype(jnp.float32) - reference_losses.astype(jnp.float32)
        case "random" | "random_factual" if key is not None:
            scores = jax.random.uniform(key, losses.shape)
        case "excess_loss" | "random" | "random_factual":
            needed = "reference_losses" if rule == "excess_loss" else "key"
            raise ValueError(f"rule {rule!r} needs {needed}")
        case _:
            raise ValueError(f"unknown rule {rule!r}")
    if rate_of not in ("factual", "valid"):
        raise ValueError(f"unknown rate_of {rate_of!r}")
    count = jnp.sum(factual if rate_of == "factual" else valid, dtype=jnp.int32)
    return _take_highest(scores, candidates, jnp.round(jnp.float32(rate) * count).astype(jnp.int32))


def rate_at(step: int | jax.Array, *, rate: float, warmup_steps: int) -> jax.Array:
    """Rate after `step` completed updates: linear from 0 to `rate` over `warmup_steps`, float32."""
    progress = jnp.asarray(step, jnp.float32) / warmup_steps if warmup_steps else jnp.float32(1.0)
    return jnp.minimum(progress, 1.0) * rate


def _take_highest(scores: jax.Array, candidates: jax.Array, k: jax.Array) -> jax.Array:
    """The k candidates of highest score (all, where there are fewer); of equal ones the earliest."""
    candidates = candidates & ~jnp.isnan(scores)
    k = jnp.minimum(k, jnp.sum(candidates, dtype=jnp.int32))
    keys = jnp.where(candidates, _ordered(jax.lax.stop_gradient(scores)), 0)
    threshold = _kth_largest(keys, k, bits=32)
    above, ties = keys > threshold, keys == threshold
    # The place in the global batch counts down, so the earliest tie has the largest value.
    place = jnp.arange(keys.size, 0, -1, dtype=jnp.uint32).reshape(keys.shape)
    ties_left = k - jnp.sum(above, dtype=jnp.int32)
    last = _kth_largest(jnp.where(ties, place, 0), ties_left, bits=keys.size.bit_length())
    return above | (ties & (place >= last))


def _ordered(scores: jax.Array) -> jax.Array:
    """uint32 in the order of the floats (none of them 0 or all ones); -0.0 equals 0.0."""
    scores = scores.astype(jnp.float32)
    bits = jax.lax.bitcast_convert_type(jnp.where(scores == 0, 0.0, scores), jnp.uint32)
    return bits ^ jnp.where(bits >> 31, jnp.uint32(0xFFFFFFFF), jnp.uint32(0x80000000))


def _kth_largest(keys: jax.Array, k: jax.Array, *, bits: int) -> jax.Array:
    """The k-th largest of keys < 2**bits (k = 0: beyond them), by radix: 8 bits a round, 256 counts summed each."""
    threshold = jnp.uint32(0)
    digits = jnp.arange(256, dtype=jnp.uint32)
    for shift in reversed(range(0, bits, 8)):
        steps = threshold + (digits << shift)
        counts = jnp.sum(keys >= steps.reshape(256, *[1] * keys.ndim), axis=range(1, keys.ndim + 1), dtype=jnp.int32)
        # Counts fall with the digit: the largest digit that still leaves k is the last one that does.
        digit = jnp.sum(counts >= k, dtype=jnp.uint32) - 1
        threshold = threshold + (digit << shift)
    return threshold
