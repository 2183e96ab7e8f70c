"""Text coloured token by token: how strongly the SLM asks for help, and which tokens carry facts."""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from lacy_jax.evidence.pages import charts
from lacy_jax.terminal import printable

_PARTS = re.compile(r"\A([ ]*)(.*)\Z", re.DOTALL)


@dataclass(frozen=True)
class Shade:
    """One step of the colour ramp: tokens whose call score ranks from `low` to `high` (shares of all tokens)."""

    level: int
    name: str
    called: bool


def edges(budget: float) -> np.ndarray:
    """Ranks float64[4] at which the colour grows stronger; the second is where a budget begins to call."""
    return np.array([(1 - budget) * 2 / 3, 1 - budget, 1 - budget / 2, 1 - budget / 4])


def legend(budget: float) -> list[Shade]:
    """The ramp in words, weakest first."""
    bounds = [0.0, *edges(budget), 1.0]
    names = [f"{bounds[index] * 100:.0f} to {charts.percent(bounds[index + 1])}" for index in range(5)]
    return [Shade(level, name, called=level >= 2) for level, name in enumerate(names)]


def ranks(scores: np.ndarray, *, ranked: np.ndarray) -> np.ndarray:
    """Share of the sorted scores `ranked` float[M] that lie below each of `scores` float[N]; NaN stays NaN."""
    if len(ranked) == 0:
        return np.full(len(scores), np.nan)
    below = np.searchsorted(ranked, scores, side="left") / len(ranked)
    return np.where(np.isfinite(scores), below, np.nan)


def visible(text: str) -> Markup:
    """Token text made visible and safe: line ends marked, control characters as their pictures."""
    if not text:  # the further bytes of a character
        return Markup('<span class="eol">·</span>')
    lines = [escape(line) for line in printable(text).split("\n")]
    return Markup('<span class="eol">↵</span>\n').join(lines)


def coloured(
    tokens: Sequence[str],
    *,
    call_scores: np.ndarray,
    factual: np.ndarray,
    losses: np.ndarray,
    ranked: np.ndarray,
    budget: float,
) -> Markup:
    """A run of <span>s, one per token, that together read as the text.

    Class `l0` to `l4` is the rank of the call score among `ranked`, `f` marks factual; the numbers are in data
    attributes: s call score, q rank in percent, l loss.
    """
    rank = ranks(call_scores, ranked=ranked)
    level = np.searchsorted(edges(budget), np.nan_to_num(rank), side="right")
    parts = []
    for index, token in enumerate(tokens):
        blank, body = _PARTS.match(token).groups()  # type: ignore[union-attr]
        blank, body = ("", blank) if not body and blank else (blank, body)
        numbers = ""
        if np.isfinite(call_scores[index]) and np.isfinite(rank[index]):
            numbers += f' data-s="{call_scores[index]:.2f}" data-q="{rank[index] * 100:.0f}"'
        if np.isfinite(losses[index]):
            numbers += f' data-l="{losses[index]:.2f}"'
        classes = f"t l{level[index]}" + (" f" if factual[index] else "")
        parts.append(f'{blank}<span class="{classes}"{numbers}>{visible(body)}</span>')
    return Markup("".join(parts))


@dataclass(frozen=True)
class Mark:
    """A class for the characters [start, end) of a prompt and what followed it."""

    start: int
    end: int
    name: str


def written(prompt: str, pieces: Sequence[tuple[str, str | None, float]], *, marks: Sequence[Mark] = ()) -> Markup:
    """A prompt and what followed it, as <span>s; pieces are (text, name of the partner or None, call score).

    Class `p` marks the partner's pieces, those of `marks` what they name; data attributes: w writer, s call score.
    """
    parts = [Markup('<span class="w prompt">{}</span>').format(visible(prompt))]
    before, end = None, len(prompt)
    for text, partner, score in pieces:
        end += len(text)
        # A space between two writers belongs to neither's colour.
        body = text.lstrip(" ") if partner != before else text
        parts.append(escape(text[: len(text) - len(body)]))
        for part, name in _cut(body, start=end - len(body), marks=marks):
            classes = " ".join(filter(None, ["w", "p" if partner else "", name]))
            attributes = Markup('class="{}" data-w="{}" data-s="{:.2f}"').format(classes, partner or "the SLM", score)
            parts.append(Markup("<span {}>{}</span>").format(attributes, visible(part)))
        before = partner
    return Markup("").join(parts)


def _cut(text: str, *, start: int, marks: Sequence[Mark]) -> Iterator[tuple[str, str]]:
    """A text that begins at the character `start`, in parts: each with the name of the mark that it lies in, or ""."""
    inner = {edge for mark in marks for edge in (mark.start, mark.end) if start < edge < start + len(text)}
    edges = [start, *sorted(inner), start + len(text)]
    for low, high in itertools.pairwise(edges):
        name = next((mark.name for mark in marks if mark.start <= low and high <= mark.end), "")
        yield text[low - start : high - start], name
