"""Union and intersection of stored annotations, against sets of characters."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacy_jax.checks import parse
from lacy_jax.config import AnnotateConfig
from lacy_jax.data.annotate import annotate_documents, annotator_fingerprint
from lacy_jax.data.annotators.stored import How, combine
from lacy_jax.data.datasets import dataset_directory, write_annotated
from lacy_jax.data.documents import Document, Spans, full_text
from lacy_jax.data.factual import factual_tokens
from lacy_jax.errors import ConfigError, DataError

Row = tuple[int, int, str, bool, bool]
TEXT = "Marie Curie was born in Warsaw  in 1867."


def spans_of(rows: list[Row]) -> Spans:
    rows = sorted(rows, key=lambda row: row[:2])
    table = np.array([row[:2] for row in rows], np.int32).reshape(-1, 2)
    flags = np.array([row[3:] for row in rows], bool).reshape(-1, 2)
    return Spans(table[:, 0], table[:, 1], tuple(row[2] for row in rows), flags[:, 0], flags[:, 1])


def rows_of(spans: Spans) -> list[Row]:
    columns = (spans.starts.tolist(), spans.ends.tolist(), spans.kinds, spans.subject.tolist(), spans.repeated.tolist())
    return list(zip(*columns, strict=True))


def mark(phrase: str, kind: str = "A", *, subject: bool = False, repeated: bool = False) -> Row:
    start = TEXT.index(phrase)
    return start, start + len(phrase), kind, subject, repeated


def texts(spans: Spans) -> list[str]:
    return [TEXT[start:end] for start, end in zip(spans.starts, spans.ends, strict=True)]


WORDS = [mark("Marie", subject=True), mark("Curie", subject=True, repeated=True), mark("born"), mark("1867", "DATE")]
ANSWERS = [mark("Marie Curie", "B"), mark("Warsaw", "B"), mark("1867", "B", repeated=True)]


def test_a_union_has_what_either_marks_and_whole_answers() -> None:
    found = combine([spans_of(WORDS), spans_of(ANSWERS)], TEXT, how="union")
    assert texts(found) == ["Marie Curie", "born", "Warsaw", "1867"]
    assert found.kinds == ("A", "A", "B", "DATE")
    assert not found.subject.any()  # the answers do not call it one
    assert not found.repeated.any()


def test_an_intersection_has_what_both_mark() -> None:
    found = combine([spans_of(WORDS), spans_of(ANSWERS)], TEXT, how="intersection")
    assert texts(found) == ["Marie Curie", "1867"]
    assert found.kinds == ("A", "DATE")
    assert found.subject.tolist() == [True, False]
    assert found.repeated.tolist() == [False, True]  # of "Marie Curie" the first word is no repetition
    parts = [spans_of(ANSWERS), spans_of([mark("Curie was born"), mark("n W")])]
    assert texts(combine(parts, TEXT, how="intersection")) == ["Curie", "W"]


def test_spans_that_touch_are_one_and_spaces_alone_part_them() -> None:
    def union(*phrases: str) -> list[str]:
        return texts(combine([spans_of([mark(each)]) for each in phrases], TEXT, how="union"))

    assert union("War", "saw") == ["Warsaw"]
    assert union("in", "Warsaw") == ["in", "Warsaw"]
    assert union("in Wars", "Warsaw  in") == ["in Warsaw  in"]
    assert union("Warsaw ", " in 18") == ["Warsaw  in 18"]
    assert union(" ", "  ") == []


def test_the_first_token_of_a_merged_span_is_its_only_one() -> None:
    found = combine([spans_of(WORDS[:2]), spans_of(ANSWERS[:1])], TEXT, how="union")
    ends = np.array([5, 8, 11], np.int32)  # Marie| Cu|rie
    flags = {
        how: factual_tokens(np.array([0, 5, 8], np.int32), ends, text=TEXT, spans=found, sub_tokens=how).tolist()
        for how in ("all", "first")
    }
    assert flags == {"all": [True, True, True], "first": [True, False, False]}


ROW = st.tuples(st.integers(0, 11), st.integers(1, 12), st.sampled_from("AB"), st.booleans(), st.booleans())


@given(
    text=st.text("ab \n\u00a0", min_size=12, max_size=12),
    parts=st.lists(st.lists(ROW.filter(lambda row: row[0] < row[1]), max_size=5), min_size=2, max_size=3),
    how=st.sampled_from(["union", "intersection"]),
)
def test_combinations_equal_sets_of_characters(text: str, parts: list[list[Row]], how: How) -> None:
    sets = [{n for row in rows for n in range(row[0], row[1])} for rows in parts]
    either = set.union(*sets)
    chosen = {n for n in (either if how == "union" else set.intersection(*sets)) if not text[n].isspace()}
    groups: list[list[int]] = []
    for n in sorted(chosen):
        between = range(groups[-1][-1] + 1, n) if groups else ()
        if groups and all(text[m].isspace() and m in either for m in between):
            groups[-1].append(n)
        else:
            groups.append([n])
    expected = []
    for group in groups:
        start, end = group[0], group[-1] + 1
        touching = [
            sorted((row for row in rows if row[0] < end and row[1] > start), key=lambda row: row[:2]) for rows in parts
        ]
        touching = [rows for rows in touching if rows]
        agree = all if how == "union" else any
        said = [agree(all(row[column] for row in rows) for rows in touching) for column in (3, 4)]
        kinds = {row[2] for row in touching[0] if row[:2] == touching[0][0][:2]}
        expected.append((start, end, kinds, *said))
    found = combine([spans_of(rows) for rows in parts], text, how=how)
    assert [row[:2] + row[3:] for row in rows_of(found)] == [row[:2] + row[3:] for row in expected]
    assert all(row[2] in want[2] for row, want in zip(rows_of(found), expected, strict=True))


DOCUMENTS = [Document(str(n), "Title" if n % 2 else "", f"{TEXT} {n}") for n in range(6)]


def stored(folder: Path, name: str, rows: list[Row], documents: list[Document] = DOCUMENTS) -> Path:
    """An annotated dataset with the same marks in every document."""

    def shifted(document: Document) -> Spans:
        shift = len(full_text(document)) - len(document.text)
        return spans_of([(start + shift, end + shift, *rest) for start, end, *rest in rows])

    write_annotated(
        ((document, shifted(document)) for document in documents), directory=folder, name=name,
        fingerprint={"corpus": {"name": "x"}, "rows": str(rows)}, count=len(documents), characters=100,
    )  # fmt: skip
    return dataset_directory(folder, "annotated", name=name)


def test_stored_annotations_are_found_by_id_in_any_order(tmp_path: Path) -> None:
    one, two = stored(tmp_path, "one", WORDS), stored(tmp_path, "two", ANSWERS, DOCUMENTS[::-1])
    for folders in (f"{one},{two}", f"{one.parent}, {two.parent}"):  # the version folder, or the one around it
        config = AnnotateConfig(annotator="intersection", of=folders)
        marked = list(annotate_documents(DOCUMENTS[1:], config))
        assert [document for document, _ in marked] == DOCUMENTS[1:]
        for document, spans in marked:
            text = full_text(document)
            assert [text[a:b] for a, b in zip(spans.starts, spans.ends, strict=True)] == ["Marie Curie", "1867"]
    prints = [
        annotator_fingerprint(AnnotateConfig(annotator=name, of=of))
        for name, of in (("union", f"{one},{two}"), ("intersection", f"{one},{two}"), ("union", f"{two},{one}"))
    ]
    assert len({str(each) for each in prints}) == 3


def test_another_corpus_is_refused_in_one_line(tmp_path: Path) -> None:
    one = stored(tmp_path, "one", WORDS)
    for documents, words in (
        ([Document("7", "", TEXT)], "has no document '7'"),
        ([Document("0", "", f"{TEXT} 1")], "document '0' has another text"),
        ([Document("0", "T", f"{TEXT} 0")], "document '0' has another text"),
    ):
        with pytest.raises(DataError, match=words):
            list(annotate_documents(documents, AnnotateConfig(annotator="union", of=f"{one},{one}")))
    with pytest.raises(DataError, match="is no complete annotated dataset"):
        list(annotate_documents(DOCUMENTS, AnnotateConfig(annotator="union", of=f"{one},{tmp_path}")))
    for annotate, words in (
        ({"annotator": "union", "of": "a"}, "needs two or more folders"),
        ({"annotator": "partner", "of": "a,b"}, "takes one folder, got 2"),
        ({"annotator": "judge"}, "needs a server"),
    ):
        with pytest.raises(ConfigError, match=words):
            parse({"annotate": annotate, "training": {"steps": 1}})
