"""The corpus jsonl: one JSON object per line, in one or more files, as Dolma and OLMo have them, too."""

import itertools
from collections.abc import Iterator
from typing import Any

from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpora import file_names
from lacy_jax.data.corpora.file_names import Kind, Named
from lacy_jax.data.documents import Document
from lacy_jax.data.files import read_json_lines
from lacy_jax.errors import DataError

_KIND = Kind((".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst"))


def problems(corpus: CorpusConfig) -> Iterator[str]:
    """One line if a file does not exist; reads none."""
    return file_names.problems(corpus, _KIND)


def documents(corpus: CorpusConfig) -> Iterator[tuple[str, Document]]:
    """One document per line, with the place of the line. A title may be missing; a missing id becomes "<file>:<line>".

    If files in several folders share a name, <file> has enough folders to be unique.

    Raises:
        DataError: a file is missing or cut, or a line is no document.
    """
    for file in _files(corpus):
        for where, record in read_json_lines(file.path):
            line = where.rpartition(" ")[2]
            identity = record.get(corpus.id_field)
            if identity is None:
                identity = f"{file.name}:{line}"
            elif isinstance(identity, bool) or not isinstance(identity, str | int):
                raise DataError(f"{where}: the id, field {corpus.id_field!r}, must be a string or a whole number")
            title = record.get(corpus.title_field)
            text = record.get(corpus.text_field)
            if not isinstance(title, str | None):
                raise DataError(f"{where}: the title, field {corpus.title_field!r}, must be a string")
            if not isinstance(text, str):
                raise DataError(
                    f"{where}: the text, field {corpus.text_field!r}, must be a string; the line has "
                    f"{', '.join(map(repr, record)) or 'no fields'} (config.corpus.text_field names it)"
                )
            yield where, Document(id=str(identity), title=title or "", text=text)


def fingerprint(corpus: CorpusConfig) -> dict[str, Any]:
    """The fields that are read, and each file by its name (see `documents`) and sha256."""
    return {
        "fields": [corpus.id_field, corpus.title_field, corpus.text_field],
        "files": file_names.fingerprint(_files(corpus)),
    }


def _files(corpus: CorpusConfig) -> list[Named]:
    def without_ids(path: str) -> bool:
        return all(record.get(corpus.id_field) is None for _, record in itertools.islice(read_json_lines(path), 1))

    return file_names.named_files(corpus, _KIND, without_ids=without_ids)
