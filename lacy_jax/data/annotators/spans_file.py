"""The annotator spans: marks that somebody else made, in a JSON-lines file."""

import dataclasses
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lacy_jax.config import AnnotateConfig
from lacy_jax.data.documents import NO_SPANS, Document, Spans, text_offset
from lacy_jax.data.files import file_sha256, read_json_lines
from lacy_jax.errors import DataError


def problems(config: AnnotateConfig) -> Iterator[str]:
    """One line if the file does not exist. checks.py reports where none is named."""
    if config.spans_file and not Path(config.spans_file).is_file():
        yield f"config.annotate.spans_file: there is no file {config.spans_file}"


def mark(documents: Iterable[Document], config: AnnotateConfig) -> Iterator[tuple[Document, Spans]]:
    """Marks of any other annotator, found by document id; without one, a document has no marks.

    Raises:
        DataError: the file cannot be read, or does not fit the documents.
    """
    path = config.spans_file
    marks = dict(_spans_by_id(path))
    matched = total = 0
    for document in documents:
        total += 1
        where, spans = marks.get(document.id, ("", NO_SPANS))
        matched += document.id in marks
        if len(spans) and spans.ends.max() > len(document.text):
            raise DataError(
                f"{where}: a span ends at {spans.ends.max()}, but the text of document {document.id!r} has "
                f"{len(document.text)} characters; offsets count characters of the text, without the title"
            )
        shift = np.int32(text_offset(document))
        yield document, dataclasses.replace(spans, starts=spans.starts + shift, ends=spans.ends + shift)
    if not matched:
        raise DataError(f"{path}: none of its ids is one of the corpus' {total} document ids; they must be the same")
    if matched < total:
        logging.warning("%s: %d of %d documents have no line there, so no marks", path, total - matched, total)


def fingerprint(config: AnnotateConfig) -> dict[str, Any]:
    """The file's sha256. Raises `DataError` where it is missing."""
    return {"sha256": file_sha256(config.spans_file)}


def _spans_by_id(path: str) -> Iterator[tuple[str, tuple[str, Spans]]]:
    seen = set()
    for where, record in read_json_lines(path):
        identity, spans = record.get("id"), record.get("spans")
        if isinstance(identity, bool) or not isinstance(identity, str | int) or not isinstance(spans, list):
            raise DataError(f'{where}: must be {{"id": "...", "spans": [[start, end, "kind"], ...]}}')
        if str(identity) in seen:
            raise DataError(f"{where}: the id {identity!r} occurs twice; put all spans of a document on one line")
        seen.add(str(identity))
        for span in spans:
            _check_span(span, where=where)
        spans.sort(key=lambda span: span[:2])
        table = np.array([span[:2] for span in spans], np.int32).reshape(-1, 2)
        no = np.zeros(len(spans), bool)
        kinds = tuple(sys.intern(span[2]) for span in spans)
        yield str(identity), (where, Spans(starts=table[:, 0], ends=table[:, 1], kinds=kinds, subject=no, repeated=no))


def _check_span(span: Any, *, where: str) -> None:
    match span:
        case [int(start), int(end), str(kind)] if 0 <= start < end < 2**31 and kind:
            return
    raise DataError(
        f"{where}: the span {span!r} is not [start, end, kind] with whole 0 <= start < end and a named kind"
    )
