"""What is fitted on hidden states: the probe for facts and the row of `<CALL>`; and which score of calling is best."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from lacy_jax.adaptation.states import States
from lacy_jax.cascade.scores import CALL_SCORES
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import Gate, Score
from lacy_jax.errors import DataError
from lacy_jax.evidence.token_scores import ENDINGS, Separation, TokenScores, separate
from lacy_jax.model.probe import Probe
from lacy_jax.training.probe import fit_logistic


def fit_probe(states: States) -> Probe:
    """The logistic probe for factual targets.

    Raises:
        DataError: no target is factual, or all are.
    """
    weights_D, bias = _fit(states, states.factual, called="facts")
    return Probe(weights=tuple(weights_D.tolist()), bias=bias)


def fit_call_row(states: States) -> np.ndarray:
    """float64[D]: a row of `<CALL>` whose logit finds targets that are factual and wrong.

    The output matrix has no bias, so the logit ranks tokens and is no calibrated probability.

    Raises:
        DataError: no target is factual and wrong, or all are.
    """
    weights_D, _ = _fit(states, states.factual & states.wrong, called="facts that the model gets wrong")
    return weights_D


def with_call_row(slm: LoadedModel, weights_D: np.ndarray) -> LoadedModel:
    """The model with this row of `<CALL>` in its output matrix; no other parameter changes."""
    name = "output" if "output" in slm.params else "embedding"
    table_VD = slm.params[name]["embedding"]
    changed = table_VD.at[slm.tokenizer.call_id].set(jnp.asarray(weights_D, table_VD.dtype))
    return dataclasses.replace(slm, params={**slm.params, name: {"embedding": changed}})


def _fit(states: States, labels: np.ndarray, *, called: str) -> tuple[np.ndarray, float]:
    """Weights float64[D] and bias of a logistic regression on hidden states; `called`: those whose label is true."""
    if labels.all() or not labels.any():
        none = "all" if labels.all() else "none"
        raise DataError(f"of {len(labels):,} tokens of the documents {none} are {called}; give more documents")
    hidden_ND = states.hidden.astype(np.float32)
    mean_D, spread_D = hidden_ND.mean(axis=0), hidden_ND.std(axis=0) + 1e-6
    fitted = fit_logistic((hidden_ND - mean_D) / spread_D, labels)
    weights_D = fitted[:-1] / spread_D
    return weights_D, float(fitted[-1] - weights_D @ mean_D)


@dataclasses.dataclass(frozen=True)
class Ranking:
    """A way to rank tokens for calls, and how well it does on held-out documents."""

    score: Score
    gate: Gate
    separation: Separation

    @property
    def name(self) -> str:
        """Of its values in `TokenScores.scores`."""
        return self.score + ENDINGS[self.gate]


def best_at_a_price(found: Sequence[Ranking]) -> Ranking:
    """The first of rankings whose score stands for a probability, as a price needs.

    A score of `<CALL>` does not: its row is fitted by itself, so its logit has another scale than the others.
    """
    return next(each for each in found if (score := CALL_SCORES[each.score]).needs != "call" and score.threshold)


def rankings(tokens: TokenScores, *, scores: Sequence[Score], budget: float) -> list[Ranking]:
    """Every score alone and gated, the best first: by the area for targets that are factual and wrong."""
    found = [
        Ranking(score, gate, separation)
        for score in scores
        for gate, ending in ENDINGS.items()
        if (separation := separate(tokens, score + ending, budget=budget)) is not None
    ]
    return sorted(found, key=lambda each: -each.separation.area_both)
