"""The annotator links: entity marks that a corpus brings, in a field of its records (jsonl) or a column (parquet).

The field holds a list; each entry is `{"start": 30, "end": 41, "kind": "GPE", "text": "Los Angeles"}`, of which `kind`
(or `label`, or `type`) and `text` may be missing or null, or `[30, 41]`, or `[30, 41, "GPE"]`. Offsets count characters
of the record's text. Offsets that others made are often wrong in places, so an entry that cannot be a mark is counted
and dropped. If no record has the field, the corpus is refused.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from lacy_jax.config import AnnotateConfig, CorpusConfig
from lacy_jax.data.corpora import jsonl, parquet
from lacy_jax.data.corpora.records import document_of
from lacy_jax.data.documents import Document, LeftOut, Spans, clean_text, text_offset
from lacy_jax.errors import DataError

READS = ("corpus",)
KIND = "LINK"  # of an entry without one
LONGEST = 200  # characters of a mark: what is longer is a sentence, and no name
_KINDS = ("kind", "label", "type")
_LONGEST_KIND = 64
_ALGORITHM = 1  # raise it when the marks of unchanged records change


def mark(
    documents: Iterable[Document], config: AnnotateConfig, *, corpus: CorpusConfig
) -> Iterator[tuple[Document, Spans]]:
    """Each document with the marks of its record; `documents` are some of the corpus, in its order.

    Raises:
        DataError: the files cannot be read, or no record that was read has the field.
    """
    found = _links_by_id(corpus, config.links_field)
    dropped: Counter[str] = Counter()
    total = having = marks = 0
    for document in documents:
        total += 1
        links = next((links for identity, links in found if identity == document.id), None)
        having += links is not None
        table = read_links(links, document.text, dropped=dropped)
        marks += len(table)
        yield document, _spans(table, shift=text_offset(document))
    if total and not having:
        raise DataError(
            f"config.annotate.links_field: none of {total:,} records has a field {config.links_field!r}; name the one "
            "that holds the marks"
        )
    if having < total:
        logging.warning("links: %d of %d documents have no field %r", total - having, total, config.links_field)
    if dropped:
        why = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
        logging.warning("links: %d of %d marks dropped: %s", dropped.total(), dropped.total() + marks, why)


def fingerprint(config: AnnotateConfig, *, corpus: CorpusConfig) -> dict[str, Any]:
    """The field; the files stand in the corpus' own fingerprint."""
    del corpus
    return {"field": config.links_field, "algorithm": _ALGORITHM}


def read_links(links: Any, text: str, *, dropped: Counter[str]) -> list[tuple[int, int, str]]:
    """(start, end, kind) of each entry that can be a mark of `text`, ascending and apart; None has no entries.

    dropped: counts the others by reason.
    """
    if not isinstance(links, list):
        dropped["in a field that is no list"] += links is not None
        return []
    read = [_link(link, text) for link in links]
    dropped.update(each for each in read if isinstance(each, str))
    kept: list[tuple[int, int, str]] = []
    # Of marks that overlap, the first stays; of two with the same start, the longer one.
    for link in sorted((each for each in read if not isinstance(each, str)), key=lambda link: (link[0], -link[1])):
        if kept and link[0] < kept[-1][1]:
            dropped["that overlap another"] += 1
        else:
            kept.append(link)
    dropped += Counter()  # no reasons of count 0
    return kept


def _link(link: Any, text: str) -> tuple[int, int, str] | str:
    """(start, end, kind), without white space at its ends; or why the entry is no mark."""
    match link:
        case {"start": start, "end": end}:
            kind: Any = next((link[name] for name in _KINDS if link.get(name) is not None), KIND)
            said = link.get("text")
        case [start, end] | [start, end, _]:
            kind, said = link[2] if len(link) > 2 else KIND, None
        case _:
            return "without start and end"
    if type(start) is not int or type(end) is not int or not 0 <= start < end:
        return "without whole numbers 0 <= start < end"
    own = text[start:end]
    before, after = len(own) - len(own.lstrip()), len(own) - len(own.rstrip())
    faults = {
        "that end after the text": end > len(text),
        "whose text stands elsewhere": said is not None and said != own,
        "of white space": not own.strip(),
        f"of more than {LONGEST} characters": len(own.strip()) > LONGEST,
    }
    if reason := next((reason for reason, found in faults.items() if found), ""):
        return reason
    named = isinstance(kind, str) and 0 < len(kind) <= _LONGEST_KIND
    return start + before, end - after, clean_text(kind) if named else KIND


def _spans(table: list[tuple[int, int, str]], *, shift: int) -> Spans:
    places = np.array([link[:2] for link in table], np.int32).reshape(-1, 2) + np.int32(shift)
    no = np.zeros(len(table), bool)
    return Spans(places[:, 0], places[:, 1], kinds=tuple(link[2] for link in table), subject=no, repeated=no)


def _links_by_id(corpus: CorpusConfig, field: str) -> Iterator[tuple[str, Any]]:
    """The id of each document of the corpus, and what its record has in the field; None where it has none."""
    rows = parquet.records(corpus, further=field) if corpus.name == "parquet" else jsonl.records(corpus)
    for _, identity, record in rows:
        if isinstance(record, LeftOut):
            continue
        document = document_of(record, corpus, identity=identity)
        if isinstance(document, Document):
            yield clean_text(document.id), _at(record, field)


def _at(record: Any, field: str) -> Any:
    """What stands in a field; "a.b" is the field b of an object a, where there is no field "a.b"."""
    if not isinstance(record, dict):
        return None
    if field in record:
        return record[field]
    first, dot, rest = field.partition(".")
    return _at(record.get(first), rest) if dot else None
