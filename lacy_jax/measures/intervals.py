"""How far a score can be trusted: intervals of ratios, areas, shares and paired differences, and tests of several."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

RESAMPLES = 10_000
_CHUNK = 1_000_000  # indices drawn at once


class Interval(NamedTuple):
    """An estimate with its 95% interval, low <= high; NaN where there is nothing to estimate it from."""

    estimate: float
    low: float
    high: float


class PairedT(NamedTuple):
    """Mean of paired differences, its 95% t interval, and the two-sided p-value of "the mean is 0"."""

    mean: float
    low: float
    high: float
    p: float


def bootstrap_interval(values: npt.ArrayLike, weights: npt.ArrayLike | None = None, *, seed: int = 0) -> Interval:
    """sum(values) / sum(weights) over N units, with its 95% percentile bootstrap interval.

    Units, not the single claims or tokens in them, are drawn with replacement: what one text says hangs together.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.

    Args:
        values: float[N], each unit's numerator, e.g. how many of its claims are true.
        weights: float[N], each unit's denominator, 0 or more, e.g. how many claims it has; None: 1 each, so the mean.
        seed: of the draws; the same one gives the same interval.

    Raises:
        ValueError: shapes that differ, or a negative weight.
    """
    top = np.asarray(values, np.float64)
    bottom = np.ones_like(top) if weights is None else np.asarray(weights, np.float64)
    if top.ndim != 1 or top.shape != bottom.shape:
        raise ValueError(f"values and weights must be vectors of one length, not {top.shape} and {bottom.shape}")
    if (bottom < 0).any():
        raise ValueError("weights must be 0 or more")
    if not bottom.sum() > 0:
        return Interval(np.nan, np.nan, np.nan)
    sums = np.concatenate([counts @ np.stack([top, bottom], axis=1) for counts in resamples(len(top), seed=seed)])
    return _interval(float(top.sum() / bottom.sum()), sums[:, 0], sums[:, 1])


def bootstrap_area(scores: np.ndarray, positive: np.ndarray, units: np.ndarray, *, seed: int = 0) -> Interval:
    """Area under the ROC curve of float[N] for the class bool[N], with its 95% percentile bootstrap interval.

    It is the share of pairs, a positive and a negative, that are in order; ties count half. The pairs that positives of
    unit i win against negatives of unit j are counted once: a resample has each as often as it has i times j.

    Args:
        units: int[N], what each is part of, e.g. a document. Units are drawn, as in `bootstrap_interval`.

    Returns:
        NaN where one of the classes is empty.
    """
    if not positive.any() or positive.all():
        return Interval(np.nan, np.nan, np.nan)
    names, owners = np.unique(units, return_inverse=True)
    size = len(names)
    won_PN = np.zeros((size, size))
    for unit in range(size):
        below = np.sort(scores[~positive & (owners == unit)])
        wins = sum(np.searchsorted(below, scores[positive], side) for side in ("left", "right")) / 2
        won_PN[:, unit] = np.bincount(owners[positive], wins, size)
    positives, negatives = (np.bincount(owners, each, size) for each in (positive, ~positive))
    won, pairs = [], []
    for counts in resamples(size, seed=seed):
        won.append(((counts @ won_PN) * counts).sum(axis=1))
        pairs.append((counts @ positives) * (counts @ negatives))
    whole = float(won_PN.sum() / (positives.sum() * negatives.sum()))
    return _interval(whole, np.concatenate(won), np.concatenate(pairs))


def resamples(units: int, *, seed: int = 0) -> Iterator[npt.NDArray[np.int64]]:
    """int64[R, units] until there are RESAMPLES rows: how often each of N units is in each bootstrap resample.

    A resample is N units drawn with replacement. The same seed draws the same ones.
    """
    random = np.random.default_rng(seed)
    rows = max(1, _CHUNK // units)
    for start in range(0, RESAMPLES, rows):
        drawn = random.integers(units, size=(min(rows, RESAMPLES - start), units))
        drawn += units * np.arange(len(drawn))[:, None]
        yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)


def _interval(estimate: float, tops: np.ndarray, bottoms: np.ndarray) -> Interval:
    """With the 95% percentiles of float[R] / float[R]. A resample without any weight says nothing, and is left out."""
    weighty = bottoms > 0
    low, high = np.quantile(tops[weighty] / bottoms[weighty], [0.025, 0.975])
    return Interval(estimate, float(low), float(high))


def shown(value: Interval, *, digits: int = 3, scale: float = 1.0, unit: str = "") -> str:
    """For people: 0.712 (0.690 to 0.731); "-" for NaN."""
    if np.isnan(value.estimate):
        return "-"
    estimate, low, high = (f"{each * scale:.{digits}f}" for each in (value.estimate, value.low, value.high))
    return f"{estimate}{unit} ({low} to {high})"


def wilson_interval(successes: int, trials: int) -> Interval:
    """The share of successes among independent trials, with its 95% Wilson score interval; NaN without trials."""
    if not trials:
        return Interval(np.nan, np.nan, np.nan)
    found = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    return Interval(successes / trials, float(found.low), float(found.high))


def paired_t(differences: npt.ArrayLike) -> PairedT:
    """Student's paired t test of float[N] differences, N >= 2; without any spread p is 0, or 1 where all are 0.

    Raises:
        ValueError: fewer than two differences, which have no spread to judge by.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"a paired t test needs a vector of two differences or more, not shape {values.shape}")
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return PairedT(mean, mean, mean, float(mean == 0))
    found = stats.ttest_1samp(values, 0.0)
    low, high = found.confidence_interval(0.95)
    return PairedT(mean, float(low), float(high), float(found.pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for how many were looked at (Holm 1979), in the order given.

    Those below 0.05 may be called significant together: the chance that any of them is by luck is then below 0.05.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable").tolist()):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
