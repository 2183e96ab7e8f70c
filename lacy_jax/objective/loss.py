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
) -> ObjectiveSums:
    """Loss sum and its weight (paper section 2, step 3).

    | treatment | taken | other valid targets | weight |
    |---|---|---|---|
    | call | NLL of `<CALL>` | NLL of y, by the normalizer | valid |
    | ignore | nothing | NLL of y, by the normalizer | valid and not taken |
    | joint | NLL of y without `<CALL>` + joint_weight * softplus(-a) | ... + joint_weight * softplus(a) | valid |

    normalizer: `renormalized` is the softmax without `<CALL>`, `full` the one with it. With nothing
    taken and `renormalized` every treatment but joint is plain cross-entropy.

    Raises:
      ValueError: an unknown treatment or normalizer; joint with `full` (its y terms are renormalised).
    """
    taken = taken & valid
    if (treatment, normalizer) == ("joint", "full"):
        raise ValueError("treatment 'joint' keeps the NLL without <CALL>: normalizer must be 'renormalized'")
    if normalizer not in ("renormalized", "full"):
        raise ValueError(f"unknown normalizer {normalizer!r}")
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
        case _:
            raise ValueError(f"unknown treatment {treatment!r}")
    return ObjectiveSums(
        loss=jnp.sum(jnp.where(counted, losses, 0.0)),
        weight=jnp.sum(counted, dtype=jnp.float32),
        valid=jnp.sum(valid, dtype=jnp.int32),
        taken=jnp.sum(taken, dtype=jnp.int32),
        ground_truth=jnp.sum(learned, dtype=jnp.int32),
    )
