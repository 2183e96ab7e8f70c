"""The annotator links: marks that the records of a corpus bring, good ones and all others."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lacy_jax.checks import parse
from lacy_jax.config import AnnotateConfig, CorpusConfig
from lacy_jax.data.annotate import annotate_documents, annotator_fingerprint
from lacy_jax.data.annotators.links import LONGEST, read_links
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import full_text
from lacy_jax.errors import ConfigError, DataError

TEXT = "Zoë \U0001f600 left Los Angeles in 1999.  "


def corpus(folder: Path, records: list[Any], **settings: Any) -> CorpusConfig:
    path = folder / "corpus.jsonl"
    path.write_text("\n".join(each if isinstance(each, str) else json.dumps(each) for each in records) + "\n")
    return CorpusConfig(name="jsonl", files=str(path), **settings)


def mark(found: CorpusConfig, **settings: Any) -> list[tuple[str, list[tuple[str, str]]]]:
    config = AnnotateConfig(annotator="links", **settings)
    marked = annotate_documents(read_documents(found), config, corpus=found)
    return [
        (
            document.id,
            [
                (full_text(document)[start:end], kind)
                for start, end, kind in zip(spans.starts, spans.ends, spans.kinds, strict=True)
            ],
        )
        for document, spans in marked
    ]


def test_marks_of_records_stand_where_the_text_has_them(tmp_path: Path) -> None:
    records = [
        {"id": 1, "title": "T", "text": TEXT, "links": [{"start": 11, "end": 22, "label": "GPE"}, [26, 30]]},
        "no JSON",
        {"text": "Of Rome.", "links": [[3, 7, "LOC"]]},  # its id is its line
        {"id": 2, "text": 5, "links": [[0, 1]]},  # no document
        {"id": 3, "text": "Nothing."},
        {"id": 1, "text": "Twice.", "links": [[0, 5]]},
        {"id": 4, "text": "Of Oslo.", "links": []},
    ]
    found = mark(corpus(tmp_path, records))
    assert found == [
        ("1", [("Los Angeles", "GPE"), ("1999", "LINK")]),
        ("corpus.jsonl:3", [("Rome", "LOC")]),
        ("3", []),
        ("4", []),
    ]
    some = mark(corpus(tmp_path, records, max_documents=1))
    assert some == found[:1]


def test_columns_of_tables_are_read_as_fields_of_lines(tmp_path: Path) -> None:
    mention = pa.struct({"start": pa.int64(), "end": pa.int64(), "kind": pa.string(), "label": pa.string()})
    ner = pa.struct({"ner": pa.list_(mention), "pairs": pa.list_(pa.list_(pa.int32()))})
    attributes = [
        {"ner": [{"start": 11, "end": 22, "label": "GPE"}, {"start": 26, "end": 30}], "pairs": [[26, 30], [5, None]]},
        None,
        {"ner": [{"start": 3, "end": 7, "kind": "LOC"}], "pairs": []},
    ]
    table = {"id": ["1", "2", None], "text": [TEXT, "Nothing.", "Of Rome."], "attributes": pa.array(attributes, ner)}
    pq.write_table(pa.table(table), tmp_path / "some.parquet", row_group_size=2)
    found = CorpusConfig(name="parquet", files=str(tmp_path / "some.parquet"))
    expected = [("1", [("Los Angeles", "GPE"), ("1999", "LINK")]), ("2", []), ("some.parquet:3", [("Rome", "LOC")])]
    assert mark(found, links_field="attributes.ner") == expected
    expected = [("1", [("1999", "LINK")]), ("2", []), ("some.parquet:3", [])]
    assert mark(found, links_field="attributes.pairs") == expected


def test_a_column_with_a_dot_in_its_name(tmp_path: Path) -> None:
    spans = pa.array([[[3, 7]]], pa.list_(pa.list_(pa.int32())))
    pq.write_table(pa.table({"id": ["1"], "text": ["Of Rome."], "attributes.ner": spans}), tmp_path / "a.parquet")
    found = CorpusConfig(name="parquet", files=str(tmp_path / "a.parquet"))
    assert mark(found, links_field="attributes.ner") == [("1", [("Rome", "LINK")])]


def test_a_field_within_another(tmp_path: Path) -> None:
    records = [{"id": 1, "text": "Of Rome.", "attributes": {"ner": [[3, 7, 0.98]], "a.b": 1}}]
    assert mark(corpus(tmp_path, records), links_field="attributes.ner") == [("1", [("Rome", "LINK")])]


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        ({"start": -1, "end": 3}, "without whole numbers 0 <= start < end"),
        ([5, 5], "without whole numbers 0 <= start < end"),
        ([7, 5], "without whole numbers 0 <= start < end"),
        ([0, 2.0], "without whole numbers 0 <= start < end"),
        ([False, True], "without whole numbers 0 <= start < end"),
        (["0", "2"], "without whole numbers 0 <= start < end"),
        ([0, 10**30], "that end after the text"),
        ([0, len(TEXT) + 1], "that end after the text"),
        ({"start": 0, "end": 3, "text": "Zoe"}, "whose text stands elsewhere"),
        ([len(TEXT) - 2, len(TEXT)], "of white space"),
        ({"start": 0}, "without start and end"),
        ("Zoë", "without start and end"),
        (None, "without start and end"),
        ([0, 1, "A", 2], "without start and end"),
    ],
)
def test_what_is_no_mark_is_counted_and_dropped(link: Any, reason: str) -> None:
    dropped: Counter[str] = Counter()
    good = {"start": 11, "end": 22, "text": "Los Angeles"}
    assert read_links([link, good], TEXT, dropped=dropped) == [(11, 22, "LINK")]
    assert dropped == {reason: 1}


def test_overlaps_ends_and_kinds() -> None:
    dropped: Counter[str] = Counter()
    links = [[11, 22, "A"], [15, 22, "B"], [11, 14, "C"], [22, 31, "D"], [31, 32, ""], [0, 1, "K" * 1000]]
    expected = [(0, 1, "LINK"), (11, 22, "A"), (23, 31, "D")]
    assert read_links(links[:4] + links[5:], TEXT, dropped=dropped) == expected
    assert dropped == {"that overlap another": 2}
    long = "x" * (LONGEST + 1)
    assert read_links([[0, LONGEST + 1], [0, LONGEST]], long, dropped=dropped) == [(0, LONGEST, "LINK")]
    assert dropped[f"of more than {LONGEST} characters"] == 1
    assert read_links({"start": 0}, TEXT, dropped=dropped) == []
    assert dropped["in a field that is no list"] == 1


def test_drops_are_said_and_a_field_that_nobody_has_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    records = [{"id": n, "text": "Of Rome.", "links": [[3, 7], [3, 70]]} for n in range(3)]
    mark(corpus(tmp_path, records))
    assert "3 of 6 marks dropped: 3 that end after the text" in caplog.text
    with pytest.raises(DataError, match="none of 3 records has a field 'entities'"):
        mark(corpus(tmp_path, records), links_field="entities")
    with pytest.raises(ConfigError, match=r"links reads marks of .* jsonl and parquet.*'vital_articles'"):
        parse({"annotate": {"annotator": "links"}, "training": {"steps": 1}})
    one, two = (annotator_fingerprint(AnnotateConfig(annotator="links", links_field=name)) for name in "ab")
    assert one != two
