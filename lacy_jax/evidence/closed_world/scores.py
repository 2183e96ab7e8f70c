"""Scores of judged biographies: sums over people, and their bootstrap intervals.

All are ratios of two sums over people, so that a person who says more weighs more; only the FactScore is a mean of
each person's own. No method may win by silence or garbage: `strict` counts a sentence that does not parse as wrong.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lacy_jax.evidence.closed_world.judging import Judged
from lacy_jax.measures.intervals import Interval, bootstrap_interval

# Claims of a text below which the FactScore is lowered. A biography of the corpus states 5.4 facts; FActScore itself
# (arXiv 2305.14251, section 3) takes 10, for texts with about 30.
GAMMA = 5.0


@dataclass(frozen=True)
class Ratio:
    """A score: sum of `top` over people / sum of `bottom`. `up`: whether more is better (None: neither)."""

    title: str
    top: Callable[[Judged], float]
    bottom: Callable[[Judged], float]
    up: bool | None
    percent: bool = True


def length_penalised(judged: Judged, *, gamma: float = GAMMA) -> float:
    """A text's precision x exp(1 - gamma / claims) where it has fewer than gamma claims; 0 without any."""
    claims = len(judged.claims)
    if not claims:
        return 0.0
    return judged.right / claims * min(1.0, math.exp(1 - gamma / claims))


def _claims(judged: Judged) -> float:
    return len(judged.claims)


def _sentences(judged: Judged) -> float:
    return len(judged.claims) + judged.unparsed + judged.filler


SCORES: dict[str, Ratio] = {
    "strict": Ratio("strict: right / (claims + unparsed)", lambda j: j.right, lambda j: _claims(j) + j.unparsed, True),
    "precision": Ratio("precision: right / claims", lambda j: j.right, _claims, True),
    "right": Ratio("right claims per biography", lambda j: j.right, lambda _: 1, True, percent=False),
    "factscore": Ratio("FactScore", length_penalised, lambda _: 1, True),
    "unparsed": Ratio("unparsed / sentences", lambda j: j.unparsed, _sentences, False),
    "rate": Ratio(
        "tokens delegated, told or asked for in vain",
        lambda j: j.delegated + j.told + j.fallbacks,
        lambda j: j.generated,
        None,
    ),
    "calls": Ratio("calls per 100 tokens", lambda j: 100 * j.calls, lambda j: j.generated, None, percent=False),
    "delegated": Ratio("tokens the partner wrote", lambda j: j.delegated, lambda j: j.generated, None),
    # Of all calls. One without an answer counts as none on a fact, also where the partner does not know that fact.
    "on_facts": Ratio("calls that brought part of a value", lambda j: j.calls_on_facts, lambda j: j.calls, True),
    "answered_on_facts": Ratio(
        "answered calls that are part of a value", lambda j: j.calls_on_facts, lambda j: j.calls - j.fallbacks, True
    ),
    "unanswered": Ratio("calls without an answer", lambda j: j.fallbacks, lambda j: j.calls, False),
    # Where all facts have changed since the training: with which of the two values does the text go? Else `right` also
    # counts those that have not changed.
    "followed": Ratio("followed: right / (right + outdated)", lambda j: j.right, lambda j: j.right + j.outdated, True),
    "outdated": Ratio("outdated / claims", lambda j: j.outdated, _claims, False),
    "own_precision": Ratio(
        "right / claims, of values without a call",
        lambda j: sum(claim.right for claim in j.claims if not claim.called),
        lambda j: sum(not claim.called for claim in j.claims),
        True,
    ),
    # What a model itself remembers, if it writes alone: of what its partner could have said, and of the rest.
    "of_known": Ratio(
        "right / claims, of facts that the partner has",
        lambda j: sum(claim.right for claim in j.claims if claim.known),
        lambda j: sum(claim.known is True for claim in j.claims),
        None,
    ),
    "of_unknown": Ratio(
        "right / claims, of facts that the partner lacks",
        lambda j: sum(claim.right for claim in j.claims if claim.known is False),
        lambda j: sum(claim.known is False for claim in j.claims),
        True,
    ),
    "tokens_per_right": Ratio("tokens per right claim", lambda j: j.generated, lambda j: j.right, False, percent=False),
    "calls_per_right": Ratio("calls per right claim", lambda j: j.calls, lambda j: j.right, False, percent=False),
}


def score(name: str, people: Sequence[Judged]) -> Interval:
    """One of SCORES over people, with its 95% bootstrap interval; NaN where its denominator is 0."""
    ratio = SCORES[name]
    return bootstrap_interval([ratio.top(j) for j in people], [ratio.bottom(j) for j in people])


def estimate(name: str, people: Sequence[Judged]) -> float:
    """The same without the interval."""
    ratio = SCORES[name]
    bottom = sum(ratio.bottom(j) for j in people)
    return sum(ratio.top(j) for j in people) / bottom if bottom else float(np.nan)
