"""Articles that facts are checked against, and the passages of one that fit a fact best.

Two forms are read, both FActScore's (https://github.com/shmsw25/FActScore): its SQLite file, a table
`documents(title, text)` with the passages of an article in one text, and JSON lines of {"title", "text"}.
"""

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lacy_jax.cascade.text.words import match_query, terms_of
from lacy_jax.data.files import read_json_lines
from lacy_jax.errors import DataError

SEPARATOR = "####SPECIAL####SEPARATOR####"  # between the passages of an article in FActScore's file
_MARKS = re.compile(r"</?s>")  # its tokenizer's, left in the texts
PASSAGE_WORDS = 192  # about 256 tokens, the size of FActScore's passages
PASSAGES = 5  # FActScore's k


@dataclass(frozen=True)
class Passage:
    """A part of an article."""

    title: str
    text: str


def read_articles(path: str, *, titles: Iterable[str]) -> dict[str, list[Passage]]:
    """The passages of the articles of these titles.

    Raises:
        DataError: the file cannot be read, or has no article of some title.
    """
    wanted = dict.fromkeys(titles)
    with open(_existing(path), "rb") as file:
        is_sqlite = file.read(16) == b"SQLite format 3\0"
    texts = _from_sqlite(path, wanted) if is_sqlite else _from_lines(path, wanted)
    articles = {title: [Passage(title, text) for text in parts if text.strip()] for title, parts in texts.items()}
    missing = [title for title in wanted if not articles.get(title)]
    if missing:
        shown = ", ".join(repr(title) for title in missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise DataError(
            f"{path}: no article for {len(missing)} of {len(wanted)} topics ({shown}); a topic must be the title of one"
        )
    return articles


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise DataError(f"{path}: there is no such file; give FActScore's .db, or JSON lines of title and text")
    return Path(path)


def _from_sqlite(path: str, titles: Mapping[str, None]) -> dict[str, list[str]]:
    connection = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)
    try:
        rows = [
            connection.execute("SELECT title, text FROM documents WHERE title = ?", (title,)).fetchone()
            for title in titles
        ]
    except sqlite3.Error as error:
        raise DataError(f"{path}: not FActScore's table documents(title, text) ({error})") from None
    finally:
        connection.close()
    return {row[0]: [_MARKS.sub("", part) for part in row[1].split(SEPARATOR)] for row in rows if row}


def _from_lines(path: str, titles: Mapping[str, None]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    try:
        for where, row in read_json_lines(path):
            title, text = row.get("title"), row.get("text")
            if not isinstance(title, str) or not isinstance(text, str | list):
                raise DataError(f'{where}: not an object of "title" and "text"')
            if title in titles and title not in found:
                found[title] = passages_of(" ".join([text] if isinstance(text, str) else map(str, text)))
    except DataError as error:
        raise DataError(f"{error}; give FActScore's .db, or JSON lines of title and text") from None
    return found


def passages_of(text: str) -> list[str]:
    """A text in parts of at most PASSAGE_WORDS words."""
    words = text.split()
    return [" ".join(words[start : start + PASSAGE_WORDS]) for start in range(0, len(words), PASSAGE_WORDS)]


class Retrieval:
    """Ranks the passages of one article by BM25 in an FTS5 table in memory: the statistics are the article's own."""

    def __init__(self, passages: Sequence[Passage]):
        self._passages = passages
        self._connection = sqlite3.connect(":memory:")
        self._connection.execute("CREATE VIRTUAL TABLE words USING fts5(body, content='')")
        rows = [(index, " ".join(terms_of(passage.text))) for index, passage in enumerate(passages)]
        self._connection.executemany("INSERT INTO words (rowid, body) VALUES (?, ?)", rows)

    def best(self, query: str, *, count: int = PASSAGES) -> list[Passage]:
        """The passages that fit best, best first; as many as there are up to `count`, those without a hit last."""
        terms = dict.fromkeys(terms_of(query))
        rows = []
        if terms:
            rows = self._connection.execute(
                "SELECT rowid FROM words WHERE words MATCH ? ORDER BY bm25(words), rowid LIMIT ?",
                (match_query(terms), count),
            ).fetchall()
        order = dict.fromkeys([row[0] for row in rows] + list(range(len(self._passages))))
        return [self._passages[index] for index in list(order)[:count]]
