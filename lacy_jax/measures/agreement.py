"""How far two ways to mark the same units agree: precision, recall, F1, Cohen's kappa, of whole counts."""

import math
from dataclasses import dataclass


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
    def precision(self) -> float:
        """Of what the second marks, the share that the first marks, too."""
        return _ratio(self.both, self.both + self.second_only)

    @property
    def recall(self) -> float:
        """Of what the first marks, the share that the second marks, too."""
        return _ratio(self.both, self.both + self.first_only)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return _ratio(2 * self.both, 2 * self.both + self.first_only + self.second_only)

    @property
    def kappa(self) -> float:
        """Cohen's kappa: the share of equal verdicts, from 0 where it is what chance gives, to 1.

        Source: Cohen, A coefficient of agreement for nominal scales, 1960.
        """
        units = self.both + self.first_only + self.second_only + self.neither
        first, second = self.both + self.first_only, self.both + self.second_only
        by_chance = first * second + (units - first) * (units - second)  # of units**2
        return _ratio((self.both + self.neither) * units - by_chance, units * units - by_chance)


def _ratio(above: int, below: int) -> float:
    return above / below if below else math.nan
