"""What the taken and the other targets cost: sums and weights over one (micro)batch.

Everything is a function of three scalars per token, safe in float32 at any log-odds because `lse` never
contained `<CALL>`. With a = call - lse, the log-odds of `<CALL>`:

    NLL of y without <CALL>      lse - target
    NLL of y on the full softmax lse - target + softplus(a)
    NLL of <CALL>                softplus(-a)
    p(<CALL>)                    sigmoid(a)
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lacy_jax.config import Normalizer, Treatment
from lacy_jax.objective.head import HeadScalars


def call_log_odds(scalars: HeadScalars) -> jax.Array:
    """Log-odds of `<CALL>` against the rest, the cascade's call score; float32 [B, T]."""
    return scalars.call - scalars.lse


def nll_without_call(scalars: HeadScalars) -> jax.Array:
    """NLL of the true token on the softmax renormalised without `<CALL>`, in nats; float32 [B, T]."""
    return scalars.lse - scalars.target


def nll_with_call(scalars: HeadScalars) -> jax.Array:
    """NLL of the true token on the full softmax, in nats; float32 [B, T]."""
    return nll_without_call(scalars) + jax.nn.softplus(call_log_odds(scalars))


def call_nll(scalars: HeadScalars) -> jax.Array:
    """NLL of `<CALL>` on the full softmax, in nats; float32 [B, T]."""
    return jax.nn.softplus(-call_log_odds(scalars))


def call_probability(scalars: HeadScalars) -> jax.Array:
    """p(<CALL>) on the full softmax; float32 [B, T]."""
    return jax.nn.sigmoid(call_log_odds(scalars))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ObjectiveSums:
    """Sums over a (micro)batch. They add up over microbatches; the loss is loss / weight, divided once."""

    loss: jax.Array  # float32, nats
    weight: jax.Array  # float32, targets that the mean is taken over
    valid: jax.Array  # int32, targets that are not padding
    taken: jax.Array  # int32
    ground_truth: jax.Array  # int32, targets that gave a ground-truth gradient (the paper's matching)


def objective_sums(
    scalars: HeadScalars,
    taken: jax.Array,
    valid: jax.Array,
    *,
    treatment: Treatment,
    normalizer: Normalizer = "renormalized",
    joint_weight: float | jax.Array = 1.0,
    partner_right: float | jax.Array = 0.95,
    call_cost: float | jax.Array = 0.1,
) -> ObjectiveSums:
    """Loss sum and its weight (paper section 2, step 3; `soft` and `mixture` are ours, docs/objective.md).

    | treatment | taken | other valid targets | weight |
    |---|---|---|---|
    | call | NLL of `<CALL>` | NLL of y, by the normalizer | valid |
    | ignore | nothing | NLL of y, by the normalizer | valid and not taken |
    | joint | NLL of y without `<CALL>` + joint_weight * softplus(-a) | ... + joint_weight * softplus(a) | valid |
    | soft | (1 - w) NLL of y + w NLL of `<CALL>`, w = 1 - p(y without `<CALL>`), a constant | NLL of y | valid |
    | mixture | -log(p(y) + s * partner_right) + call_cost * s | NLL of y + call_cost * s | valid |

    y's NLL and p(y) are those of the normalizer, s is p(`<CALL>`), and partner_right is the partner's probability of
    y at a taken target; at others it is 0. A target counts as ground truth, and as one, if its y gets any gradient:
    with joint, soft and mixture the taken ones do, too.

    normalizer: `renormalized` is the softmax without `<CALL>`, `full` the one with it. With nothing
    taken and `renormalized`, call and ignore are plain cross-entropy.

    Raises:
      ValueError: an unknown treatment or normalizer; joint with `full` (its y terms are renormalised), soft or
        mixture without it (theirs are not).
    """
    _check_pair(treatment, normalizer)
    taken = taken & valid
    token_nll = nll_with_call(scalars) if normalizer == "full" else nll_without_call(scalars)
    counted = learned = valid & ~taken
    match treatment:
        case "call":
            losses, counted = jnp.where(taken, call_nll(scalars), token_nll), valid
        case "ignore":
            losses = token_nll
        case "joint":
            call_term = jax.nn.softplus(jnp.where(taken, -1.0, 1.0) * call_log_odds(scalars))
            losses, counted, learned = token_nll + joint_weight * call_term, valid, valid
        case "soft":
            losses, counted, learned = jnp.where(taken, _soft_nll(scalars), token_nll), valid, valid
        case "mixture":
            # p(<CALL>), but not by `sigmoid`: JAX's gradient of that is 0 where float32 rounds it to 1.
            cost = call_cost * jnp.exp(-call_nll(scalars))
            losses = jnp.where(taken, _either_nll(scalars, partner_right), token_nll) + cost
            counted = learned = valid
        case _:
            raise ValueError(f"unknown treatment {treatment!r}")
    return ObjectiveSums(
        loss=jnp.sum(jnp.where(counted, losses, 0.0)),
        weight=jnp.sum(counted, dtype=jnp.float32),
        valid=jnp.sum(valid, dtype=jnp.int32),
        taken=jnp.sum(taken, dtype=jnp.int32),
        ground_truth=jnp.sum(learned, dtype=jnp.int32),
    )


def _check_pair(treatment: Treatment, normalizer: Normalizer) -> None:
    """Raises `ValueError` where the two do not go together."""
    if (treatment, normalizer) == ("joint", "full"):
        raise ValueError("treatment 'joint' keeps the NLL without <CALL>: normalizer must be 'renormalized'")
    if treatment in ("soft", "mixture") and normalizer == "renormalized":
        raise ValueError(f"treatment {treatment!r} shares one softmax with <CALL>: normalizer must be 'full'")
    if normalizer not in ("renormalized", "full"):
        raise ValueError(f"unknown normalizer {normalizer!r}")


def _soft_nll(scalars: HeadScalars) -> jax.Array:
    """The label shared between the true token and `<CALL>`, in nats; float32 [B, T]."""
    own_nll = jax.lax.stop_gradient(nll_without_call(scalars))
    # Each from its own formula, so that a small p and a small 1 - p both keep their digits.
    return jnp.exp(-own_nll) * nll_with_call(scalars) - jnp.expm1(-own_nll) * call_nll(scalars)


def _either_nll(scalars: HeadScalars, partner_right: float | jax.Array) -> jax.Array:
    """NLL of the true token, written by the SLM or, after a call, by the partner, in nats; float32 [B, T]."""
    return -jnp.logaddexp(-nll_with_call(scalars), jnp.log(partner_right) - call_nll(scalars))
