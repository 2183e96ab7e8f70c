import gzip
import json
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lacy_jax.config import AnnotateConfig, RuleConfig
from lacy_jax.data.annotate import annotate_documents, annotator_fingerprint
from lacy_jax.data.documents import Document, Spans, full_text
from lacy_jax.data.factual import factual_tokens, select_spans
from lacy_jax.errors import DataError


def document(text, *, title="", identity="d"):
    return Document(id=identity, title=title, text=text)


def words(marked, spans):
    return [full_text(marked)[start:end] for start, end in zip(spans.starts, spans.ends, strict=True)]


def spans_of(*spans, subject=None, repeated=None):
    none = [False] * len(spans)
    return Spans(
        starts=np.array([span[0] for span in spans], np.int32),
        ends=np.array([span[1] for span in spans], np.int32),
        kinds=tuple(span[2] for span in spans),
        subject=np.array(subject or none, bool),
        repeated=np.array(repeated or none, bool),
    )


def as_plain(spans):
    arrays = (spans.starts, spans.ends, spans.subject, spans.repeated)
    return [array.tolist() for array in arrays] + [list(spans.kinds)]


def assert_well_formed(spans):
    assert spans.starts.dtype == spans.ends.dtype == np.int32
    assert spans.subject.dtype == spans.repeated.dtype == bool
    assert len(spans) == len(spans.starts) == len(spans.ends) == len(spans.subject) == len(spans.repeated)


def test_rules_choose_among_the_marks():
    marks = spans_of(
        (0, 1, "GPE"), (2, 3, "PROPN"), (4, 5, "NUM"), (6, 7, "DATE"),
        subject=[True, False, False, False], repeated=[False, False, True, True],
    )  # fmt: skip

    def kinds(**rule):
        return "".join(kind[0] for kind in select_spans(marks, RuleConfig(**rule)).kinds)

    everything = {"exclude_subjects": False, "first_mention_only": False}
    assert kinds(**everything) == "GPND"
    assert kinds(first_mention_only=False) == "PND"
    assert kinds(exclude_subjects=False) == "GP"
    assert kinds() == "P"
    assert kinds(kinds="entity", **everything) == "GD"
    assert kinds(kinds="PROPN, DATE", **everything) == "PD"
    assert kinds(kinds="NUM", **everything) == "N"
    chosen = select_spans(marks, RuleConfig(kinds="DATE", **everything))
    assert_well_formed(chosen)
    assert as_plain(chosen) == [[6], [7], [False], [True], ["DATE"]]


def test_no_marks_are_fine():
    chosen = select_spans(spans_of(), RuleConfig())
    assert_well_formed(chosen)
    for sub_tokens in ("all", "first"):
        none = np.empty(0, np.int32)
        assert factual_tokens(none, none, text="", spans=chosen, sub_tokens=sub_tokens).tolist() == []
        three = np.arange(4, dtype=np.int32)
        aligned = factual_tokens(three[:-1], three[1:], text="abc", spans=chosen, sub_tokens=sub_tokens)
        assert aligned.tolist() == [False] * 3


def align(pieces, spans, **options):
    ends = np.cumsum([len(piece) for piece in pieces]).astype(np.int32)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int32)
    flags = factual_tokens(starts, ends, text="".join(pieces), spans=spans, **options)
    assert flags.dtype == bool
    return [piece for piece, flag in zip(pieces, flags, strict=True) if flag]


def test_tokens_that_share_a_character_are_factual():
    pieces = ["He", " met", " Ein", "stein", "'s", " dog", "."]
    assert align(pieces, spans_of((7, 15, "PERSON"))) == [" Ein", "stein"]
    # Partial overlaps count; a token that ends where the span starts, or starts where it ends, does not.
    assert align(pieces, spans_of((9, 11, "PERSON"))) == [" Ein", "stein"]
    assert align(pieces, spans_of((10, 16, "PERSON"))) == ["stein", "'s"]


def test_white_space_alone_makes_no_token_factual():
    pieces = ["New", " ", " ", "York", " x"]
    assert align(pieces, spans_of((0, 9, "GPE"))) == ["New", "York"]
    assert align(pieces, spans_of((3, 5, "GPE"))) == []
    assert align(["He is", " \n", "\u00a0"], spans_of((5, 8, "GPE"))) == []


def test_only_the_first_token_of_each_span():
    pieces = [" ", " Ein", "stein", " 19", "99", " x"]
    both = spans_of((0, 10, "PERSON"), (11, 15, "DATE"))
    assert align(pieces, both, sub_tokens="first") == [" Ein", " 19"]
    # The first token need not start with the span, and one token can be the first of two spans.
    assert align(["(Ein", "stein)"], spans_of((1, 8, "PERSON")), sub_tokens="first") == ["(Ein"]
    assert align(["3/4", " x"], spans_of((0, 1, "NUM"), (2, 3, "NUM")), sub_tokens="first") == ["3/4"]
    assert align(["a", " ", "b"], spans_of((1, 2, "NUM")), sub_tokens="first") == []


def test_bytes_of_one_character():
    # As the tokenizer gives them: each byte's token covers the whole character.
    starts = np.array([0, 1, 1, 1, 1, 2], np.int32)
    ends = np.array([1, 2, 2, 2, 2, 3], np.int32)
    emoji = spans_of((1, 2, "SYM"))
    text = "a\U0001f600b"
    assert factual_tokens(starts, ends, text=text, spans=emoji).tolist() == [False] + [True] * 4 + [False]
    first = factual_tokens(starts, ends, text=text, spans=emoji, sub_tokens="first")
    assert first.tolist() == [False, True] + [False] * 4


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text("ab \n\u00a0é\0\U0001f600", min_size=1, max_size=4), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=5),
)
def test_alignment_equals_brute_force(pieces, raw):
    text = "".join(pieces)
    found = sorted((start, min(start + length, len(text))) for start, length in raw if start < len(text))
    spans = spans_of(*((start, end, "X") for start, end in found))
    ends = np.cumsum([len(piece) for piece in pieces]).astype(np.int32)
    starts = ends - np.array([len(piece) for piece in pieces], np.int32)

    def shares(token, span):
        return any(not text[i].isspace() for i in range(max(token[0], span[0]), min(token[1], span[1])))

    tokens = list(zip(starts.tolist(), ends.tolist(), strict=True))
    slow_all = [any(shares(token, span) for span in found) for token in tokens]
    assert factual_tokens(starts, ends, text=text, spans=spans).tolist() == slow_all
    firsts = {next((i for i, token in enumerate(tokens) if shares(token, span)), -1) for span in found}
    slow_first = [i in firsts for i in range(len(tokens))]
    assert factual_tokens(starts, ends, text=text, spans=spans, sub_tokens="first").tolist() == slow_first


def spans_file(directory, lines, name="marks.jsonl"):
    path = directory / name
    content = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return AnnotateConfig(annotator="spans", spans_file=str(path))


DOCUMENTS = [
    document("Zoë met \U0001f600 Bob.", title="A title", identity="a"),
    document("Nothing here.", identity="b"),
    document("", identity="7"),
]


@pytest.mark.parametrize("name", ["marks.jsonl", "marks.jsonl.gz"])
def test_marks_from_a_file_count_characters_of_the_text(tmp_path, name):
    config = spans_file(
        tmp_path,
        [{"id": "a", "spans": [[10, 13, "judge"], [0, 3, "PERSON"]]}, {"id": "b", "spans": []}, {"id": 7, "spans": []}],
        name,
    )
    marked = list(annotate_documents(DOCUMENTS, config))
    assert [pair[0] for pair in marked] == DOCUMENTS
    for _, spans in marked:
        assert_well_formed(spans)
    first, spans = marked[0]
    assert words(first, spans) == ["Zoë", "Bob"]
    assert as_plain(spans)[2:] == [[False, False], [False, False], ["PERSON", "judge"]]
    assert words(first, select_spans(spans, RuleConfig())) == ["Zoë", "Bob"]  # kinds of its own count as entities
    assert [len(pair[1]) for pair in marked[1:]] == [0, 0]


def test_documents_without_marks_are_counted(tmp_path, caplog):
    config = spans_file(tmp_path, [{"id": "a", "spans": []}, {"id": "other", "spans": []}])
    with caplog.at_level(logging.WARNING):
        assert len(list(annotate_documents(DOCUMENTS, config))) == 3
    assert "2 of 3 documents have no line there" in caplog.text


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([{"id": "other", "spans": []}], "none of its ids is one of the corpus' 3 document ids"),
        ([{"id": "b", "spans": []}, {"id": "a", "spans": [[0, 15, "X"]]}], "marks.jsonl, line 2: a span ends at 15"),
        ([{"id": "a", "spans": [[3, 3, "X"]]}], "line 1: the span [3, 3, 'X'] is not"),
        ([{"id": "a", "spans": [[-1, 3, "X"]]}], "line 1: the span [-1, 3, 'X'] is not"),
        ([{"id": "a", "spans": [[0, 1.5, "X"]]}], "line 1: the span [0, 1.5, 'X'] is not"),
        ([{"id": "a", "spans": [[0, 3]]}], "line 1: the span [0, 3] is not"),
        ([{"id": "a", "spans": [[0, 3, ""]]}], "line 1: the span [0, 3, ''] is not"),
        ([{"id": "a"}], 'line 1: must be {"id": "...", "spans": [[start, end, "kind"], ...]}'),
        ([{"id": None, "spans": []}], "line 1: must be"),
        ([{"id": "a", "spans": []}, {"id": "a", "spans": []}], "line 2: the id 'a' occurs twice"),
        ([{"id": "a", "spans": []}, "{"], "line 2: not JSON"),
    ],
)
def test_a_bad_spans_file_gives_one_error(tmp_path, lines, told):
    with pytest.raises(DataError) as caught:
        list(annotate_documents(DOCUMENTS, spans_file(tmp_path, lines)))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_spans_file_is_told(tmp_path):
    config = AnnotateConfig(annotator="spans", spans_file=str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match=r"none\.jsonl"):
        list(annotate_documents(DOCUMENTS, config))
    with pytest.raises(DataError, match=r"none\.jsonl"):
        annotator_fingerprint(config)


def test_the_fingerprint_follows_the_contents_of_the_file(tmp_path):
    one = annotator_fingerprint(spans_file(tmp_path, [{"id": "a", "spans": []}], "one.jsonl"))
    assert one["annotator"] == "spans"
    assert one == annotator_fingerprint(spans_file(tmp_path, [{"id": "a", "spans": []}], "same.jsonl"))
    assert one != annotator_fingerprint(spans_file(tmp_path, [{"id": "b", "spans": []}], "two.jsonl"))
