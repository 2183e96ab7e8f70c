"""The annotator partner: whole answers where a partner, asked with the text before, says what stands there."""

import contextlib
import dataclasses
import json
import re
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
import pytest

from lacy_jax.cascade.marks import partner as marks
from lacy_jax.cascade.marks.asking import BATCH
from lacy_jax.cascade.partners.database import Database, open_facts
from lacy_jax.cascade.partners.documents import Documents, DocumentStore, build_store
from lacy_jax.cascade.remote import server as remote
from lacy_jax.config import AnnotateConfig, BiographiesConfig, CorpusConfig
from lacy_jax.data.annotate import annotate_documents, annotator_fingerprint, annotator_parts
from lacy_jax.data.datasets import dataset_directory, write_annotated
from lacy_jax.data.documents import Document, Spans, full_text
from lacy_jax.errors import PartnerError
from lacy_jax.evidence.closed_world.world.facts import Knowledge, facts_file
from lacy_jax.evidence.closed_world.world.writing import biographies
from tests.cascade.conftest import random_model, write_checkpoint
from tests.cascade.http_server import Server, breaks_off, first, no_http, posts, says, sends, serving

WORLD = BiographiesConfig(people=6, documents=12)
WORD = re.compile(r"[\w&'-]+")


def mark(documents: Sequence[Document], partner: str, *, folder: Path, **more: object) -> list[list[str]]:
    """The marked texts of each document."""
    config = AnnotateConfig(annotator="partner", partner=partner, of=str(more.pop("of", "")))
    marked = annotate_documents(documents, config, directory=str(folder), **more)  # type: ignore[arg-type]
    return [words(document, spans) for document, spans in marked]


def words(document: Document, spans: Spans) -> list[str]:
    text = full_text(document)
    return [text[start:end] for start, end in zip(spans.starts, spans.ends, strict=True)]


def one_by_one(document: Document, complete: Callable[[list[str]], list[str]]) -> list[tuple[int, int]]:
    """The rule of the pilot, word by word, without a batch."""
    text, head, spans, done = document.text, document.title + "\n\n", [], 0
    for match in WORD.finditer(text):
        start = match.start()
        if start < done:
            continue
        answer = complete([head + text[:start].rstrip() if start else head])[0].strip()
        if answer and text.startswith(answer, start):
            done = start + len(answer)
            spans.append((start + len(head), done + len(head)))
    return spans


def test_the_closed_world_is_marked_as_word_by_word(tmp_path: Path) -> None:
    documents = [each.document for each in biographies(WORLD)][:5]
    facts = facts_file(WORLD, Knowledge(known=0.9), directory=tmp_path)
    database = Database(open_facts(str(facts), directory=str(tmp_path)), span="phrase")
    config = AnnotateConfig(annotator="partner", partner=f"database:{facts}")
    marked = list(annotate_documents(documents, config, directory=str(tmp_path)))
    for document, spans in marked:
        found = list(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True))
        assert found == one_by_one(document, database.complete)
        assert set(spans.kinds) == {marks.KIND}
        assert not spans.subject.any()
        assert not spans.repeated.any()
    assert sum(len(spans) for _, spans in marked) > 20
    assert not (tmp_path / marks.ANSWERS_FILE).exists()  # asking again is as quick as looking up
    other = facts_file(WORLD, Knowledge(known=0.5), directory=tmp_path)
    prints = [
        annotator_fingerprint(AnnotateConfig(annotator="partner", partner=f"database:{f}")) for f in (facts, other)
    ]
    assert prints[0] != prints[1]


def test_marks_are_made_anew_when_the_database_has_changed_in_its_write_ahead_log(tmp_path: Path) -> None:
    path = tmp_path / "facts.sqlite"
    config = AnnotateConfig(annotator="partner", partner=f"database:{path}")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE facts (subject, relation, value)")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        empty = annotator_fingerprint(config)
        content = path.read_bytes()
        connection.execute("INSERT INTO facts VALUES ('Ada', 'born', '1815')")
        connection.commit()
        assert path.read_bytes() == content
        assert annotator_fingerprint(config) != empty


def test_the_partner_world_makes_the_marks_of_its_own_database_in_any_number_of_processes(tmp_path: Path) -> None:
    documents = [each.document for each in biographies(WORLD)][:5]
    facts = facts_file(WORLD, Knowledge(known=0.9), directory=tmp_path)
    corpus, found = CorpusConfig(name="biographies", biographies=WORLD), []
    for partner, workers in ((f"database:{facts}", 1), ("world:known=0.9", 1), ("world:known=0.9", 2)):
        config = AnnotateConfig(annotator="partner", partner=partner, workers=workers)
        marked = annotate_documents(documents, config, corpus=corpus, directory=str(tmp_path))
        found.append([spans.starts.tolist() for _, spans in marked])
    assert found[0] == found[1] == found[2]
    assert sum(map(len, found[0])) > 20


def test_a_database_that_has_changed_is_opened_again(tmp_path: Path) -> None:
    facts, found = tmp_path / "facts.csv", []
    config = AnnotateConfig(annotator="partner", partner=f"database:{facts}", workers=1)
    for place in ("Paris", "Warsaw"):
        facts.write_text(f"subject,relation,value\nMarie Curie,birth place,{place}\n")
        ((document, spans),) = annotate_documents(CURIE[:1], config, directory=str(tmp_path))
        text = full_text(document)
        found.append([text[a:b] for a, b in zip(spans.starts.tolist(), spans.ends.tolist(), strict=True)])
    assert found == [[], ["Warsaw"]]


@pytest.mark.parametrize(
    ("partner", "of", "expected"),
    [
        ("world", "", "anywhere"),
        ("documents", "", "in order"),
        ("world", "x", "whole"),
        ("checkpoint:x", "x", "in order"),
        ("http://127.0.0.1:1/v1", "", "whole"),
    ],
)
def test_in_what_parts_a_partner_marks(partner: str, of: str, expected: str) -> None:
    assert annotator_parts(AnnotateConfig(annotator="partner", partner=partner, of=of)) == expected


CURIE = [
    Document("1", "Marie Curie", "Marie Curie was born in Warsaw in 1867, and studied there."),
    Document("2", "Physics", "Nobody knew it. Marie Curie was born in Warsaw in 1868, and left."),
    Document("3", "Rain", "It often rains in the spring."),
]


def corpus(folder: Path, documents: Sequence[Document] = CURIE) -> CorpusConfig:
    path = folder / "corpus.jsonl"
    lines = [json.dumps({"id": each.id, "title": each.title, "text": each.text}) for each in documents]
    path.write_text("\n".join(lines) + "\n")
    return CorpusConfig(name="jsonl", files=str(path))


def test_documents_do_not_see_the_one_that_is_marked(tmp_path: Path) -> None:
    own = corpus(tmp_path)
    (first_one, *_) = mark(CURIE, "documents", folder=tmp_path, corpus=own)
    assert first_one == ["was", "born", "in Warsaw"]  # from the other document, to which all words are alike
    alone = corpus(tmp_path, CURIE[::2])
    assert mark(CURIE[::2], "documents", folder=tmp_path, corpus=alone) == [[], []]


def test_a_long_document_does_not_hide_the_others(tmp_path: Path) -> None:
    text = " ".join(f"Marie Curie was born in Warsaw, says chapter {n}, and nowhere else." for n in range(2000))
    long = Document("long", "Marie Curie", text)
    path = tmp_path / "store.sqlite"
    build_store([long, *CURIE], path=path, fingerprint={})
    asked = "Marie Curie\n\nMarie Curie was born in Warsaw in"
    everything = Documents(DocumentStore(path), span="word")
    assert all(each.passage.text in full_text(long) for each in everything.find(asked)[:3])
    found = everything.without(long).find(asked)
    assert found
    assert all(each.passage.text not in full_text(long) for each in found)
    assert everything.without(long).complete([asked]) == [" 1867"]


def test_only_where_a_stored_annotation_begins_with_its_labels(tmp_path: Path) -> None:
    facts = tmp_path / "facts.csv"
    facts.write_text("subject,relation,value\nMarie Curie,employer,Sorbonne\n")
    document = Document("1", "Marie Curie", "Marie Curie said her employer was Sorbonne. Her employer was Sorbonne.")
    places = [document.text.index("Curie"), document.text.rindex("Sorbonne")]
    shift = len(full_text(document)) - len(document.text)
    table = np.array([[start + shift, start + shift + 3] for start in places], np.int32)
    spans = Spans(table[:, 0], table[:, 1], ("PERSON", "ORG"), np.array([True, False]), np.array([False, True]))
    write_annotated([(document, spans)], directory=tmp_path, name="n", fingerprint={}, count=1, characters=10)
    of = str(dataset_directory(tmp_path, "annotated", name="n"))
    assert mark([document], f"database:{facts}", folder=tmp_path) == [["Sorbonne", "Sorbonne"]]
    config = AnnotateConfig(annotator="partner", partner=f"database:{facts}", of=of)
    ((_, found),) = annotate_documents([document], config, directory=str(tmp_path))
    assert words(document, found) == ["Sorbonne"]
    assert (found.starts[0], found.kinds, found.subject[0], found.repeated[0]) == (table[1, 0], ("ORG",), False, True)


TEXT = "Ada met Bob in Oslo. They ate."
QUESTIONS = ["", "Ada", "Ada met", "Ada met Bob", "Ada met Bob in", "Ada met Bob in Oslo.", "Ada met Bob in Oslo. They"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    for name in ("LACY_PARTNER_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(remote, "BACKOFF_SECONDS", 0.001)
    with serving(Server()) as running:
        for question in QUESTIONS:
            running.answers[question] = says(" nothing more to say")
        running.answers["Ada met"] = says(" Bob and others")
        running.answers["Ada met Bob in"] = says(" Oslo. Then")
        yield running


def test_a_server_is_asked_once_for_each_place(server: Server, tmp_path: Path) -> None:
    documents = [Document("1", "", TEXT), Document("2", "", "")]
    expected = [["Bob", "Oslo"], []]
    assert mark(documents, server.url, folder=tmp_path) == expected
    assert sorted(body["prompt"] for body in posts(server)) == sorted(QUESTIONS)
    assert mark(documents, server.url, folder=tmp_path) == expected
    assert len(posts(server)) == len(QUESTIONS)
    assert mark([Document("1", "", TEXT)], f"{server.url}#other", folder=tmp_path) == expected[:1]  # another model
    assert len(posts(server)) == 2 * len(QUESTIONS)


@pytest.mark.parametrize(
    "fault",
    [sends(b"slow down", status=429, headers={"Retry-After": "0"}), sends(b"", status=503), breaks_off, no_http],
)
def test_faults_that_pass_are_asked_again(server: Server, tmp_path: Path, fault: object) -> None:
    for question, answer in list(server.answers.items()):
        server.answers[question] = first(2, fault, answer)  # type: ignore[arg-type]
    assert mark([Document("1", "", TEXT)], server.url, folder=tmp_path) == [["Bob", "Oslo"]]
    assert {server.counts[question] for question in QUESTIONS} == {3}


def test_too_many_questions_without_an_answer_make_no_dataset(server: Server, tmp_path: Path) -> None:
    good = server.answers["Ada met Bob in"]
    server.answers["Ada met Bob in"] = sends(b'{"choices": "garbage"}')
    documents = [Document("0", "", "Ada"), Document("1", "", TEXT)]
    with pytest.raises(
        PartnerError, match=r"left 1 of 8 questions unanswered \(not a completion\); its answers are kept"
    ):
        mark(documents, server.url, folder=tmp_path)
    server.answers["Ada met Bob in"] = good
    assert mark(documents, server.url, folder=tmp_path) == [[], ["Bob", "Oslo"]]
    counts = {question: server.counts[question] for question in QUESTIONS}
    assert counts == dict.fromkeys(QUESTIONS, 2) | {"": 3}  # of document 0 nothing is asked again


def test_a_lost_server_ends_the_work_and_what_it_answered_is_kept(server: Server, tmp_path: Path) -> None:
    long = " ".join(f"word{n}" for n in range(100))
    documents = [Document("0", "", TEXT), Document("1", "", long)]
    failing = [long[: match.start()].rstrip() for match in re.finditer(r"\w+", long)][1:]
    server.answers |= dict.fromkeys(failing, sends(b"no", status=400))
    with pytest.raises(PartnerError, match=r"24 questions in a row unanswered \(status 400\); its answers"):
        mark(documents, server.url, folder=tmp_path)
    assert len(posts(server)) == len(QUESTIONS) + 4 * BATCH
    server.answers |= dict.fromkeys(failing, says(" nothing more to say"))
    assert mark(documents, server.url, folder=tmp_path) == [["Bob", "Oslo"], []]
    assert {server.counts[question] for question in QUESTIONS[1:]} == {1}


def test_an_answer_without_an_end_is_no_fault(server: Server, tmp_path: Path) -> None:
    server.answers["Ada"] = says(" A" * 200)
    assert mark([Document("1", "", TEXT)], server.url, folder=tmp_path) == [["Bob", "Oslo"]]
    asked = len(posts(server))
    mark([Document("1", "", TEXT)], server.url, folder=tmp_path)
    assert len(posts(server)) == asked


def test_a_model_is_marked_where_it_is_right(tmp_path: Path) -> None:
    folder = write_checkpoint(random_model(), tmp_path / "model")
    document = Document("1", "", "Albert Einstein was born in Ulm")
    config = AnnotateConfig(annotator="partner", partner=f"checkpoint:{folder}")
    ((_, spans),) = annotate_documents([document], config, directory=str(tmp_path))
    assert spans.losses is not None
    assert spans.losses.ends[-1] == len(document.text)
    assert not (tmp_path / marks.ANSWERS_FILE).exists()  # it reads, and is not asked
    print_of = annotator_fingerprint(AnnotateConfig(annotator="partner", partner=f"checkpoint:{folder}"))
    assert "meta/metadata" in str(print_of)


def test_a_model_that_gives_no_numbers_is_said_with_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slm = random_model()
    broken = jax.tree.map(lambda x: x * np.nan, slm.params)
    monkeypatch.setattr(marks, "load_model", lambda _path: dataclasses.replace(slm, params=broken))
    with pytest.raises(PartnerError, match=r"^checkpoint:m reads the document '1' with losses that are not finite"):
        mark([Document("1", "", TEXT)], "checkpoint:m", folder=tmp_path)


@pytest.mark.parametrize(
    ("partner", "said"),
    [
        ("none", "nobody would answer"),
        ("databse:x", "unknown partner 'databse:x'"),
        ("database:/no/such", "no such file: /no/such"),
    ],
)
def test_a_partner_that_is_none_is_said_before_the_start(partner: str, said: str) -> None:
    (line,) = marks.problems(AnnotateConfig(annotator="partner", partner=partner))
    assert line.startswith("config.annotate.partner: ")
    assert said in line
