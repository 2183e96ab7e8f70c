"""How a changed file of prepared data is noticed: `checksums.json` beside the files of a dataset.

It holds the size of every file, and the sha256 of the small ones: JSON and the tokenizer. The records need none, since
ArrayRecord keeps a hash of each of their chunks and compares it when the chunk is read. So opening a dataset costs the
same whatever its size. A dataset without the file was written by an older lacy_jax.
"""

import hashlib
import json
from typing import Any

from etils import epath

from lacy_jax.data.files import parse_json
from lacy_jax.errors import DataError
from lacy_jax.folders import read_file, reading

CHECKSUMS_FILE = "checksums.json"
_SMALL = (".json", ".model")  # ends of the names of files that have no hashes inside


def write_checksums(folder: epath.PathLike) -> None:
    """Describes all files of a folder, which is complete but for this one."""
    files = [file for file in epath.Path(folder).iterdir() if file.name != CHECKSUMS_FILE]
    rows = {file.name: _describe(file) for file in sorted(files, key=lambda file: file.name)}
    (epath.Path(folder) / CHECKSUMS_FILE).write_text(json.dumps(rows, indent=2))


def check_files(folder: epath.PathLike, *, without: str = "") -> None:
    """Returns where the files of a folder are as `write_checksums` found them, or it was never called.

    without: what the names of files begin with that need not be there; "" if all must be.

    Raises:
        DataError: one was changed, cut, or is missing.
        StorageError: one cannot be read.
    """
    for name, row in _stored(folder).items():
        if without and name.startswith(without):
            continue
        file = epath.Path(folder) / name
        try:
            with reading(file):
                found: Any = _describe(file)
        except (FileNotFoundError, NotADirectoryError):
            found = "no file"
        if found != row:
            raise DataError(f"{file} is damaged: expected {row}, found {found}; {_mend(folder)}")


def stored_size(folder: epath.PathLike, name: str) -> int | None:
    """The size of a file in bytes as `write_checksums` found it; None where it was never called."""
    size: int | None = _stored(folder).get(name, {}).get("size")
    return size


def _stored(folder: epath.PathLike) -> dict[str, Any]:
    """What `write_checksums` wrote, by the name of each file; {} where it was never called."""
    path = epath.Path(folder) / CHECKSUMS_FILE
    if (content := read_file(path)) is None:
        return {}
    try:
        rows: dict[str, Any] = parse_json(content)
        if not isinstance(rows, dict) or any("/" in name for name in rows):
            raise ValueError("a name of another folder, or no names")
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}); {_mend(folder)}") from None
    return rows


def _mend(folder: epath.PathLike) -> str:
    return f"delete {folder}, and it is prepared anew, or copy it again from where it was made"


def _describe(file: epath.Path) -> dict[str, Any]:
    size: dict[str, Any] = {"size": file.stat().length}
    if not file.name.endswith(_SMALL):
        return size
    return size | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
