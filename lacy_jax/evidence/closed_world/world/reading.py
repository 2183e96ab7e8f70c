"""Reads biographies: the grammar that wrote a text turns it into claims again. No model, no guess."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np

from lacy_jax.config import AnnotateConfig
from lacy_jax.data.annotate import Spans
from lacy_jax.data.corpus import Document, text_offset
from lacy_jax.evidence.closed_world.world.grammar import closer_pattern, cores, filler_pattern, opener_pattern

_SENTENCE = re.compile(r"[^.\n]+\.?")
_WORD = re.compile(r"\w[\w'-]*")
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


def mark_oracle(documents: Iterable[Document], config: AnnotateConfig) -> Iterator[tuple[Document, Spans]]:
    """Marks every word of every stated value, as the annotator "oracle"; the kind is the relation.

    With a recall below 1 each of these words is left out with that chance; with a precision below 1 other words are
    marked (kind "NOISE") in such number that this is the expected share of true ones. Both are drawn from the
    document's id.
    """
    for document in documents:
        yield document, _oracle_spans(document, precision=config.oracle_precision, recall=config.oracle_recall)


def _oracle_spans(document: Document, *, precision: float, recall: float) -> Spans:
    values = [sentence for sentence in read_sentences(document.text) if sentence.kind == "claim"]
    relation_of = [""] * len(document.text)
    for sentence in values:
        relation_of[sentence.value_start : sentence.value_end] = [sentence.relation] * len(sentence.value)
    words = [(match.start(), match.end(), relation_of[match.start()]) for match in _WORD.finditer(document.text)]
    facts = sum(bool(relation) for _, _, relation in words)
    noise = recall * facts * (1 - precision) / precision / max(len(words) - facts, 1)
    rng = Random(f"oracle {document.id} {precision} {recall}")
    marked = [
        (start, end, relation or "NOISE")
        for start, end, relation in words
        if rng.random() < (recall if relation else noise)
    ]
    table = np.array([span[:2] for span in marked], np.int32).reshape(-1, 2) + np.int32(text_offset(document))
    no = np.zeros(len(marked), bool)
    return Spans(starts=table[:, 0], ends=table[:, 1], kinds=tuple(span[2] for span in marked), subject=no, repeated=no)
