"""Agreement of two markings, by hand and against a slow count."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest

from lacy_jax.measures.agreement import Agreement, agreement_of


def test_cohens_own_kind_of_example() -> None:
    # 50 proposals, two readers: 20 yes and yes, 15 no and no, 5 and 10 apart. By hand: p_o = 0.7, p_e = 0.5.
    found = Agreement(both=20, first_only=5, second_only=10, neither=15)
    assert found.kappa == pytest.approx(0.4)
    assert found.precision == pytest.approx(20 / 30)
    assert found.recall == pytest.approx(20 / 25)
    assert found.f1 == pytest.approx(2 / (30 / 20 + 25 / 20))


def test_agreement_equals_a_slow_count() -> None:
    rng = random.Random(0)
    for _ in range(50):
        n, p, q = rng.randint(1, 60), rng.random(), rng.random()
        first, second = [rng.random() < p for _ in range(n)], [rng.random() < q for _ in range(n)]
        found = agreement_of(np.array(first), np.array(second))
        assert found == Agreement(*(sum((a, b) == pair for a, b in zip(first, second, strict=True)) for pair in PAIRS))
        same = Fraction(sum(a == b for a, b in zip(first, second, strict=True)), n)
        assert found.alike == pytest.approx(float(same))
        assert (found.units, found.first, found.second) == (n, sum(first), sum(second))
        share = [Fraction(sum(each), n) for each in (first, second)]
        chance = share[0] * share[1] + (1 - share[0]) * (1 - share[1])
        if chance == 1:
            assert math.isnan(found.kappa)
        else:
            assert found.kappa == pytest.approx(float((same - chance) / (1 - chance)))


PAIRS = ((True, True), (True, False), (False, True), (False, False))


@pytest.mark.parametrize(
    ("counts", "kappa"),
    [((5, 0, 0, 5), 1.0), ((0, 5, 5, 0), -1.0), ((25, 25, 25, 25), 0.0), ((9, 0, 0, 0), math.nan)],
)
def test_limits(counts: tuple[int, int, int, int], kappa: float) -> None:
    assert Agreement(*counts).kappa == pytest.approx(kappa, nan_ok=True)


def test_nothing_marked_is_no_number() -> None:
    empty = Agreement(0, 0, 0, 7)
    assert all(map(math.isnan, (empty.precision, empty.recall, empty.f1, empty.kappa)))
