"""Files of documents, spans and facts, and what a run or a study left: read, or refused in one line."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lacy_jax.cascade.partners.documents import Documents, DocumentStore, build_store
from lacy_jax.cascade.partners.facts import open_facts
from lacy_jax.cascade.text.extent import complete_extent
from lacy_jax.config import AnnotateConfig, CorpusConfig
from lacy_jax.data.annotators import spans_file
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import Document, clean_text
from lacy_jax.data.files import parse_json
from lacy_jax.errors import DataError, PartnerError
from lacy_jax.evidence.closed_world.kept import read_judged, read_object
from lacy_jax.evidence.factscore.atomic_facts import read_demonstrations
from lacy_jax.evidence.factscore.knowledge import read_articles
from lacy_jax.evidence.factscore.scoring import read_generations
from lacy_jax.evidence.study.done import read_done
from lacy_jax.training.metrics import read_metrics
from tests.evidence.test_report import fake_report
from tests.fuzz.values import any_text, changed_bytes, changed_json, fuzz, odd, refused

DOCUMENTS = [{"id": "a", "title": "Danube", "text": "The Danube flows."}, {"id": 2, "text": "Ulm 1879"}, {"text": ""}]
SPANS = [{"id": "a", "spans": [[0, 3, "GPE"], [4, 10, "NUM"]]}, {"id": "2", "spans": []}]
FACTS = [{"subject": "Ada", "relation": "born in", "value": "1815"}, {"relation": "born in", "wording": "{value}"}]
GENERATIONS = [{"topic": "Ada", "output": "Ada wrote.", "annotations": [{"model-atomic-facts": [{"text": "x"}]}]}]
ARTICLES = [{"title": "Ada", "text": ["Ada wrote.", "Much."]}, {"title": "Ulm", "text": "A city."}]


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@st.composite
def changed_lines(draw: st.DrawFn, rows: list[Any]) -> bytes:
    """JSON lines, some of which are not what they should be."""
    texts = [draw(st.just(json.dumps(row)) | changed_json(row)) for row in rows]
    content = "".join(f"{text}\n" for text in texts).encode("utf-8", "surrogatepass")
    return draw(st.just(content) | changed_bytes(content))


@fuzz
@given(changed_lines(DOCUMENTS), st.sampled_from(["", ".gz", ".zst"]), st.data())
def test_a_corpus(tmp_path_factory: pytest.TempPathFactory, content: bytes, packed: str, data: st.DataObject) -> None:
    if packed:
        content = gzip.compress(content, mtime=0) if packed == ".gz" else zstandard.compress(content)
        content = data.draw(st.just(content) | changed_bytes(content))
    path = tmp_path_factory.getbasetemp() / f"corpus.jsonl{packed}"
    path.write_bytes(content)
    with refused(DataError, naming=str(path.name.partition(".")[0])):
        for document in read_documents(CorpusConfig(name="jsonl", files=str(path))):
            "".join((document.id, document.title, document.text)).encode()  # no lone surrogate is left


@fuzz
@given(changed_lines(SPANS))
def test_a_file_of_spans(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "spans.jsonl"
    path.write_bytes(content)
    documents = [Document("a", "Danube", "The Danube flows."), Document("2", "", "Ulm 1879")]
    with refused(DataError, naming=str(path)):
        marked = list(spans_file.mark(documents, AnnotateConfig(annotator="spans", spans_file=str(path))))
        assert [document for document, _ in marked] == documents


@fuzz
@given(changed_lines(FACTS) | st.binary(), st.sampled_from([".jsonl", ".csv", ".tsv", ".sqlite"]))
def test_a_file_of_facts(tmp_path_factory: pytest.TempPathFactory, content: bytes, suffix: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / f"facts{suffix}"
    path.write_bytes(content)
    with refused(PartnerError, naming=path.stem):
        open_facts(str(path), directory=str(folder / "indexes")).subject("ada")


@fuzz
@given(st.lists(st.tuples(any_text, any_text, any_text), max_size=4))
def test_a_table_of_any_texts(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str]]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerows([("subject", "relation", "value"), *rows])
    test_a_file_of_facts.hypothesis.inner_test(  # type: ignore[attr-defined]
        tmp_path_factory, stream.getvalue().encode("utf-8", "surrogatepass"), ".csv"
    )


@fuzz
@given(st.data())
def test_what_factscore_is_given(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "given.jsonl"
    for rows, read in (
        (GENERATIONS, lambda: read_generations(str(path))),
        (GENERATIONS, lambda: read_generations(str(path), use_atomic_facts=True)),
        (ARTICLES, lambda: read_articles(str(path), titles=["Ada", "Ulm"])),
        ([{"A sentence.": ["a fact"]}], lambda: read_demonstrations(str(path))),
    ):
        path.write_bytes(data.draw(changed_lines(rows)))
        with refused(DataError, naming=str(path)):
            read()


RECORDS = [
    {"step": 1, "split": "train", "loss": 2.5, "seconds": 1.0, "tokens": 9, "nll/all": 2.5, "call_rate": 0.1},
    {"step": 2, "split": "validation", "loss": 2.0, "nll/all": 2.0, "nll/factual": 3.0, "call_score/all": 0.1,
     "call_score/all/q25": -1.0, "call_score/all/q75": 1.0, "recall/factual@0.2": 0.5, "precision/factual@0.2": 0.5},
]  # fmt: skip
DONE = {
    "trained": "python -m lacy_jax.main",
    "evaluated": "python -m lacy_jax.evaluate",
    "decodes": [{"name": "mine", "budgets": [0.1]}],
    "code": ["lacy_jax 0.1"],
}
JUDGED = {
    "name": "Ada", "index": 1, "rank": 1, "text": "Ada was born.", "counts": {"generated": 3}, "claims": [],
}  # fmt: skip


@fuzz
@given(st.data())
def test_what_a_study_left(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp()
    for good, name, read in (
        (DONE, "DONE", read_done),
        (JUDGED, "mine-0.1.jsonl", read_judged),
        (DONE, "settings.json", read_object),
    ):
        path = folder / name
        content = data.draw(changed_json(good)).encode("utf-8", "surrogatepass")
        path.write_bytes(data.draw(st.just(content) | changed_bytes(content)))
        with refused(DataError, naming=str(path)):
            read(path)


@fuzz
@given(changed_lines(RECORDS))
def test_the_log_of_a_run(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "metrics.jsonl").write_bytes(content)
    fake_report(metrics=read_metrics(str(folder)))  # what cannot be read is left out


@fuzz
@given(changed_json({"a": [1, {"b": None}]}) | st.text() | st.binary())
def test_any_json(text: str | bytes) -> None:
    with refused(ValueError):
        json.dumps(parse_json(text))


@fuzz
@given(st.text() | odd.map(str), st.sampled_from(["token", "word", "phrase"]), st.booleans())
def test_where_a_piece_ends(text: str, span: Any, ended: bool) -> None:
    piece = complete_extent(text, span=span, ended=ended)
    assert piece is None or text.startswith(piece)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "documents.sqlite"
    documents = [Document(str(row["id"]), str(row.get("title", "")), str(row["text"])) for row in DOCUMENTS[:2]]
    nul = Document("0", "a\x00b", 'NUL \x00 and "quotes" AND NEAR( OR * ^ -')
    build_store([*documents, nul], path=path, fingerprint={})
    return path


@fuzz
@given(any_text, st.sampled_from(["token", "word", "phrase"]))
def test_a_prompt_for_the_documents(store: Path, prompt: str, span: Any) -> None:
    partner = Documents(DocumentStore(store), span=span)
    # A scheduler's texts have no lone surrogates: tokenizers refuse them.
    text = clean_text(prompt)
    (piece,) = partner.complete([text])
    assert isinstance(piece, str)
    partner.complete([f'The Danube {text}" OR "', f"{text}\x00"])


@fuzz
@given(any_text, any_text, any_text)
def test_documents_of_any_text_make_a_store(
    tmp_path_factory: pytest.TempPathFactory, identity: str, title: str, text: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.sqlite"
    build_store([Document(*map(clean_text, (identity, title, text)))], path=path, fingerprint={})
    Documents(DocumentStore(path), span="phrase").complete([clean_text(text)[:50]])
