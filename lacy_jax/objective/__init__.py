"""The paper in three functions: three scalars per token, which targets are taken, and what that costs.

scalars = head_scalars(hidden, embedding, targets, call_id)
taken = select_targets(nll_without_call(scalars), factual, valid, rule="factual_loss", rate=0.6)
sums = objective_sums(scalars, taken, valid, treatment="call", normalizer="renormalized")
loss = sums.loss / sums.weight          # divided once, by the weight of the global batch
"""

from lacy_jax.objective.head import HeadScalars, greedy_tokens, head_scalars
from lacy_jax.objective.loss import (
    ObjectiveSums,
    call_log_odds,
    call_nll,
    call_probability,
    nll_with_call,
    nll_without_call,
    objective_sums,
)
from lacy_jax.objective.select import rate_at, select_targets

__all__ = ["HeadScalars", "ObjectiveSums", "call_log_odds", "call_nll", "call_probability", "greedy_tokens"]
__all__ += ["head_scalars", "nll_with_call", "nll_without_call", "objective_sums", "rate_at", "select_targets"]
