"""How far two ways to mark the same units agree: precision, recall, F1, Cohen's kappa, of whole counts."""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Agreement:
    """Counts of units (characters, words) that both mark, that one of the two marks alone, and that neither marks.

    The first is taken for the truth in precision and recall; F1 and kappa are the same either way. NaN where there is
    nothing to divide by.
    """

    both: int
    first_only: int
    second_only: int
    neither: int

    @property
    def units(self) -> int:
        """All of them."""
        return self.both + self.first_only + self.second_only + self.neither

    @property
    def first(self) -> int:
        """Those that the first marks."""
        return self.both + self.first_only

    @property
    def second(self) -> int:
        """Those that the second marks."""
        return self.both + self.second_only

    @property
    def alike(self) -> float:
        """The share of units of which both say the same."""
        return _ratio(self.both + self.neither, self.units)

    @property
    def precision(self) -> float:
        """Of what the second marks, the share that the first marks, too."""
        return _ratio(self.both, self.second)

    @property
    def recall(self) -> float:
        """Of what the first marks, the share that the second marks, too."""
        return _ratio(self.both, self.first)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return _ratio(2 * self.both, self.first + self.second)

    @property
    def kappa(self) -> float:
        """Cohen's kappa: how far the share of equal verdicts is above chance: 0 at chance, 1 where all are equal.

        Source: Cohen, A coefficient of agreement for nominal scales, 1960.
        """
        units = self.units
        by_chance = self.first * self.second + (units - self.first) * (units - self.second)  # of units**2
        return _ratio((self.both + self.neither) * units - by_chance, units * units - by_chance)


def agreement_of(first: np.ndarray, second: np.ndarray) -> Agreement:
    """The agreement of two markings of the same N units, bool[N] each."""
    counts = np.bincount(2 * ~first + ~second, minlength=4).tolist()
    return Agreement(*counts)


def _ratio(above: int, below: int) -> float:
    return above / below if below else math.nan
