"""Reads biographies: the grammar that wrote a text turns it into claims again. No model, no guess."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lacy_jax.evidence.closed_world.world.grammar import closer_pattern, cores, filler_pattern, opener_pattern

_SENTENCE = re.compile(r"[^.\n]+\.?")
_MOST_PARTS = 3  # opener, core, closer


@dataclass(frozen=True)
class Sentence:
    """text[start:end] and what it says.

    kind: "claim" (subject, relation, value), "filler" (no fact), "unparsed" (not of the grammar, or without its end).
    subject: as it is written, a possessive without 's; value: text[value_start:value_end].
    """

    start: int
    end: int
    kind: Literal["claim", "filler", "unparsed"]
    subject: str = ""
    relation: str = ""
    value: str = ""
    value_start: int = 0

    @property
    def value_end(self) -> int:
        return self.value_start + len(self.value)


def read_sentences(text: str) -> Iterator[Sentence]:
    """Every sentence of a text, in order. White space between them is none."""
    for match in _SENTENCE.finditer(text):
        body = match[0].strip()
        if body:
            start = match.start() + match[0].index(body[0])
            yield _read(body, start)


def _read(body: str, start: int) -> Sentence:
    end = start + len(body)
    unparsed = Sentence(start, end, "unparsed")
    if not body.endswith("."):
        return unparsed
    parts = body[:-1].split(", ")
    if len(parts) > _MOST_PARTS:
        return unparsed
    if len(parts) == 1 and filler_pattern().fullmatch(parts[0]):
        return Sentence(start, end, "filler")
    first = 1 if len(parts) > 1 and opener_pattern().fullmatch(parts[0]) else 0
    last = len(parts) - 1
    if last > first:
        if last - first > 1 or not closer_pattern().fullmatch(parts[last]):
            return unparsed
        last -= 1
    before = sum(len(part) + 2 for part in parts[:first])
    claim = _claim(parts[first])
    if claim is None:
        return unparsed
    relation, match = claim
    groups = match.groupdict()
    subject = groups["S"] if groups.get("S") else groups["P"]
    value_start = start + before + match.start("V")
    return Sentence(start, end, "claim", subject.removesuffix("'s"), relation, match["V"], value_start)


def _claim(core_text: str) -> tuple[str, re.Match[str]] | None:
    """Of all cores that match, the one that leaves the shortest value: it explains the most words."""
    found = [
        (match.end("V") - match.start("V"), core.relation, match)
        for core in cores()
        if core.anchor in core_text and (match := core.pattern.fullmatch(core_text))
    ]
    if not found:
        return None
    _, relation, match = min(found, key=lambda one: one[0])
    return relation, match
