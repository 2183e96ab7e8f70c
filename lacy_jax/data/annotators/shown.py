"""Texts as spaCy is shown them: in pieces that it can parse, without the middles of long runs of symbols."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lacy_jax.data.annotators.passages import passages

_PIECE = 50_000  # characters that spaCy parses at once; longer texts are cut, between paragraphs if possible
# spaCy takes symbols off a word's ends one by one and reads the rest anew after each: quadratic in their number.
_LONGEST_RUN = 200  # symbols in a row that it is shown; of a longer run, half of them at either end
# With the letters that it takes off together with a symbol: US$US$, 's's.
_LONG_RUN = re.compile(rf"(?:(?:US|[AC])?(?:[^\w\s]|_)s?){{{_LONGEST_RUN + 1},}}")


@dataclass(frozen=True, eq=False)
class Shown:
    """A text as spaCy is shown it, without the middles of long runs of symbols.

    cuts: uint64[N], the characters of `text` before which something is missing, ascending.
    missing: uint64[N + 1], how many characters are missing before the first of them, up to it, up to the second, ...
    """

    text: str
    cuts: np.ndarray
    missing: np.ndarray

    def start_in_text(self, starts: np.ndarray) -> np.ndarray:
        return starts + self.missing[np.searchsorted(self.cuts, starts, side="right")]

    def end_in_text(self, ends: np.ndarray) -> np.ndarray:
        return ends + self.missing[np.searchsorted(self.cuts, ends, side="left")]


def shorten_runs(text: str) -> Shown:
    """The text as spaCy is shown it."""
    kept, cuts, missing, last = [], [], [0], 0
    for run in _LONG_RUN.finditer(text):
        first, end = run.start() + _LONGEST_RUN // 2, run.end() - _LONGEST_RUN // 2
        kept.append(text[last:first])
        cuts.append(first - missing[-1])
        missing.append(missing[-1] + end - first)
        last = end
    return Shown("".join([*kept, text[last:]]), np.array(cuts, np.uint64), np.array(missing, np.uint64))


def said_before(words: np.ndarray, *, title: np.ndarray) -> np.ndarray:
    """bool[N]: words whose form, uint64[N] of spaCy's, stands earlier among them, or in the title."""
    repeated = np.ones(len(title) + len(words), bool)
    repeated[np.unique(np.concatenate([title, words]), return_index=True)[1]] = False
    return repeated[len(title) :]


def pieces_of(text: str) -> Iterator[tuple[int, str]]:
    """Cuts a text into (offset, piece) that spaCy can parse: after an empty line, else a line, else a space."""
    return passages(text, most=_PIECE, cuts=("\n\n", "\n", " "))
