"""The documents partner: queries that cannot break, alignment, and the next word of real articles."""

import itertools
import random
import sqlite3
from pathlib import Path

import pytest

from lacy_jax.cascade.partners.documents import (
    KEPT_WEIGHTS,
    PASSAGE_CHARACTERS,
    Documents,
    DocumentStore,
    build_store,
    open_store,
    passages_of,
)
from lacy_jax.cascade.text import alignment, words
from lacy_jax.cascade.text.words import match_query
from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import Document, full_text
from lacy_jax.errors import DataError, PartnerError

SMALL = [
    Document("1", "Albert Einstein", "Albert Einstein (14 March 1879 – 18 April 1955) was a theoretical physicist. "
             "He was born in Ulm, in the Kingdom of Württemberg, and moved to Munich in 1880."),
    Document("2", "Marie Curie", "Marie Curie was a physicist and chemist. She was born in Warsaw, and won the Nobel "
             "Prize in 1903 with Pierre Curie. She weighed 1,234.5 grams of ore in the U.S. with Jean-Paul O'Neill."),
    Document("3", "東京", "東京都は日本の首都である。人口は約1400万人。"),
    Document("4", "", "A text without a title says that the café was in Łódź, near the naïve painter's house."),
    Document("5", "Ulm", "Ulm is a city on the river Danube. It has 126,000 inhabitants."),
]  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    path = tmp_path_factory.mktemp("documents") / "small.sqlite"
    build_store(SMALL, path=path, fingerprint={})
    return Documents(DocumentStore(path), span="word")


@pytest.fixture(scope="module")
def articles(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return Documents(open_store(CorpusConfig(), directory=str(tmp_path_factory.mktemp("articles"))), span="word")


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("Albert Einstein\n\nAlbert Einstein", " (14"),
        ("Albert Einstein (14", " March"),
        ("Albert Einstein (14 March", " 1879"),
        ("Albert Einstein (14 March 18", "79"),
        ("Albert Einstein (14 March 1879 – 18 April ", "1955"),
        ("Albert Einstein was born in", " Ulm"),
        ("Albert Einstein was born in U", "lm"),
        ("Albert Einstein was born in Ulm", ","),
        ("Albert Einstein moved to Munich in", " 1880"),
        ("albert EINSTEIN moved to", " Munich"),
        ("Marie Curie was born in", " Warsaw"),
        ("Marie Curie won the Nobel Prize in", " 1903"),
        ("Marie Curie weighed", " 1,234.5"),
        ("Marie Curie weighed 1,", "234.5"),
        ("Marie Curie weighed 1,234.5 grams of ore in the", " U.S."),
        ("the U.S. with", " Jean-Paul"),
        ("the U.S. with Jean-", "Paul"),
        ("the U.S. with Jean-Paul", " O'Neill"),
        ("東京都は日本の", "首"),
        ("東京の人口は約", "1400万"[:4]),
        ("the cafe was in", " Łódź"),
        ("the café was in Łó", "dź"),
        ("Ulm\n\n", "Ulm"),
        ("Ulm\n\nUlm is a city on the river", " Danube"),
        ("Ulm is a town\non the river", " Danube"),
    ],
)
def test_next_word(small: Documents, text: str, piece: str) -> None:
    assert small.complete([text]) == [piece]


def test_similar_wording_finds_the_fact(small: Documents) -> None:
    """No run of equal words leads to the answer, only the words around it."""
    assert small.complete(["Einstein was a physicist whose theoretical work began when he moved in 1880 to"]) == [
        " Munich"
    ]
    assert small.complete(["Ulm has a total of about"])[0] == " 126,000"


def test_what_was_just_said_is_not_said_again() -> None:
    texts = "Ulm of", "Ulm of Ulm and then" + " so on" * 10 + " of Bavaria"
    tail, passage = (alignment.units_of(text, weight=lambda _: 0.2) for text in texts)
    assert alignment.best_place(tail, passage).piece == " Bavaria"


def test_nothing_to_say(small: Documents) -> None:
    assert small.complete(["", "zzzz qqqq", "   ", "?!"]) == ["", "", "", ""]
    assert small.complete(["Ulm\n\n" + SMALL[4].text]) == [""]  # the end of the passage


AWKWARD = [
    'say "hello', "a AND OR NOT NEAR(b, 2) c", "col:term title:x", "x* ^y -z +w", "(((", "'; DROP TABLE passages; --",
    "0\x00", "a\x00b \x00",
    "\x00\x01", "NEAR", '""', "{a b}: c", '東京 AND "日本"', "😀 👩‍👩‍👧", "e\u0301\u0323", "\u0915\u094d\u0937 हिन्दी",
    "ไทย", "_", "%", "\u2029", "ﬁ ½ ²", "a" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text", AWKWARD)
def test_no_text_breaks_a_query(small: Documents, text: str) -> None:
    for prompt in (text, f"Marie Curie {text}", f"{text} was born in"):
        piece = small.complete([prompt])[0]
        assert isinstance(piece, str)
        piece.encode()
    assert small.complete(["Albert Einstein was born in"]) == [" Ulm"]


def test_terms_are_strings_to_fts5() -> None:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE VIRTUAL TABLE t USING fts5(x)")
    connection.execute("INSERT INTO t VALUES ('the word AND stands here')")
    for term, found in (
        ("AND", 1),
        ("x OR and", 0),
        ('"', 0),
        ('stands"here', 1),
        ("a:b", 0),
        ("word*", 1),
        ("wor*", 0),
        ("and\x00stands", 1),
        ("\x00word", 1),
    ):
        rows = connection.execute("SELECT count(*) FROM t WHERE t MATCH ?", (match_query([term]),)).fetchone()
        assert rows[0] == found, term


def test_texts_do_not_depend_on_each_other(small: Documents) -> None:
    texts = ["Albert Einstein was born in", "Marie Curie was born in", "東京都は日本の"]
    assert small.complete(texts) == [small.complete([text])[0] for text in texts]


def test_real_articles_continue_with_their_next_word(articles: Documents) -> None:
    documents = [document for document in read_documents(CorpusConfig()) if len(document.text) > 200]
    right = []
    for document in random.Random(0).sample(documents, 150):
        text = full_text(document)
        cut = text.index(" ", len(text) // 2)
        piece = articles.complete([text[:cut]])[0]
        right.append(bool(piece.strip()) and text[cut:].startswith(piece))
        # In the middle of a word, and without the article's beginning.
        piece = articles.complete([text[cut - 150 : cut + 3]])[0] if cut > 200 else ""
        right += [text[cut + 3 :].startswith(piece) and bool(piece)] if piece else []
    assert sum(right) / len(right) > 0.9


def test_long_documents_are_passages_that_overlap() -> None:
    document = Document("x", "Title", " ".join(f"word{number}" for number in range(2000)))
    parts = list(passages_of(document))
    text = full_text(document)
    assert len(parts) > 5
    assert all(len(part) <= PASSAGE_CHARACTERS and part in text for part in parts)
    for before, after in itertools.pairwise(parts):
        assert after.startswith(before[-300:])
    assert text.startswith(parts[0])
    assert text.endswith(parts[-1])
    unbroken = Document("y", "", "x" * 5000)
    assert "".join(dict.fromkeys("".join(passages_of(unbroken)))) == "x"


def test_long_documents_are_read_on_across_passages(tmp_path: Path) -> None:
    document = Document("x", "Title", " ".join(f"word{number}" for number in range(2000)))
    build_store([document], path=tmp_path / "long.sqlite", fingerprint={})
    partner = Documents(DocumentStore(tmp_path / "long.sqlite"), span="word")
    text = full_text(document)
    for number in range(20, 1999, 97):
        cut = text.index(f" word{number + 1}")
        assert partner.complete([text[:cut]]) == [f" word{number + 1}"]


def test_a_store_is_reused_and_rebuilt_when_the_corpus_changes(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": "1", "title": "Ulm", "text": "Ulm lies on the Danube."}\n')
    corpus = CorpusConfig(name="jsonl", files=str(file))
    first = open_store(corpus, directory=str(tmp_path / "index"))
    built = first.path.stat().st_mtime_ns
    assert open_store(corpus, directory=str(tmp_path / "index")).path.stat().st_mtime_ns == built
    assert Documents(first, span="word").complete(["Ulm lies on the"]) == [" Danube"]
    file.write_text('{"id": "1", "title": "Ulm", "text": "Ulm lies on the Iller."}\n')
    second = open_store(corpus, directory=str(tmp_path / "index"))
    assert second.path != first.path
    assert Documents(second, span="word").complete(["Ulm lies on the"]) == [" Iller"]
    # A broken file is no store, and leftovers of a killed build are none either.
    second.path.write_bytes(b"SQLite format 3\x00 but not really")
    assert Documents(open_store(corpus, directory=str(tmp_path / "index")), span="word").complete(
        ["Ulm lies on the"]
    ) == [" Iller"]
    assert not list((tmp_path / "index").glob("*unfinished*"))


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"id": "1", "text": "fine"}\n' + "not json\n" * 20)
    with pytest.raises(DataError, match="line 2"):
        open_store(CorpusConfig(name="jsonl", files=str(file)), directory=str(tmp_path / "index"))
    # What the file hashes to is known; of an index there is nothing.
    assert {path.name for path in (tmp_path / "index").iterdir()} <= {"files.json", ".lock"}
    file.write_text('{"id": "1", "text": "fine"}\n')
    (tmp_path / "file").write_text("")
    with pytest.raises(PartnerError, match="cannot write the index"):
        open_store(CorpusConfig(name="jsonl", files=str(file)), directory=str(tmp_path / "file"))


def test_an_empty_corpus_knows_nothing(tmp_path: Path) -> None:
    build_store([], path=tmp_path / "empty.sqlite", fingerprint={})
    assert Documents(DocumentStore(tmp_path / "empty.sqlite"), span="word").complete(["Ulm is"]) == [""]


def test_folding() -> None:
    assert words.fold("Łódź ÉCOLE ﬁ ½") == "łodz ecole fi 1⁄2"
    assert words.fold("한국") == "한국"
    assert words.terms_of("A.B. 東京 c-d, 12%") == ["a", "b", "東", "京", "c", "d", "12"]


def test_words_that_are_remembered_are_bounded(small: Documents) -> None:
    """A server meets new words for as long as it runs."""
    store, size = small._store, KEPT_WEIGHTS
    for number in range(size + 100):
        store.weight(f"word{number}")
    assert store.weight.cache_info().currsize == size
