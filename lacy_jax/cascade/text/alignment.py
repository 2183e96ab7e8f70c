"""Where in a passage a text has got to, and which word comes next there. Strings in, strings out.

The end of the text is compared with every position of the passage. A position scores by the words before it
that are also the text's last words, without a gap (the run), and less by words near it that are also near the
text's end (the context): the SLM may have worded its sentence differently. Words count by how telling they
are. A partner is asked for facts, so that without a run of telling words, capitalised words and numbers are
preferred, and those that the text has just said are not said again.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lacy_jax.cascade.text.extent import phrase_end, word_end
from lacy_jax.cascade.text.words import UNIT, fold, is_word, joint
from lacy_jax.config import Span

LONGEST_RUN = 16  # units
CONTEXT = 12  # units on either side's end
REMEMBERED = 4  # the text's last units, which are not repeated
CONTEXT_WEIGHT = 0.4
FACT_BONUS = 0.5
REPEAT_PENALTY = 1.5
RUN_WEIGHT = 1.5
# A run of this weight is trusted: the next word is the answer, whatever it looks like.
TRUSTED_RUN = 1.4
# A last word that is the beginning of the passage's next word: "18" before "1879".
BEGUN_WEIGHT = 0.5
LEAST_BEGUN = 0.3  # how telling a word must be to be taken for a beginning; "the" is not that of "there"
MARK_WEIGHT = 0.15  # of punctuation and a line's end


@dataclass(frozen=True)
class Units:
    """A text cut into N units. Arrays are [N]; `keys` are equal where the folded units are."""

    text: str
    folded: tuple[str, ...]
    starts: np.ndarray
    ends: np.ndarray
    keys: np.ndarray
    weights: np.ndarray
    factual: np.ndarray


@dataclass(frozen=True)
class Place:
    """A way to go on: `piece` is "" at the passage's end. Higher scores fit better.

    at: the character of the passage at which the text goes on.
    """

    score: float
    piece: str
    at: int


def units_of(text: str, *, weight: Callable[[str], float]) -> Units:
    """Cuts a text into units; `weight` says how telling a folded word is (0 to 1)."""
    spans = np.array([match.span() for match in UNIT.finditer(text)], np.int64).reshape(-1, 2)
    words = [text[start:end] for start, end in spans]
    folded = tuple(fold(word) for word in words)
    previous = ["\n", *words[:-1]]
    factual = [
        any(c.isdigit() for c in word) or (word[0].isupper() and before not in ".!?" and before[0] != "\n")
        for word, before in zip(words, previous, strict=False)
    ]
    return Units(
        text=text,
        folded=folded,
        starts=spans[:, 0],
        ends=spans[:, 1],
        keys=np.array([hash(word) for word in folded], np.int64),
        weights=np.array([_weight(word, weight) for word in folded], np.float64),
        factual=np.array(factual, bool),
    )


def best_place(tail: Units, passage: Units, *, span: Span = "word") -> Place:
    """The place in `passage` that continues `tail`, the end of a text. Position j is before the passage's unit j.

    span: how much is read off there; "token" is a word.
    """
    runs = _runs(tail, passage, skip=0)
    begun = _begun(tail, passage)
    scores = runs
    if begun.any():
        scores = np.where(begun, np.maximum(runs, _runs(tail, passage, skip=1) + BEGUN_WEIGHT), runs)
        begun &= scores > runs
    near = CONTEXT_WEIGHT * _context(tail, passage)
    repeated = np.isin(passage.keys, tail.keys[-REMEMBERED:]) & ~begun[:-1]
    taste = np.append(FACT_BONUS * passage.factual - REPEAT_PENALTY * repeated, 0.0)
    scores = RUN_WEIGHT * scores + near + np.where(scores >= TRUSTED_RUN, 0.0, taste)
    best = int(np.argmax(scores))
    if begun[best]:
        piece = _rest(tail, passage, best, span=span)
    else:
        piece = _next(tail, passage, best, follows=runs[best] > 0, span=span)
    at = int(passage.starts[best]) if best < len(passage.starts) else len(passage.text)
    return Place(score=float(scores[best]), piece=piece, at=at)


def _weight(unit: str, weight: Callable[[str], float]) -> float:
    # An empty line is as telling as a rare word: it stands between a title and its text.
    return weight(unit) if is_word(unit) else 1.0 if unit.startswith("\n\n") else MARK_WEIGHT


def _runs(tail: Units, passage: Units, *, skip: int) -> np.ndarray:
    """Weight of the units that end both the passage before each position and the tail less its `skip` last: [N + 1]."""
    size = len(passage.keys)
    keys, weights = tail.keys[: len(tail.keys) - skip], tail.weights
    alive = np.ones(size + 1, bool)
    total = np.zeros(size + 1)
    for back in range(1, min(LONGEST_RUN, len(keys), size) + 1):
        alive[:back] = False
        alive[back:] &= passage.keys[: size + 1 - back] == keys[-back]
        if not alive.any():
            break
        total += alive * weights[len(keys) - back]
    return total


def _begun(tail: Units, passage: Units) -> np.ndarray:
    """Whether the tail's last unit may be the beginning of the unit at each position: bool [N + 1]."""
    none = np.zeros(len(passage.keys) + 1, bool)
    if not tail.folded or tail.text[-1].isspace():
        return none
    last = tail.folded[-1]
    if not is_word(last) or not (last.isdigit() or tail.weights[-1] >= LEAST_BEGUN):
        return none
    longer = [len(word) > len(last) and word.startswith(last) for word in passage.folded]
    return np.array([*longer, False], bool)


def _context(tail: Units, passage: Units) -> np.ndarray:
    """Weight of the passage's units just before each position that are also near the tail's end: [N + 1].

    The further back in the tail, the less a unit counts, down to nothing CONTEXT units back.
    """
    near = np.zeros(len(passage.keys))
    for back, key in enumerate(tail.keys[: -CONTEXT - 1 : -1]):
        near = np.maximum(near, (passage.keys == key) * passage.weights * (1 - back / CONTEXT))
    sums = np.concatenate([[0.0], np.cumsum(near)])
    positions = np.arange(len(sums))
    return sums - sums[np.maximum(0, positions - CONTEXT)]


def _rest(tail: Units, passage: Units, position: int, *, span: Span) -> str:
    """What is missing of the answer that the tail has begun."""
    start = int(passage.starts[position])
    return passage.text[start + int(tail.ends[-1] - tail.starts[-1]) : _answer_end(passage.text, start, span=span)]


def _next(tail: Units, passage: Units, position: int, *, follows: bool, span: Span) -> str:
    """The answer at a position, with the white space before it as in the passage (if it `follows` the tail there)."""
    text, size = passage.text, len(passage.keys)
    before = int(passage.ends[position - 1]) if position else 0
    while position < size and passage.folded[position][0] == "\n":
        position += 1
    if position == size:
        return ""
    start = int(passage.starts[position])
    space = text[before:start]
    end = _answer_end(text, start, span=span, opening=bool(space) or not before)
    if not tail.text or tail.text[-1].isspace():
        space = ""
    elif not follows:
        space = joint(tail.text, text[start:end])
    return space + text[start:end]


def _answer_end(text: str, start: int, *, span: Span, opening: bool = False) -> int:
    end = word_end(text, start, opening=opening)
    return phrase_end(text, start, end) if span == "phrase" else end
