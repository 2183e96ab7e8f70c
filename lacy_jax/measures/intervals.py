"""How far a score can be trusted: intervals of ratios, proportions and paired differences, and tests of several."""

from collections.abc import Sequence
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


def bootstrap_interval(values: npt.ArrayLike, weights: npt.ArrayLike | None = None, seed: int = 0) -> Interval:
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
    random = np.random.default_rng(seed)
    tops, bottoms = [], []
    rows = max(1, _CHUNK // len(top))
    for start in range(0, RESAMPLES, rows):
        drawn = random.integers(len(top), size=(min(rows, RESAMPLES - start), len(top)))
        tops.append(top[drawn].sum(axis=1))
        bottoms.append(bottom[drawn].sum(axis=1))
    return interval_of_resamples(top.sum(), bottom.sum(), np.concatenate(tops), np.concatenate(bottoms))


def interval_of_resamples(top: float, bottom: float, tops: np.ndarray, bottoms: np.ndarray) -> Interval:
    """top / bottom with the 95% percentiles of the same ratio in resamples, float[R] each; NaN where bottom is 0."""
    if not bottom > 0:
        return Interval(np.nan, np.nan, np.nan)
    weighty = bottoms > 0  # a resample without any weight says nothing
    low, high = np.quantile(tops[weighty] / bottoms[weighty], [0.025, 0.975])
    return Interval(float(top / bottom), float(low), float(high))


def resample_counts(units: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """int64[RESAMPLES, units]: how often each of N units is drawn, with replacement, in each bootstrap resample.

    For figures that `bootstrap_interval` is too narrow for: of sums over units, what it does is counts @ values.
    """
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=RESAMPLES)


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
