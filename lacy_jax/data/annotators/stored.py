"""Annotations that are stored already: found by a document's id, and the annotators union and intersection of them.

A character other than white space is marked where any of them marks it (union), or where all do (intersection). Marked
characters that touch are one span, a whole answer. So are those that only white space parts, if one of the annotations
marks that white space: "Marie Curie" of the one joins "Marie" and "Curie" of the other.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lacy_jax.config import AnnotateConfig
from lacy_jax.data.datasets import AnnotatedSource, fingerprint_name, version_folder
from lacy_jax.data.documents import Document, Spans, full_text
from lacy_jax.data.factual import covered, runs, solid_characters
from lacy_jax.errors import DataError

How = Literal["union", "intersection"]
_ALGORITHM = 1  # raise it when the same annotations are combined differently


def folders_of(config: AnnotateConfig) -> list[Path]:
    """The version folders that `config.of` names."""
    return [version_folder(Path(each.strip())) for each in config.of.split(",") if each.strip()]


class StoredMarks:
    """The marks of an annotated dataset, by document; quick where documents come in the order of the dataset."""

    def __init__(self, folder: Path) -> None:
        """Raises `DataError` where there is no annotated dataset."""
        self._folder, self._source = folder, AnnotatedSource(folder)
        self._next, self._places = 0, dict[str, int]()

    def __len__(self) -> int:
        return len(self._source)

    def spans_of(self, document: Document) -> Spans:
        """Raises `DataError` where the dataset has no such document, or another text of it."""
        found = self._at(self._next)
        if found is None or found[0].id != document.id:
            if not self._places:
                self._places = {each.id: place for place, (each, _) in enumerate(self._source)}
            self._next = self._places.get(document.id, -1)
            found = self._at(self._next)
        if found is None:
            raise DataError(f"{self._folder}: has no document {document.id!r}; name annotations of this very corpus")
        if found[0] != document:
            raise DataError(f"{self._folder}: document {document.id!r} has another text there than in the corpus")
        self._next += 1
        return found[1]

    def _at(self, place: int) -> tuple[Document, Spans] | None:
        return self._source[place] if 0 <= place < len(self._source) else None


def stored_fingerprint(config: AnnotateConfig) -> list[str]:
    """Names for what the annotations of `config.of` were made from. Raises as `StoredMarks`."""
    return [fingerprint_name("annotated", AnnotatedSource(folder).fingerprint) for folder in folders_of(config)]


@dataclass(frozen=True)
class Combined:
    """The annotator of that name."""

    how: How

    def problems(self, config: AnnotateConfig) -> Iterator[str]:
        """A line about each folder that is not there."""
        return folder_problems(config)

    def mark(self, documents: Iterable[Document], config: AnnotateConfig) -> Iterator[tuple[Document, Spans]]:
        """Each document with the marks of all annotations together. Raises as `StoredMarks`."""
        stored = [StoredMarks(folder) for folder in folders_of(config)]
        for document in documents:
            parts = [each.spans_of(document) for each in stored]
            yield document, combine(parts, full_text(document), how=self.how)

    def fingerprint(self, config: AnnotateConfig) -> dict[str, Any]:
        """What the annotations were made from. Raises as `StoredMarks`."""
        return {"of": stored_fingerprint(config), "algorithm": _ALGORITHM}


UNION, INTERSECTION = Combined("union"), Combined("intersection")


def folder_problems(config: AnnotateConfig) -> Iterator[str]:
    """A line about each folder of `config.of` that is not there."""
    for folder in folders_of(config):
        if not folder.is_dir():
            yield f"config.annotate.of: there is no folder {folder}"


def combine(parts: Sequence[Spans], text: str, *, how: How) -> Spans:
    """The union or intersection of annotations of one text; see this module's first lines.

    The kind of a span is that of the first annotation that marks a part of it, there of its first span. An annotation
    calls the span a subject, or repeated, if it calls all its own spans there so. In a union, all annotations that mark
    a part of the span must call it so; in an intersection, one must. So the rule takes from a union what it would take
    from either, and from an intersection what it would take from both.
    """
    solid = solid_characters(text)
    marked = [covered(spans, len(text)) for spans in parts]
    either = np.logical_or.reduce(marked)
    chosen = solid & (either if how == "union" else np.logical_and.reduce(marked))
    rows = [
        (*place, *_labels([part for part in parts if len(part)], *place, how=how))
        for place in _runs(chosen, chosen | (either & ~solid))
    ]
    table = np.array([row[:2] for row in rows], np.int32).reshape(-1, 2)
    flags = np.array([row[3:] for row in rows], bool).reshape(-1, 2)
    return Spans(table[:, 0], table[:, 1], tuple(row[2] for row in rows), subject=flags[:, 0], repeated=flags[:, 1])


def _runs(chosen: np.ndarray, joined: np.ndarray) -> list[tuple[int, int]]:
    """From the first to the last chosen character of each run of joined ones."""
    places = []
    for start, end in runs(joined):
        own = np.flatnonzero(chosen[start:end])
        if len(own):
            places.append((int(start + own[0]), int(start + own[-1] + 1)))
    return places


def _labels(parts: Sequence[Spans], start: int, end: int, *, how: How) -> tuple[str, bool, bool]:
    """The kind of a combined span, whether it is part of a subject, whether it is repeated."""
    own = [(part, np.flatnonzero((part.starts < end) & (part.ends > start))) for part in parts]
    own = [(part, rows) for part, rows in own if len(rows)]
    agree = all if how == "union" else any
    subject = agree(bool(part.subject[rows].all()) for part, rows in own)
    repeated = agree(bool(part.repeated[rows].all()) for part, rows in own)
    first, rows = own[0]
    return first.kinds[int(rows[0])], subject, repeated
