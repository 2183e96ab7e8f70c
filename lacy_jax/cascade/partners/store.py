"""SQLite files derived from something else: found by its fingerprint, built when they are missing or broken."""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lacy_jax.data.files import written_whole
from lacy_jax.errors import PartnerError
from lacy_jax.folders import of_storage
from lacy_jax.paths import is_bucket


def build(path: Path, *, fingerprint: dict[str, Any], fill: Callable[[sqlite3.Connection], None]) -> None:
    """Writes a store that `fill` fills; what lies at `path` is replaced only when the new one is complete."""
    with written_whole(path) as unfinished, contextlib.closing(sqlite3.connect(unfinished)) as connection:
        connection.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; CREATE TABLE about (fingerprint TEXT);"
        )
        fill(connection)
        connection.execute("INSERT INTO about VALUES (?)", (json.dumps(fingerprint, sort_keys=True),))
        connection.commit()


def find_or_build(
    name: str, *, directory: str, fingerprint: dict[str, Any], fill: Callable[[sqlite3.Connection], None]
) -> Path:
    """The path of the store of this fingerprint in `directory`; `name` begins the file's name.

    Raises:
        PartnerError: it cannot be written.
        Exception: what `fill` raises, except for errors of the file system and of SQLite.
    """
    if is_bucket(directory):
        raise PartnerError(f"{name}: indexes lie on a disk, not in {directory}; give --directory=FOLDER")
    digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:12]
    path = Path(directory).expanduser() / f"{name}-{digest}.sqlite"
    if not _is_whole(path, fingerprint=fingerprint):
        try:
            build(path, fingerprint=fingerprint, fill=fill)
        except (OSError, sqlite3.Error) as error:
            raise PartnerError(f"{name}: cannot write the index {path} ({error})") from error
    return path


def _is_whole(path: Path, *, fingerprint: dict[str, Any]) -> bool:
    if not path.exists():
        return False
    try:
        connection = sqlite3.connect(path)
        try:
            row = connection.execute("SELECT fingerprint FROM about").fetchone()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:  # a disk, or a lock; also a file that is a store of another kind
        if of_storage(error) or "locked" in str(error):
            raise PartnerError(f"cannot read the index {path} ({error})") from error
        return False
    except sqlite3.DatabaseError:
        return False
    return row is not None and row[0] == json.dumps(fingerprint, sort_keys=True)
