"""The corpus jsonl: one JSON object a line, in one or more files."""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lacy_jax.config import CorpusConfig
from lacy_jax.data.documents import Document
from lacy_jax.data.files import file_sha256, read_json_lines
from lacy_jax.errors import DataError


def _files(patterns: str) -> list[Path]:
    """The files of comma-separated paths and globs: in the order given, those of one glob by name, each once."""
    paths: dict[str, None] = {}
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        matches = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]
        if not all(Path(match).is_file() for match in matches) or not matches:
            raise DataError(f"config.corpus.files: no such file: {pattern}")
        for match in matches:
            if not match.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
                raise DataError(f"config.corpus.files: {match}: the name must end in .jsonl, .jsonl.gz or .jsonl.zst")
            paths[match] = None
    if not paths:
        raise DataError('config.corpus.files is empty: corpus "jsonl" needs a path or a glob')
    return [Path(path) for path in paths]


def problems(corpus: CorpusConfig) -> Iterator[str]:
    """The files that are not there, without reading any. That none are named checks.py says."""
    try:
        if corpus.files:
            _files(corpus.files)
    except DataError as error:
        yield str(error)


def documents(corpus: CorpusConfig) -> Iterator[tuple[str, Document]]:
    """One document a line, with the place of the line. A title may be missing; a missing id becomes "<file>:<line>".

    Raises:
        DataError: a file is missing or cut, or a line is no document.
    """
    for path in _files(corpus.files):
        for where, record in read_json_lines(path):
            line = where.rpartition(" ")[2]
            identity = record.get(corpus.id_field)
            if identity is None:
                identity = f"{path.name}:{line}"
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
    """The fields that are read, and each file by its name and sha256, wherever it lies."""
    return {
        "fields": [corpus.id_field, corpus.title_field, corpus.text_field],
        "files": [[path.name, file_sha256(path)] for path in _files(corpus.files)],
    }
