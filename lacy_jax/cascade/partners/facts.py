"""Facts in SQLite: who has which values of which relation, and how a relation is worded."""

import csv
import functools
import hashlib
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lacy_jax.cascade.partners import store
from lacy_jax.cascade.text.words import terms_of
from lacy_jax.data.files import read_json_lines
from lacy_jax.errors import DataError, PartnerError

INDEX_VERSION = 1
KEPT = 1 << 16  # look-ups remembered
FACT = ("subject", "relation", "value")
WORDING = ("relation", "wording")
SLOT = ""  # in a wording: a few words of any kind

_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_VALUE = re.compile(r"\{value\}.*", re.DOTALL)
# For relations of these names where the file brings no wordings for them.
_COMMON_WORDINGS = {
    "birth place": "born in; native of; hails from; birthplace is; birthplace was",
    "birth date": "born on; birthday is; birthday was",
    "birth year": "born in",
    "death place": "died in",
    "death date": "died on",
    "death year": "died in",
    "university": "studied at; graduated from; graduate of; attended; educated at; degree from; enrolled at",
    "field": "studied; majored in; degree in; specialised in; specialized in",
    "field study": "studied; majored in; degree in; specialised in; specialized in",
    "employer": "works for; worked for; works at; worked at; working for; working at; employed by; job at",
    "employer city": "works in; worked in; based in",
    "city": "lives in; lived in; based in; located in",
    "occupation": "works as; worked as; job as",
    "spouse": "married; married to; wife is; husband is",
}


@dataclass(frozen=True)
class Wording:
    """Folded words that come right before a value of `relation`; SLOT stands for some others in between."""

    relation: str
    terms: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """Whom facts are about. `terms`: the folded words of the name; `values`: of each relation, in the file's order."""

    name: str
    terms: tuple[str, ...]
    values: dict[str, tuple[str, ...]]


def open_facts(file: str, *, directory: str) -> "Facts":
    """The facts of a file, indexed in `directory`; the index is built where it is missing, broken or of other content.

    Args:
        file: a SQLite file with a table `facts` (subject, relation, value) and, where there is one, a table
            `wordings` (relation, wording); or .csv or .tsv with such a header; or .jsonl with such objects, of both.

    Raises:
        PartnerError: it is missing or no such file (the message says what was found), or the index cannot be written.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise PartnerError(f"database: no such file: {file}")
    digest = hashlib.sha256()
    for part in files_of(path):
        with part.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    found = store.find_or_build(
        f"facts-{path.stem}",
        directory=directory,
        fingerprint={"file": digest.hexdigest(), "kind": path.suffix.lower(), "index": INDEX_VERSION},
        fill=lambda connection: _fill(connection, read_rows(path)),
    )
    return Facts(found)


def files_of(path: Path) -> list[Path]:
    """The files that hold the facts of a database: itself, and what SQLite has not yet moved into it."""
    log = path.with_name(f"{path.name}-wal")
    return [path, log] if log.is_file() and log.stat().st_size else [path]


def read_rows(path: Path) -> Iterator[tuple[str, ...]]:
    """(subject, relation, value) of each fact of a file, and (relation, wording) of each wording; none is empty.

    Raises:
        PartnerError: see `open_facts`.
    """
    readers = {".csv": _from_csv, ".tsv": _from_csv, ".jsonl": _from_jsonl}
    try:
        for row in readers.get(path.suffix.lower(), _from_sqlite)(path):
            texts = tuple("" if value is None else str(value).strip() for value in row)
            if all(texts):
                yield texts
    except (OSError, UnicodeError, csv.Error, sqlite3.Error) as error:
        raise PartnerError(f"database: cannot read {path} ({error})") from error
    except DataError as error:
        raise PartnerError(f"database: {error}") from error


def _from_sqlite(path: Path) -> Iterator[tuple[object, ...]]:
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        tables = sorted(name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type != 'index'"))
        if "facts" not in tables:
            raise PartnerError(f"database: {path} has no table `facts`; its tables: {', '.join(tables) or 'none'}")
        for table, columns in (("facts", FACT), ("wordings", WORDING)):
            if table in tables:
                found = [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))]
                _check_columns(found, columns, where=f"{path}, table `{table}`")
                yield from connection.execute(f"SELECT {', '.join(columns)} FROM {table}")
    finally:
        connection.close()


def _from_csv(path: Path) -> Iterator[tuple[object, ...]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        _check_columns(rows.fieldnames or [], FACT, where=f"{path}, line 1")
        for row in rows:
            yield tuple(row[column] for column in FACT)


def _from_jsonl(path: Path) -> Iterator[tuple[object, ...]]:
    for where, row in read_json_lines(path):
        columns = WORDING if "wording" in row else FACT
        _check_columns(list(row), columns, where=where)
        yield tuple(row[column] for column in columns)


def _check_columns(found: Iterable[str], needed: tuple[str, ...], *, where: str) -> None:
    if not set(needed) <= set(found):
        raise PartnerError(
            f"database: {where}: needs {', '.join(needed)}; has {', '.join(map(str, found)) or 'nothing'}"
        )


def _fill(connection: sqlite3.Connection, rows: Iterable[tuple[str, ...]]) -> None:
    connection.executescript(
        """
        CREATE TABLE subjects (id INTEGER PRIMARY KEY, name TEXT, folded TEXT UNIQUE);
        CREATE TABLE firsts (term TEXT PRIMARY KEY, longest INTEGER) WITHOUT ROWID;
        CREATE TABLE facts (id INTEGER PRIMARY KEY, subject INTEGER, relation TEXT, value TEXT);
        CREATE TABLE wordings (relation TEXT, wording TEXT);
        """
    )
    for row in rows:
        if len(row) == len(WORDING):
            connection.execute("INSERT INTO wordings VALUES (?, ?)", row)
            continue
        name, relation, value = row
        terms = terms_of(name)
        if not terms:
            continue
        connection.execute("INSERT OR IGNORE INTO subjects (name, folded) VALUES (?, ?)", (name, " ".join(terms)))
        connection.execute(
            "INSERT INTO firsts VALUES (?, ?)"
            " ON CONFLICT (term) DO UPDATE SET longest = max(longest, excluded.longest)",
            (terms[0], len(terms)),
        )
        connection.execute(
            "INSERT INTO facts (subject, relation, value) SELECT id, ?, ? FROM subjects WHERE folded = ?",
            (relation, value, " ".join(terms)),
        )
    connection.execute("CREATE INDEX by_subject ON facts (subject)")


class Facts:
    """Reads an index made by `open_facts`. Every look-up is by an index, and remembered."""

    def __init__(self, path: Path):
        self._connection = sqlite3.connect(path, check_same_thread=False)
        relations = [
            name for (name,) in self._connection.execute("SELECT DISTINCT relation FROM facts ORDER BY relation")
        ]
        self.relation_terms = {relation: relation_terms(relation) for relation in relations}
        self.wordings = _by_last_term(self._wordings(relations))
        self.longest_name = functools.lru_cache(KEPT)(self._longest_name)
        self.subject = functools.lru_cache(KEPT)(self._subject)

    def _longest_name(self, term: str) -> int:
        """How many words the longest name has that begins with a folded word; 0 for none."""
        row = self._connection.execute("SELECT longest FROM firsts WHERE term = ?", (term,)).fetchone()
        return row[0] if row else 0

    def _subject(self, folded: str) -> Subject | None:
        """The subject of a name, given by its folded words with spaces between."""
        row = self._connection.execute("SELECT id, name FROM subjects WHERE folded = ?", (folded,)).fetchone()
        if row is None:
            return None
        values: dict[str, list[str]] = {}
        for relation, value in self._connection.execute(
            "SELECT relation, value FROM facts WHERE subject = ? ORDER BY id", row[:1]
        ):
            if value not in values.setdefault(relation, []):
                values[relation].append(value)
        return Subject(row[1], tuple(folded.split()), {relation: tuple(them) for relation, them in values.items()})

    def _wordings(self, relations: Iterable[str]) -> Iterator[Wording]:
        own = self._connection.execute("SELECT relation, wording FROM wordings ORDER BY rowid").fetchall()
        yield from (Wording(relation, wording_terms(wording)) for relation, wording in own)
        for relation in relations:
            if any(relation == worded for worded, _ in own):
                continue
            name = {*self.relation_terms[relation]} - {"of"}
            for known, wordings in _COMMON_WORDINGS.items():
                if name == {*known.split()}:
                    yield from (Wording(relation, wording_terms(wording)) for wording in wordings.split(";"))


def relation_terms(relation: str) -> tuple[str, ...]:
    """The folded words of a relation's name: "birth_place" and "birthPlace" have two."""
    return tuple(terms_of(re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", relation)))


def wording_terms(wording: str) -> tuple[str, ...]:
    """The folded words of a wording up to "{value}", if it has that; other placeholders in braces become slots."""
    parts = [terms_of(part) for part in _PLACEHOLDER.split(_VALUE.sub("", wording))]
    terms = parts[0] + [term for part in parts[1:] for term in (SLOT, *part)]
    return tuple(terms[next((i for i, term in enumerate(terms) if term != SLOT), len(terms)) :])


def _by_last_term(wordings: Iterable[Wording]) -> dict[str, list[Wording]]:
    """Wordings by the word right before the value; those that have none there are of no use."""
    found: dict[str, list[Wording]] = {}
    for wording in dict.fromkeys(wordings):
        if wording.terms and wording.terms[-1] != SLOT:
            found.setdefault(wording.terms[-1], []).append(wording)
    return found
