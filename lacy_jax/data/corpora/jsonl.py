"""The corpus jsonl: one JSON object per line, in one or more files."""

import collections
import glob
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lacy_jax.config import CorpusConfig
from lacy_jax.data.documents import Document
from lacy_jax.data.files import file_sha256, read_json_lines
from lacy_jax.errors import DataError


def _files(patterns: str) -> list[Path]:
    """The files of comma-separated paths and globs: in the order given, those of one glob by name, each once."""
    paths: dict[str, None] = {}
    parts = [patterns] if os.path.isfile(patterns) else [part.strip() for part in patterns.split(",")]
    for pattern in filter(None, parts):
        matches = sorted(glob.glob(_literal_where_it_exists(pattern), recursive=True))
        if not all(Path(match).is_file() for match in matches) or not matches:
            raise DataError(f"config.corpus.files: no such file: {pattern}")
        for match in matches:
            if not match.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
                raise DataError(f"config.corpus.files: {match}: the name must end in .jsonl, .jsonl.gz or .jsonl.zst")
            paths[match] = None
    if not paths:
        raise DataError('config.corpus.files is empty: corpus "jsonl" needs a path or a glob')
    return [Path(path) for path in paths]


def _literal_where_it_exists(pattern: str) -> str:
    """The glob, with its longest start that exists as a path of that exact name (brackets and all) escaped."""
    parts = Path(pattern).parts
    there = next(n for n in range(len(parts), -1, -1) if os.path.exists(os.path.join("", *parts[:n])) or not n)
    return os.path.join(glob.escape(os.path.join("", *parts[:there])), *parts[there:])


def _named_files(corpus: CorpusConfig) -> list[tuple[Path, str]]:
    """The corpus' files, each with the name that ids are made of: the file's own, wherever it lies.

    If files in several folders share a name and their documents have no ids, it has enough folders to be unique.
    """
    files = _files(corpus.files)
    alike = collections.defaultdict(list)
    for path in files:
        alike[path.name].append(path)
    names: dict[Path, str] = {}
    for paths in alike.values():
        names |= _names(paths, id_field=corpus.id_field)
    return [(path, names[path]) for path in files]


def _names(alike: Sequence[Path], *, id_field: str) -> dict[Path, str]:
    if len(alike) == 1:
        return {path: path.name for path in alike}
    parts = {path: Path(os.path.abspath(path)).parts for path in alike}
    deepest = max(map(len, parts.values()))
    count = next((n for n in range(2, deepest) if len({own[-n:] for own in parts.values()}) == len(alike)), deepest)
    # Documents with ids need no folders in it: prepared data is found by a fingerprint that has these names.
    return {path: path.name if _first_has_id(path, id_field) else "/".join(own[-count:]) for path, own in parts.items()}


def _first_has_id(path: Path, id_field: str) -> bool:
    return any(record.get(id_field) is not None for _, record in itertools.islice(read_json_lines(path), 1))


def problems(corpus: CorpusConfig) -> Iterator[str]:
    """One line if a file does not exist; reads none. checks.py reports where none is named."""
    try:
        if corpus.files:
            _files(corpus.files)
    except DataError as error:
        yield str(error)


def documents(corpus: CorpusConfig) -> Iterator[tuple[str, Document]]:
    """One document per line, with the place of the line. A title may be missing; a missing id becomes "<file>:<line>".

    If files in several folders share a name, <file> has enough folders to be unique.

    Raises:
        DataError: a file is missing or cut, or a line is no document.
    """
    for path, name in _named_files(corpus):
        for where, record in read_json_lines(path):
            line = where.rpartition(" ")[2]
            identity = record.get(corpus.id_field)
            if identity is None:
                identity = f"{name}:{line}"
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
        "files": [[name, file_sha256(path)] for path, name in _named_files(corpus)],
    }
