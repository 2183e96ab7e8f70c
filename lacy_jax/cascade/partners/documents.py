"""A partner that looks it up: finds the passage that fits the text so far, and reads off how it goes on.

Passages lie in SQLite with an FTS5 index (https://www.sqlite.org/fts5.html). A question has two steps: bm25
over the words of the text's beginning and of its end gives a few passages; then the end of the text is laid
against every position of each, and the best place's next word or phrase is the answer.
"""

import copy
import functools
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacy_jax.cascade.partners import Wanted, store
from lacy_jax.cascade.text.alignment import Place, Units, best_place, units_of
from lacy_jax.cascade.text.words import match_query, terms_of
from lacy_jax.config import CorpusConfig, Span
from lacy_jax.data.corpus import corpus_fingerprint, read_documents
from lacy_jax.data.documents import Document, full_text
from lacy_jax.data.files import remembered_hashes

INDEX_VERSION = 2
PASSAGE_CHARACTERS = 2_000
OVERLAP_CHARACTERS = 300
CANDIDATES = 8
HEAD_CHARACTERS, HEAD_TERMS = 120, 6
TAIL_CHARACTERS, TAIL_TERMS = 240, 8
TITLE_WEIGHT = 3.0  # of a word of the title in bm25, against 1 for one of the body
LONGEST_TITLE = 6  # words, of a title looked up by name
TITLE_BONUS = 3.0  # for a passage whose title the text has named; nearly all of it for a long, rare title
KEPT_UNITS = 256  # passages whose units are kept in memory
KEPT_WEIGHTS = 1 << 16  # words whose weights are


@dataclass(frozen=True)
class Passage:
    """A part of a document's full text. `id` is its row in the store."""

    id: int
    title: str
    text: str


@dataclass(frozen=True)
class Found:
    """A passage that fits a text so far, and where in it the text goes on. Higher scores fit better."""

    passage: Passage
    place: Place
    score: float


def passages_of(document: Document) -> Iterator[str]:
    """The full text of a document, in parts that end with a word and overlap their neighbours."""
    text = full_text(document)
    start = 0
    while len(text) - start > PASSAGE_CHARACTERS:
        end = text.rfind(" ", start + PASSAGE_CHARACTERS // 2, start + PASSAGE_CHARACTERS)
        end = end if end > 0 else start + PASSAGE_CHARACTERS
        yield text[start:end]
        start = end - OVERLAP_CHARACTERS
    yield text[start:]


def build_store(documents: Iterable[Document], *, path: Path, fingerprint: dict[str, Any]) -> None:
    """Writes a store of `documents`; what lies at `path` is replaced only when the new one is complete."""
    store.build(path, fingerprint=fingerprint, fill=lambda connection: _fill(connection, documents))


def _fill(connection: sqlite3.Connection, documents: Iterable[Document]) -> None:
    connection.executescript(
        """
        CREATE TABLE passages (id INTEGER PRIMARY KEY, title TEXT, folded_title TEXT, text TEXT);
        CREATE VIRTUAL TABLE words USING fts5(title, body, content='', tokenize='unicode61 remove_diacritics 0');
        CREATE VIRTUAL TABLE vocabulary USING fts5vocab(words, row);
        """
    )
    for document in documents:
        title = " ".join(terms_of(document.title))
        for part in passages_of(document):
            added = connection.execute(
                "INSERT INTO passages (title, folded_title, text) VALUES (?, ?, ?)", (document.title, title, part)
            )
            body = " ".join(terms_of(part))
            connection.execute(
                "INSERT INTO words (rowid, title, body) VALUES (?, ?, ?)", (added.lastrowid, title, body)
            )
    connection.execute("CREATE INDEX by_title ON passages (folded_title)")
    connection.execute("INSERT INTO words (words) VALUES ('optimize')")


def open_store(corpus: CorpusConfig, *, directory: str) -> "DocumentStore":
    """The store of a corpus, kept in `directory` and built if it is missing or broken.

    Raises:
        DataError: the corpus cannot be read.
        PartnerError: the store cannot be written.
    """
    with remembered_hashes(directory):
        fingerprint = {"corpus": corpus_fingerprint(corpus), "index": INDEX_VERSION}
    path = store.find_or_build(
        f"documents-{corpus.name}",
        directory=directory,
        fingerprint=fingerprint,
        fill=lambda connection: _fill(connection, read_documents(corpus)),
    )
    return DocumentStore(path)


def from_spec(wanted: Wanted) -> "Documents":
    """The partner "documents" over the corpus, "documents:FILE" over JSON-lines files. Raises as `open_store`."""
    corpus = CorpusConfig(name="jsonl", files=wanted.argument) if wanted.argument else wanted.corpus
    return Documents(open_store(corpus, directory=wanted.directory), span=wanted.span, name=wanted.spec)


class DocumentStore:
    """Reads a store made by `build_store`."""

    def __init__(self, path: Path):
        self.path = path
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._size = max(1, self._connection.execute("SELECT count(*) FROM passages").fetchone()[0])
        self.weight = functools.lru_cache(KEPT_WEIGHTS)(self._weight)

    def _weight(self, term: str) -> float:
        """How telling a word is: 1 for one found in at most one passage, towards 0 for one found in all."""
        row = self._connection.execute("SELECT doc FROM vocabulary WHERE term = ?", (term,)).fetchone()
        rarity = math.log(self._size / (row[0] if row else 1)) / math.log(max(2, self._size))
        return min(1.0, max(0.05, rarity))

    def search(self, text: str, *, without: Document | None = None) -> list[Passage]:
        """The passages that fit a text so far: those whose title its beginning names, then the best by bm25.

        without: a document of which no passage is given, nor one that stands in it word for word.
        """
        if without is not None:
            return self._search_without(text, without)
        return self._search(text, CANDIDATES)

    def _search_without(self, text: str, document: Document) -> list[Passage]:
        own, most = full_text(document), CANDIDATES + sum(1 for _ in passages_of(document))
        return [passage for passage in self._search(text, most) if passage.text not in own][: 2 * CANDIDATES]

    def _search(self, text: str, most: int) -> list[Passage]:
        head, tail = terms_of(text[:HEAD_CHARACTERS]), terms_of(text[-TAIL_CHARACTERS:])
        titles = {" ".join(head[a : a + n]) for n in range(1, LONGEST_TITLE + 1) for a in range(len(head) - n + 1)}
        rows = self._connection.execute(
            f"SELECT id, title, text FROM passages WHERE folded_title IN ({','.join('?' * len(titles))})"
            " ORDER BY length(folded_title) DESC, id LIMIT ?",
            (*sorted(titles), most),
        ).fetchall()
        terms = self._telling(head, HEAD_TERMS) + self._telling(tail, TAIL_TERMS)
        if terms:
            rows += self._connection.execute(
                "SELECT id, passages.title, text FROM words JOIN passages ON passages.id = words.rowid"
                " WHERE words MATCH ? ORDER BY bm25(words, ?, 1.0) LIMIT ?",
                (match_query(dict.fromkeys(terms)), TITLE_WEIGHT, most),
            ).fetchall()
        return [Passage(*row) for row in dict.fromkeys(rows)]

    def _telling(self, terms: Sequence[str], count: int) -> list[str]:
        """The `count` most telling of the terms that occur at all."""
        return sorted(set(terms), key=lambda term: (-self.weight(term), term))[:count]


class Documents:
    """The partner over a store; see this module's first lines."""

    def __init__(self, store: DocumentStore, *, span: Span, name: str = "documents"):
        """`span`: what is read off: "phrase" for names and dates whole, else one word."""
        self.name = name
        self._store, self._span = store, span
        self._units: dict[int, Units] = {}
        self._left_out: Document | None = None

    def without(self, document: Document) -> "Documents":
        """The same partner without one document: its answers about that text come from other documents."""
        other = copy.copy(self)
        other._left_out = document
        return other

    def complete(self, texts: Sequence[str]) -> list[str]:
        """The next word, mark or phrase of each text, "" where no passage fits or the best one ends there."""
        return [self._answer(text) for text in texts]

    def find(self, text: str) -> list[Found]:
        """The passages that fit a text so far, the best first."""
        tail = units_of(text[-TAIL_CHARACTERS:], weight=self._store.weight)
        said = set(terms_of(text[:HEAD_CHARACTERS])) | set(tail.folded)
        found = []
        for passage in self._store.search(text, without=self._left_out):
            place = best_place(tail, self._units_of(passage), span=self._span)
            found.append(Found(passage, place, score=place.score + self._title_bonus(passage.title, said)))
        # Of equal places one that goes on wins: a long document's parts overlap.
        return sorted(found, key=lambda each: (each.score, bool(each.place.piece)), reverse=True)

    def _answer(self, text: str) -> str:
        found = self.find(text)
        return found[0].place.piece if found else ""

    def _title_bonus(self, title: str, said: set[str]) -> float:
        weights = {term: self._store.weight(term) for term in terms_of(title)}
        found = sum(weight for term, weight in weights.items() if term in said)
        return TITLE_BONUS * found / (1.0 + sum(weights.values()))

    def _units_of(self, passage: Passage) -> Units:
        if passage.id not in self._units:
            if len(self._units) >= KEPT_UNITS:
                self._units.pop(next(iter(self._units)))
            self._units[passage.id] = units_of(passage.text, weight=self._store.weight)
        return self._units[passage.id]
