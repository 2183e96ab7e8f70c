"""Several datasets as one: which window of which dataset each row of a run reads, by arithmetic alone.

A dataset has a share of the rows, constant or changing over the run. Its i-th window (from 0) is due at the row before
which it should have i + 1/2 rows, by the integral of its share. Rows take the windows in the order in which they are
due; of several that are due at the same row, those of earlier datasets come first. So

- every dataset has, before any row, its share of the rows to within half the number of datasets,
- the numbers of its windows follow one another, and none is skipped or read twice,
- what a row reads follows from its number, without the rows before it: the integral has a closed form.

All of it is computed in whole numbers, so it is the same on every machine.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from lacy_jax.data.order import Windows
from lacy_jax.data.weights import Knot


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Rows from `start` on, in which every share is constant or changes evenly.

    For each dataset (a, b, c) and one `divisor`: before row start + x it should have (a x^2 + b x + c) / divisor rows,
    1/2 added.
    """

    start: int
    terms: tuple[tuple[int, int, int], ...]
    divisor: int


class Interleaving:
    """Which dataset each row reads, and which of that dataset's windows, counted from 0 without end."""

    def __init__(self, knots: Sequence[Knot], *, batch_size: int) -> None:
        """Shares by `weights.knots`, whose steps each have `batch_size` rows."""
        self.count = len(knots[0].after)
        self._pieces = _pieces(knots, batch_size=batch_size)

    def due(self, row: int) -> list[int]:
        """How many windows of each dataset are due before a row."""
        piece = next(piece for piece in reversed(self._pieces) if piece.start <= row)
        x = row - piece.start
        return [((a * x + b) * x + c) // piece.divisor for a, b, c in piece.terms]

    def rows(self, start: int, count: int) -> list[tuple[int, int]]:
        """(dataset, number of its window) of `count` rows from `start` on."""
        counts, events = self._from(start)
        return list(itertools.islice(events, start - sum(counts), start - sum(counts) + count))

    def counts(self, row: int) -> list[int]:
        """How many rows before `row` each dataset has."""
        counts, events = self._from(row)
        for dataset, _ in itertools.islice(events, row - sum(counts)):
            counts[dataset] += 1
        return counts

    def _from(self, row: int) -> tuple[list[int], Iterator[tuple[int, int]]]:
        """Counts at a place shortly before `row`, and what the rows from there on read, without end."""
        # Rounding moves the sum of what is due by half the number of datasets at most: this place is not after `row`.
        at = max(0, row - self.count)

        def events() -> Iterator[tuple[int, int]]:
            before = self.due(at)
            for later in itertools.count(at + 1):
                now = self.due(later)
                for dataset in range(self.count):
                    if now[dataset] > before[dataset]:  # by one: no share is above 1
                        yield dataset, before[dataset]
                before = now

        return self.due(at), events()


def _pieces(knots: Sequence[Knot], *, batch_size: int) -> list[_Piece]:
    pieces, sums = [], [Fraction(1, 2)] * len(knots[0].after)
    for index, knot in enumerate(knots):
        following = knots[index + 1] if index + 1 < len(knots) else None
        rows = (following.step - knot.step) * batch_size if following else 0
        slopes = [
            (following.before[each] - knot.after[each]) / (2 * rows) if following else Fraction(0)
            for each in range(len(sums))
        ]
        exact = [list(terms) for terms in zip(slopes, knot.after, sums, strict=True)]
        divisor = math.lcm(*(term.denominator for terms in exact for term in terms))
        terms = [tuple(int(term * divisor) for term in each) for each in exact]
        pieces.append(_Piece(knot.step * batch_size, tuple((a, b, c) for a, b, c in terms), divisor))
        sums = [(a * rows + b) * rows + c for a, b, c in exact]
    return pieces


class Joined:
    """The windows of several datasets one after the other, those of the first dataset first.

    An item has "source" besides, the place of its dataset in `names`.
    """

    def __init__(self, sources: Mapping[str, Windows]) -> None:
        self.names = tuple(sources)
        self.sources = tuple(sources.values())

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def __getitem__(self, index: int) -> dict[str, Any]:
        source, window = self.locate(index)
        return {**self.sources[source][window], "source": source}

    def locate(self, index: int) -> tuple[int, int]:
        """The place of a window's dataset in `names`, and the window's number in that dataset."""
        for source, windows in enumerate(self.sources):
            if index < len(windows):
                return source, index
            index -= len(windows)
        raise IndexError(f"there are {len(self)} windows")


class Mixed(Joined):
    """Several datasets that training reads as one, in the order that `batch_numbers` gives."""

    def __init__(self, sources: Mapping[str, Windows], interleaving: Interleaving) -> None:
        super().__init__(sources)
        self.interleaving = interleaving

    def batch_numbers(self, batch: int, *, batch_size: int, seed: int, rows: Sequence[int]) -> list[tuple[int, int]]:
        """Of the rows `rows` of a batch: the dataset, and a number in the dataset's own order.

        Which rows of the batch a dataset has is shuffled: else a device, or a part of a batch, might always get one.
        """
        slots = self.interleaving.rows(batch * batch_size, batch_size)
        keys = np.random.Philox(key=[seed, batch]).random_raw(batch_size)
        datasets = [slots[place][0] for place in np.argsort(keys, kind="stable").tolist()]
        numbers = [iter([number for each, number in slots if each == dataset]) for dataset in range(len(self.sources))]
        places = [(dataset, next(numbers[dataset])) for dataset in datasets]
        return [places[row] for row in rows]


class InTurn:
    """As many windows as `Joined`, one of each dataset in turn; a dataset that is short begins again."""

    def __init__(self, joined: Joined) -> None:
        self._joined = joined

    def __len__(self) -> int:
        return len(self._joined)

    def __getitem__(self, index: int) -> dict[str, Any]:
        window, source = divmod(index, len(self._joined.sources))
        windows = self._joined.sources[source]
        return windows[window % len(windows)]


def in_turn(source: Windows) -> Windows:
    """The windows of a mixture such that the first of them are of all its datasets; other windows as they are."""
    return InTurn(source) if isinstance(source, Joined) else source
