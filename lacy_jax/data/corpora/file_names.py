"""Which files a corpus reads, on a disk or in a bucket, and the names that ids are made of."""

import collections
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from lacy_jax.config import CorpusConfig
from lacy_jax.data.files import file_sha256
from lacy_jax.errors import DataError
from lacy_jax.folders import bucket_files, unreadable
from lacy_jax.paths import is_bucket


@dataclass(frozen=True)
class Kind:
    """Files of one kind. endings: what their names may end in. folders: whether a folder stands for those below it."""

    endings: tuple[str, ...]
    folders: Literal["allowed", "refused"] = "refused"

    def __str__(self) -> str:
        *others, last = self.endings
        return f"{', '.join(others)} or {last}" if others else last


@dataclass(frozen=True)
class Named:
    """A file: its path, and the name that ids are made of."""

    path: str
    name: str


def named_files(
    corpus: CorpusConfig, kind: Kind, *, without_ids: Callable[[str], bool] = lambda _path: True
) -> list[Named]:
    """The corpus' files. Their names are their own, wherever they lie.

    If files in several folders share a name and their documents have no ids, it has enough folders to be unique.

    Args:
        without_ids: whether a file's documents have no ids.

    Raises:
        DataError, StorageError: there are no such files.
    """
    files = _find(corpus, kind)
    alike = collections.defaultdict(list)
    for path in files:
        alike[PurePosixPath(path).name].append(path)
    names: dict[str, str] = {}
    for paths in alike.values():
        names |= _names(paths, without_ids=without_ids)
    return [Named(path, names[path]) for path in files]


def fingerprint(files: Sequence[Named]) -> list[list[str]]:
    """Each file by its name and sha256."""
    return [[file.name, file_sha256(file.path)] for file in files]


def record_fingerprint(corpus: CorpusConfig, files: Sequence[Named]) -> dict[str, Any]:
    """Of files of records: the fields that are read, and each file by its name and sha256."""
    return {"fields": [corpus.id_field, corpus.title_field, corpus.text_field], "files": fingerprint(files)}


def problems(corpus: CorpusConfig, kind: Kind) -> Iterator[str]:
    """One line if a file does not exist; reads none. checks.py reports where none is named."""
    try:
        if corpus.files:
            _find(corpus, kind)
    except DataError as error:
        yield str(error)


def _names(alike: Sequence[str], *, without_ids: Callable[[str], bool]) -> dict[str, str]:
    if len(alike) == 1:
        return {path: PurePosixPath(path).name for path in alike}
    parts = {path: PurePosixPath(path if is_bucket(path) else os.path.abspath(path)).parts for path in alike}
    deepest = max(map(len, parts.values()))
    count = next((n for n in range(2, deepest) if len({own[-n:] for own in parts.values()}) == len(alike)), deepest)
    # Documents with ids need no folders in it: prepared data is found by a fingerprint that has these names.
    return {path: "/".join(own[-count:]) if without_ids(path) else own[-1] for path, own in parts.items()}


def _find(corpus: CorpusConfig, kind: Kind) -> list[str]:
    """The files of comma-separated paths and globs: in the order given, those of one glob by name, each once."""
    patterns = corpus.files
    paths: dict[str, None] = {}
    whole = not is_bucket(patterns) and os.path.exists(patterns)
    for pattern in [patterns] if whole else filter(None, map(str.strip, patterns.split(","))):
        matches = _in_bucket(pattern, kind) if is_bucket(pattern) else _on_disk(pattern, kind)
        if not matches:
            raise DataError(f"config.corpus.files: no such file: {pattern}")
        for match in matches:
            if not match.endswith(kind.endings):
                raise DataError(f"config.corpus.files: {match}: the name must end in {kind}")
        paths |= dict.fromkeys(matches)
    if not paths:
        raise DataError(f'config.corpus.files is empty: corpus "{corpus.name}" needs a path or a glob')
    return list(paths)


def _on_disk(pattern: str, kind: Kind) -> list[str]:
    """The files that a path or a glob names; [] if one of them is not there."""
    found: list[str] = []
    for match in sorted(glob.glob(_literal_where_it_exists(pattern), recursive=True)):
        if kind.folders == "allowed" and os.path.isdir(match):
            below = (str(path) for path in sorted(Path(match).rglob("*")) if path.is_file())
            found += [path for path in below if path.endswith(kind.endings)]
        elif os.path.isfile(match):
            found.append(match)
        else:
            return []
    return found


def _literal_where_it_exists(pattern: str) -> str:
    """The glob, with its longest start that exists as a path of that exact name (brackets and all) escaped."""
    parts = Path(pattern).parts
    there = next(n for n in range(len(parts), -1, -1) if os.path.exists(os.path.join("", *parts[:n])) or not n)
    return os.path.join(glob.escape(os.path.join("", *parts[:there])), *parts[there:])


def _in_bucket(pattern: str, kind: Kind) -> list[str]:
    """The objects that an address or a glob names."""
    if problem := unreadable(pattern):
        raise DataError(f"config.corpus.files: {pattern}: {problem}")
    files, name = bucket_files(pattern)
    found = [name] if files.isfile(name) else sorted(files.glob(name))
    if kind.folders == "allowed":
        below = [each for match in found for each in sorted(files.find(match))]
        found = [each for each in dict.fromkeys(below) if each.endswith(kind.endings) or each in found]
    scheme = pattern.partition("://")[0]
    return [f"{scheme}://{each}" for each in found]
