"""Intervals against enumeration, closed forms and textbook numbers."""

import itertools
import math

import numpy as np
import pytest

from lacy_jax.measures import intervals
from lacy_jax.measures.intervals import (
    bootstrap_area,
    bootstrap_interval,
    holm,
    paired_t,
    resamples,
    shown,
    wilson_interval,
)


def test_bootstrap_against_all_resamples():
    values, weights = [1.0, 4.0, 0.0, 2.0, 3.0], [2.0, 5.0, 3.0, 2.0, 7.0]
    ratios = sorted(
        sum(values[i] for i in draw) / sum(weights[i] for i in draw) for draw in itertools.product(range(5), repeat=5)
    )
    found = bootstrap_interval(values, weights)
    assert found.estimate == pytest.approx(10 / 19)
    # The share of all 3,125 resamples below each end: 2.5% and 97.5% up to the noise of 10,000 draws and ties.
    assert np.searchsorted(ratios, found.low, side="left") / 3125 <= 0.03
    assert np.searchsorted(ratios, found.low, side="right") / 3125 >= 0.02
    assert np.searchsorted(ratios, found.high, side="left") / 3125 <= 0.98
    assert np.searchsorted(ratios, found.high, side="right") / 3125 >= 0.97


def test_bootstrap_of_a_mean_is_the_normal_interval():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    half = 1.96 * values.std() / 20
    found = bootstrap_interval(values)
    assert found == pytest.approx((values.mean(), values.mean() - half, values.mean() + half), abs=0.02)


def test_bootstrap_draws_units_not_claims():
    # Two people, one always right, one always wrong: resamples are all right, half, or all wrong.
    assert bootstrap_interval([100.0, 0.0], [100.0, 100.0]) == (0.5, 0.0, 1.0)


def test_bootstrap_is_a_function_of_its_seed():
    values = np.random.default_rng(1).normal(size=50)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_bootstrap_leaves_out_units_without_weight():
    assert bootstrap_interval([0.0, 3.0], [0.0, 4.0]) == (0.75, 0.75, 0.75)
    assert all(math.isnan(x) for x in bootstrap_interval([0.0], [0.0]))
    assert all(math.isnan(x) for x in bootstrap_interval([]))


@pytest.mark.parametrize(("values", "weights"), [([1.0, 2.0], [1.0]), ([[1.0]], [[1.0]]), ([1.0], [-1.0])])
def test_bootstrap_refuses(values, weights):
    with pytest.raises(ValueError, match="weights must be"):
        bootstrap_interval(values, weights)


def test_an_area_s_resamples_are_those_of_units_drawn_one_by_one(monkeypatch):
    """Scores with ties, units without a positive: area by counting the pairs of every resample."""
    monkeypatch.setattr(intervals, "RESAMPLES", 50)
    monkeypatch.setattr(intervals, "_CHUNK", 7 * 9)  # a last chunk that is shorter
    random = np.random.default_rng(0)
    units = np.sort(random.choice([2, 3, 5, 7, 11, 13, 17], size=60))
    positive = (random.random(60) < 0.4) & (units != 5)
    scores = random.integers(4, size=60).astype(float)

    def area(rows):
        high, low = scores[rows][positive[rows]], scores[rows][~positive[rows]]
        return np.mean([(a > b) + 0.5 * (a == b) for a in high for b in low])

    counts = np.concatenate([*resamples(7, seed=4)])
    assert counts.shape == (50, 7)
    drawn = [
        area(np.concatenate([np.flatnonzero(units == unit) for unit in np.repeat(np.unique(units), each)]))
        for each in counts
    ]
    found = bootstrap_area(scores, positive, units, seed=4)
    assert found == pytest.approx((area(np.arange(60)), *np.quantile(drawn, [0.025, 0.975])))
    assert all(math.isnan(each) for each in bootstrap_area(scores, positive & False, units))


def test_resamples_are_the_plain_draws_of_the_seed(monkeypatch):
    monkeypatch.setattr(intervals, "_CHUNK", 1000)
    drawn = np.random.default_rng(5).integers(3, size=(intervals.RESAMPLES, 3))
    expected = (drawn[:, :, None] == np.arange(3)).sum(axis=1)
    np.testing.assert_array_equal(np.concatenate([*resamples(3, seed=5)]), expected)


def test_intervals_for_people():
    assert shown(intervals.Interval(0.7123, 0.69, 0.7311)) == "0.712 (0.690 to 0.731)"
    assert shown(intervals.Interval(0.5, 0.25, 1), digits=1, scale=100, unit="%") == "50.0% (25.0 to 100.0)"


def test_wilson_closed_form():
    z, n, k = 1.959964, 50, 4
    centre, half = (k + z * z / 2) / (n + z * z), z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    assert wilson_interval(4, 50) == pytest.approx((0.08, centre - half, centre + half), abs=1e-6)
    assert all(math.isnan(x) for x in wilson_interval(0, 0))


def test_paired_t_of_the_textbook():
    # Student's own sleep data (Biometrika 1908), extra hours by two drugs: t = 4.0621 on 9 degrees of freedom,
    # p = 0.00283, 95% interval 0.70 to 2.46.
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired_t(np.subtract(second, first))
    assert found == pytest.approx((1.58, 0.7001, 2.4599, 0.002833), abs=1e-4)


def test_paired_t_without_spread():
    assert paired_t([2.0, 2.0]) == (2.0, 2.0, 2.0, 0.0)
    assert paired_t([0.0, 0.0]).p == 1.0
    with pytest.raises(ValueError, match="two differences"):
        paired_t([1.0])


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
