"""The annotator oracle: the words of every stated value of a biography, made worse on purpose where that is asked."""

import re
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any

import numpy as np

from lacy_jax.config import AnnotateConfig
from lacy_jax.data.documents import Document, Spans, text_offset
from lacy_jax.evidence.closed_world.world.reading import read_sentences
from lacy_jax.evidence.closed_world.world.told import told_part

_WORD = re.compile(r"\w[\w'-]*")


def mark(documents: Iterable[Document], config: AnnotateConfig) -> Iterator[tuple[Document, Spans]]:
    """Marks every word of every stated value, as the annotator "oracle"; the kind is the relation.

    The facts in a title (told.py) are one span, of kind "TOLD".

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
    offset, told = text_offset(document), told_part(document.title)
    placed = [(told.start, told.stop, "TOLD")] if told.start < told.stop else []
    placed += [(start + offset, end + offset, kind) for start, end, kind in marked]
    table = np.array([span[:2] for span in placed], np.int32).reshape(-1, 2)
    no = np.zeros(len(placed), bool)
    return Spans(starts=table[:, 0], ends=table[:, 1], kinds=tuple(span[2] for span in placed), subject=no, repeated=no)


def fingerprint(config: AnnotateConfig) -> dict[str, Any]:
    """How good the marks are meant to be."""
    return {"precision": config.oracle_precision, "recall": config.oracle_recall}
