"""The corpus jsonl: one JSON object per line, in one or more files, as Dolma and OLMo have them, too."""

from collections.abc import Iterator
from typing import Any

from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpora import file_names
from lacy_jax.data.corpora.file_names import Kind, Named
from lacy_jax.data.corpora.records import document_of
from lacy_jax.data.documents import Document, LeftOut
from lacy_jax.data.files import json_lines

_KIND = Kind((".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst"))


def problems(corpus: CorpusConfig) -> Iterator[str]:
    """One line if a file does not exist; reads none."""
    return file_names.problems(corpus, _KIND)


def documents(corpus: CorpusConfig) -> Iterator[tuple[str, Document | LeftOut]]:
    """One document per line, with the place of the line. A title may be missing; a missing id becomes "<file>:<line>".

    If files in several folders share a name, <file> has enough folders to be unique. A line that is no document is left
    out, and so is the rest of an archive that is cut.

    Raises:
        DataError: a file is missing.
    """
    for where, identity, record in records(corpus):
        yield where, record if isinstance(record, LeftOut) else document_of(record, corpus, identity=identity)


def records(corpus: CorpusConfig) -> Iterator[tuple[str, str, dict[str, Any] | LeftOut]]:
    """Each line's place, the id of its document if it names none, and what stands on it. Raises as `documents`."""
    for file in _files(corpus):
        for where, record in json_lines(file.path):
            yield where, f"{file.name}:{where.rpartition(' ')[2]}", record


def fingerprint(corpus: CorpusConfig) -> dict[str, Any]:
    """The fields that are read, and each file by its name (see `documents`) and sha256."""
    return file_names.record_fingerprint(corpus, _files(corpus))


def _files(corpus: CorpusConfig) -> list[Named]:
    def without_ids(path: str) -> bool:
        records = (record for _, record in json_lines(path) if not isinstance(record, LeftOut))
        return next(records, {}).get(corpus.id_field) is None

    return file_names.named_files(corpus, _KIND, without_ids=without_ids)
