"""Batches of documents and parts of a corpus: where they are cut follows from the documents and their order alone."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from lacy_jax.data.documents import Document

BATCH = 100_000  # characters of text that an annotator's process is given at once
PART_BATCHES = 20  # of a part: about a minute of spaCy on one core, lost when a command is killed

_T = TypeVar("_T")


def batches(items: Iterable[_T], *, characters: Callable[[_T], int], limit: int) -> Iterator[list[_T]]:
    """Consecutive items that reach `limit` characters together."""
    batch: list[_T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += characters(item)
        if total >= limit:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def document_batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Consecutive documents whose texts reach `BATCH` characters together."""
    return batches(documents, characters=lambda document: len(document.text), limit=BATCH)


def corpus_parts(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """The documents of `PART_BATCHES` batches in a row. A part is cut into the same batches as the corpus there."""
    whole = document_batches(documents)
    while part := list(itertools.chain.from_iterable(itertools.islice(whole, PART_BATCHES))):
        yield part
