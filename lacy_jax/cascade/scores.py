"""Scores of calling: one table, read by the cascade token by token and by the evidence for whole arrays.

A new score is a row of `CALL_SCORES` here, and its name in `config.Score`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lacy_jax.config import Gate, Score, ScoreSetting
from lacy_jax.errors import ConfigError

# A gate that is shut leaves a finite score.
LEAST_GATE = 1e-30

RankedBy = Literal[Score, "oracle"]
Number = float | np.ndarray
Said = Mapping[str, Number]
"""What the model says before a token: the fields of `decoding.engine.Step` by name, each a float or an array."""


@dataclass(frozen=True)
class CallScore:
    """A score of calling; the higher it is, the sooner the cascade calls.

    formula: the score, of what the model says.
    gated_by: how the gate "factual" weighs it: "product" with P(the next token is factual), "log", the sum with the
        logarithm of that, or "nothing", as it is the gate itself.
    needs: what the checkpoint must have for it: "call", training that taught `<CALL>`; "fact", a probe for factual
        tokens; "saving", a probe for what its partner saves.
    title: what it is called for people.
    threshold: the score where its probability is the price; None where it stands for no probability.
    ranks_as: a score that ranks tokens the same way without a gate, if any; the evidence measures it instead.
    """

    formula: Callable[[Said], Number]
    gated_by: Literal["product", "log", "nothing"]
    needs: Literal["nothing", "call", "fact", "saving"]
    title: str
    threshold: Callable[[float], float] | None = None
    ranks_as: Score | None = None


def _log_odds(probability: float) -> float:
    if probability in (0.0, 1.0):
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability) - math.log1p(-probability)


CALL_SCORES: dict[Score, CallScore] = {
    "uncertainty": CallScore(lambda said: said["uncertainty"], "product", "nothing", "1 - max p", lambda price: price),
    "entropy": CallScore(lambda said: said["entropy"], "product", "nothing", "entropy"),
    "call_score": CallScore(lambda said: said["call_score"], "log", "call", "log-odds", _log_odds),
    "call_logit": CallScore(lambda said: said["call_logit"], "log", "call", "call logit"),
    "call_probability": CallScore(
        lambda said: 0.5 * (1.0 + _tanh(0.5 * said["call_score"])),
        "product",
        "call",
        "call probability",
        lambda price: price,
        "call_score",
    ),
    # However sure the model is. If the partner made the marks, this is the probability that it answers here.
    "factual": CallScore(lambda said: said["factual"], "nothing", "fact", "P(fact)", lambda price: price),
    # As a share, so that a price stays one: by how much less probable the text is to the model than to its partner.
    "expected_saving": CallScore(
        lambda said: -_expm1(-said["saving"]), "product", "saving", "expected saving", lambda price: price
    ),
}


def score_of(name: Score, said: Said, *, gate: Gate) -> Number:
    """The score of that name, of a token or of many; weighed by P(factual), `said["factual"]`, if the gate says so."""
    score = CALL_SCORES[name]
    value = score.formula(said)
    if gate_of(name, gate) == "none":
        return value
    if score.gated_by == "product":
        return _lesser(value * said["factual"], value)  # a negative score stays as low as it is
    return value + _log(said["factual"])


def gate_of(name: ScoreSetting, gate: Gate) -> Gate:
    """The gate that weighs a score: none weighs `factual`, which is the gate itself."""
    return "none" if name != "auto" and CALL_SCORES[name].gated_by == "nothing" else gate


def price_threshold(score: RankedBy, price: float) -> float:
    """The value of a score above which the model calls at a price, a probability.

    Raises:
        ConfigError: the score is no probability.
    """
    if score == "oracle":
        return 0.5
    threshold = CALL_SCORES[score].threshold
    if threshold is None:
        known = ", ".join(name for name, each in CALL_SCORES.items() if each.threshold is not None)
        raise ConfigError(f"price: the score {score} is no probability; take one of {known}, or policy=quantile")
    return threshold(price)


# Of one number by the C library: NumPy's vector code may differ from it in the last bit, and texts depend on that.
def _log(gate: Number) -> Number:
    return np.log(np.maximum(gate, LEAST_GATE)) if isinstance(gate, np.ndarray) else math.log(max(gate, LEAST_GATE))


def _lesser(one: Number, other: Number) -> Number:
    return np.minimum(one, other) if isinstance(one, np.ndarray) else min(one, other)


def _expm1(value: Number) -> Number:
    # A partner that is expected to lose so much is never called; more would be beyond float32.
    return np.expm1(np.minimum(value, 80)) if isinstance(value, np.ndarray) else math.expm1(min(value, 80.0))


def _tanh(value: Number) -> Number:
    return np.tanh(value) if isinstance(value, np.ndarray) else math.tanh(value)
