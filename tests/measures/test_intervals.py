"""Intervals against enumeration, closed forms and textbook numbers."""

import itertools
import math

import numpy as np
import pytest

from lacy_jax.measures.intervals import bootstrap_interval, holm, paired_t, wilson_interval


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
