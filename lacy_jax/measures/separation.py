"""How well call scores separate factual tokens from other ones: ROC curve, and what a budget would catch."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RocCurve:
    """Receiver operating characteristic of a score; both axes run from 0 to 1.

    Attributes:
      false_rate: float64[M], share of the negatives scored at or above a threshold, ascending.
      true_rate: float64[M], share of the positives scored at or above the same threshold.
      area: area under the curve: the chance that a random positive outscores a random negative (ties count half).
    """

    false_rate: np.ndarray
    true_rate: np.ndarray
    area: float


@dataclass(frozen=True)
class BudgetPoint:
    """What delegating the highest-scored tokens would catch.

    Attributes:
      budget: share of tokens delegated, as asked for.
      threshold: lowest score that is delegated.
      precision: share of the delegated tokens that are positive.
      recall: share of the positives that are delegated.
      false_rate: share of the negatives that are delegated.
    """

    budget: float
    threshold: float
    precision: float
    recall: float
    false_rate: float


def roc_curve(scores: np.ndarray, positive: np.ndarray) -> RocCurve | None:
    """ROC curve of scores float[N] for the class positive bool[N]; None where one of the classes is empty."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if positives == 0 or negatives == 0:
        return None
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    # No threshold separates equal scores: keep the last point of each run of ties.
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(scores) - 1)
    true_rate = np.concatenate([[0.0], np.cumsum(positive[order])[ends] / positives])
    false_rate = np.concatenate([[0.0], np.cumsum(~positive[order])[ends] / negatives])
    return RocCurve(false_rate=false_rate, true_rate=true_rate, area=float(np.trapezoid(true_rate, false_rate)))


def at_budget(scores: np.ndarray, positive: np.ndarray, *, budget: float) -> BudgetPoint | None:
    """The point of the ROC curve where about a share `budget` of the tokens, at least one, is delegated.

    Ties at the threshold are all delegated. None where one of the classes is empty.
    """
    if not positive.any() or positive.all():
        return None
    count = min(len(scores), max(1, round(budget * len(scores))))
    threshold = float(np.partition(scores, len(scores) - count)[len(scores) - count])
    called = scores >= threshold
    return BudgetPoint(
        budget=budget,
        threshold=threshold,
        precision=float(positive[called].mean()),
        recall=float(called[positive].mean()),
        false_rate=float(called[~positive].mean()),
    )
