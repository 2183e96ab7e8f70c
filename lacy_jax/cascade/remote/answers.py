"""Kept answers of servers and models: a question that was answered once is not paid for again."""

import hashlib
import sqlite3
import threading
from pathlib import Path

from lacy_jax.errors import LacyError
from lacy_jax.folders import writing


class Answers:
    """A SQLite file of answers, by the sha256 of all that they depend on; for any number of threads and processes."""

    def __init__(self, path: str, *, error: type[LacyError]) -> None:
        """Opens the file, or makes it. Raises `error` where it cannot."""
        self._path = path
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=60.0, check_same_thread=False)
            self._lock = threading.Lock()
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        except (OSError, sqlite3.Error) as reason:
            raise error(f"{path}: cannot keep answers there ({reason})") from None

    def find(self, question: bytes) -> str | None:
        """What was answered to it; None where nothing was."""
        with self._lock:
            row = self._connection.execute("SELECT answer FROM answers WHERE key = ?", (_key(question),)).fetchone()
        return None if row is None else str(row[0])

    def keep(self, question: bytes, answer: str) -> None:
        """Notes an answer; on the disk when this returns. Raises `StorageError` where there is no room."""
        with writing(self._path), self._lock, self._connection:
            self._connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (_key(question), answer))

    def close(self) -> None:
        self._connection.close()


def _key(question: bytes) -> str:
    return hashlib.sha256(question).hexdigest()
