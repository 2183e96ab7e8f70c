"""The inspector: every character once, with what the rule made of it, and nothing in a text that steers a terminal."""

import html.parser
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lacy_jax import terminal
from lacy_jax.config import RuleConfig
from lacy_jax.data.documents import Document, Spans, full_text, text_offset
from lacy_jax.data.pack import encode_documents
from lacy_jax.data.prepared import Prepared
from lacy_jax.doors import enter
from lacy_jax.evidence.inspector.lines import as_lines
from lacy_jax.evidence.inspector.page import as_page, coloured
from lacy_jax.evidence.inspector.pieces import (
    Piece,
    View,
    document_counts,
    document_pieces,
    joined,
    marks_of,
    window_counts,
    window_pieces,
)
from lacy_jax.prepare import DOOR
from lacy_jax.terminal import printable

EVIL = "a\x1b[2J\x1b]0;x\x07b\x00\x7f\x9b31m\u202eklim\u202c \u0301\u05d0\u05d1 \u2028\ufeff<b>&\U000e0041\r\n\u0301x"
KINDS = ("GPE", "DATE", "NUM", "PROPN", "mine")
any_text = st.text(
    st.sampled_from("ab \n\t<&é\u0301\u05d0\u202e\x1b\0😀東") | st.characters(exclude_categories=("Cs",)), max_size=40
)


@st.composite
def marked(draw: st.DrawFn) -> tuple[Document, Spans]:
    document = Document("d", draw(st.sampled_from(["", "Title"])), draw(any_text))
    offset, length = text_offset(document), len(document.text)
    place = st.integers(0, max(0, length - 1))
    raw = draw(st.lists(st.tuples(place, st.integers(1, 9)), max_size=6)) if length else []
    found = sorted((offset + start, offset + min(length, start + size)) for start, size in raw)
    flags = st.lists(st.booleans(), min_size=len(found), max_size=len(found))
    return document, Spans(
        starts=np.array([start for start, _ in found], np.int32),
        ends=np.array([end for _, end in found], np.int32),
        kinds=tuple(draw(st.sampled_from(KINDS)) for _ in found),
        subject=np.array(draw(flags), bool),
        repeated=np.array(draw(flags), bool),
    )


rules = st.builds(
    RuleConfig,
    kinds=st.sampled_from(["entity,PROPN,NUM", "entity", "NUM, GPE"]),
    exclude_subjects=st.booleans(),
    first_mention_only=st.booleans(),
    sub_tokens=st.sampled_from(["all", "first"]),
)


def expected_mark(kind: str, subject: bool, repeated: bool, rule: RuleConfig) -> str:
    """By the words of docs/annotation.md."""
    asked = [name.strip() for name in rule.kinds.split(",")]
    if kind not in asked and not ("entity" in asked and kind not in ("PROPN", "NUM")):
        return "kind"
    if rule.exclude_subjects and subject:
        return "subject"
    return "repeated" if rule.first_mention_only and repeated else "factual"


@settings(max_examples=100, deadline=None)
@given(marked(), rules)
def test_every_character_has_its_mark(found: tuple[Document, Spans], rule: RuleConfig) -> None:
    document, spans = found
    marks = [expected_mark(*each, rule) for each in zip(spans.kinds, spans.subject, spans.repeated, strict=True)]
    assert marks_of(spans, rule) == marks
    assert document_counts(spans, rule).total() == len(spans)
    pieces = document_pieces(document, spans, rule=rule)
    text = full_text(document)
    assert "".join(piece.text for piece in pieces) == text
    shown = [(piece.mark, piece.kind) for piece in pieces for _ in piece.text]
    for place, character in enumerate(text):
        own = [i for i in range(len(spans)) if spans.starts[i] <= place < spans.ends[i]]
        own = [i for i in own if marks[i] == "factual"] or own
        wanted = (marks[own[0]], spans.kinds[own[0]]) if own else ("plain", "")
        assert shown[place] == wanted or (character == " " and wanted == ("plain", ""))  # between words of a phrase


@settings(max_examples=60, deadline=None)
@given(found=marked(), rule=rules)
def test_tokens_are_factual_as_they_are_packed(
    small_data: Prepared, found: tuple[Document, Spans], rule: RuleConfig
) -> None:
    document, spans = found
    (encoded,) = encode_documents([found], tokenizer=small_data.tokenizer, rule=rule, validation_share=0.1)
    pieces = document_pieces(document, spans, rule=rule, tokenizer=small_data.tokenizer)
    assert "".join(piece.text for piece in pieces) == full_text(document)
    assert [piece.token for piece in pieces] == encoded.ids.tolist()
    assert [piece.mark == "factual" for piece in pieces] == encoded.factual.tolist()
    kinds = {kind for kind, mark in zip(spans.kinds, marks_of(spans, rule), strict=True) if mark == "factual"}
    assert {piece.kind for piece in pieces if piece.mark == "factual"} <= kinds


def test_windows(small_data: Prepared) -> None:
    tokenizer = small_data.tokenizer
    for split in (small_data.train, small_data.validation):
        for number in (0, 1, len(split) - 1):
            record = split[number]
            length = record["length"]
            pieces = window_pieces(record, tokenizer=tokenizer)
            assert [piece.token for piece in pieces] == record["tokens"][:length].tolist()
            assert [piece.mark == "end" for piece in pieces] == (record["tokens"][:length] == tokenizer.end_id).tolist()
            assert [piece.mark == "factual" for piece in pieces[1:]] == record["factual"][1:length].tolist()
            assert pieces[0].mark in ("context", "end")
            text = "".join(piece.text for piece in pieces)
            assert text == tokenizer.decode(record["tokens"][:length].tolist())
            assert "".join(piece.text for piece in joined(pieces)) == text
            assert sum(window_counts(pieces).values()) == length


def test_a_character_in_several_tokens_is_shown_once(small_data: Prepared) -> None:
    text = "é東😀"
    ids = small_data.tokenizer.encode(text).ids
    assert len(ids) > len(text)
    record = {"tokens": np.append(ids, 0), "factual": np.zeros(len(ids) + 1, bool), "length": len(ids)}
    pieces = window_pieces(record, tokenizer=small_data.tokenizer)
    assert "".join(piece.text for piece in pieces) == text
    cut = window_pieces(record | {"length": len(ids) - 1}, tokenizer=small_data.tokenizer)  # inside the last one
    assert "".join(piece.text for piece in cut) == "é東\ufffd"


def evil_view() -> View:
    pieces = (
        Piece(EVIL),
        Piece(EVIL, "factual", "G\x1bPE"),
        Piece(EVIL, "subject", "NUM"),
        Piece("\u0301", "repeated", "x"),
    )
    return View(
        title=f"t{EVIL}", about=(f"id {EVIL}",), pieces=(*pieces, Piece("", "end")), counts=window_counts(pieces)
    )


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("tokens", [False, True])
def test_no_text_steers_a_terminal(colour: bool, tokens: bool) -> None:
    printed = "\n".join(as_lines([evil_view()], about=[EVIL], colour=colour, tokens=tokens))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed) if colour else printed
    unseen = set("\u202e\u202c\u2028\ufeff\U000e0041")
    assert not [each for each in plain if (ord(each) < 32 and each != "\n") or 127 <= ord(each) < 160 or each in unseen]
    assert printable(EVIL) in plain
    assert "‹202E›klim" in plain
    assert "◌\u0301" in plain  # what would combine with the mark's own signs
    if colour:  # every colour ends where it began, on the same line
        for line in printed.split("\n"):
            codes = re.findall(r"\x1b\[([0-9;]*)m", line)
            assert codes[1::2] == ["0"] * (len(codes) // 2)
            assert len(codes) % 2 == 0


def test_what_is_printable_without_colours() -> None:
    pieces = (Piece("Born in "), Piece("Warsaw", "factual", "GPE"), Piece(" to "), Piece("Curie", "subject", "PERSON"))
    view = View(
        title="document 3: Marie",
        about=(),
        pieces=(*pieces, Piece("", "end"), Piece("New")),
        counts=window_counts(pieces),
        padding=7,
    )
    assert list(as_lines([view], about=["who"], colour=False, tokens=False)) == [
        "who",
        "GPE 1   part of a subject 1",
        "",
        "document 3: Marie",
        "",
        "Born in ⟦Warsaw|GPE⟧ to ⟨Curie|subject⟩\n──── end of a document\nNew\n──── 7 tokens of padding\n",
    ]


class Text(html.parser.HTMLParser):
    """The text of markup, ends of lines as they are, and the tags."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.text, self.tags = "", set[str]()
        self._signs: list[bool] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self._signs.append(dict(attrs).get("class") in ("eol", "end"))

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._signs.pop()

    def handle_data(self, data: str) -> None:
        self.text += "" if any(self._signs) else data


@settings(max_examples=60, deadline=None)
@given(marked())
def test_a_page_has_the_text_and_no_markup_of_it(found: tuple[Document, Spans]) -> None:
    pieces = document_pieces(*found, rule=RuleConfig())
    read = Text(str(coloured(pieces, tokens=False)))
    assert read.text.replace("◌", "") == printable(full_text(found[0])).replace("◌", "")
    assert read.tags <= {"span"}


def test_a_page_needs_nothing_else_and_shows_no_markup_of_a_text() -> None:
    view = evil_view()
    page = as_page([view], about=["<script>"], command="a <i>", tokens=True)
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=|url\(|@import""", page)
    assert "<b>" not in page
    assert "<i>" not in page
    assert not [each for each in page if (ord(each) < 32 and each not in "\n\t") or 127 <= ord(each) < 160]


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = enter(DOOR, words)
    return status, *capsys.readouterr()


def test_the_door_shows_what_was_prepared(
    small_data: Prepared, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)  # nothing is marked again
    folder, documents = f"--folder={small_data.packed.directory}", list(small_data.documents())
    status, out, _ = shown(capsys, folder, "--show=5-6", "--of=documents")
    assert status == 0
    for document in documents[5:7]:
        signs = re.sub(r"[⟦⟨]|\|[A-Z_]+⟧|\|(?:subject|repeated|left out)⟩", "", out)
        assert full_text(document) in signs
    assert "\x1b" not in out
    assert shown(capsys, folder, f"--show=id:{documents[7].id}", "--of=documents")[1].count("document 7: ") == 1
    annotated = f"--folder={small_data.annotated_directory.parent}"  # the folder above the version, too
    assert shown(capsys, annotated, f"--show=id:{documents[7].title}")[1].count("document 7: ") == 1
    one = shown(capsys, folder, "--show=random:3", "--seed=1")[1]
    assert one == shown(capsys, folder, "--show=random:3", "--seed=1")[1] != shown(capsys, folder, "--show=random:3")[1]
    assert len(re.findall(r"^window \d+ of the split train$", one, re.MULTILINE)) == 3
    last = len(small_data.validation) - 1
    assert "──── " in shown(capsys, folder, f"--show={last}", "--of=validation", "--tokens")[1]
    page = tmp_path / "page.html"
    assert shown(capsys, folder, "--show=0", f"--html={page}") == (0, f"{page}\n", "")
    assert "window 0 of the split train" in page.read_text(encoding="utf-8")
    monkeypatch.setattr(terminal, "wants_colour", lambda stream: isinstance(stream, io.TextIOBase))
    assert "\x1b[1;38;5;" in shown(capsys, folder, "--show=0-5")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--show=9999"], "--show=9999: there are "),
        (["--show=80", "--of=documents"], "--show=80: there are 80 documents, from 0 to 79"),
        (["--show=5-3"], "--show=5-3: the smaller number stands first; did you mean 3-5?"),
        (["--show=random:0"], "--show=random:0: give a number (17)"),
        (["--show=id:"], "--show=id:: give a number (17)"),
        (["--show=1", "--compare=a,b"], "--show and --compare are given; give one of them"),
        (["--show=1", "--beam_parts=x"], "--beam_parts goes with neither --show nor --compare"),
        (["--show=1", "--html="], "--html=: it is empty"),
        (["--show=1", "--html=configs"], "--html=configs: is a folder; name a file"),
        (["--show=1", "--html=Makefile/x.html"], "--html=Makefile/x.html: "),
        (["--show=first"], "--show=first: give a number (17)"),
        (["--show=id:x"], "--show=id:x: windows have no ids"),
        (["--show=id:no\x1b[2Jbody", "--of=documents"], "--show=id:no␛[2Jbody: none of the 80 documents has this id"),
        (["--tokens"], "--folder goes with --show"),
        (["--show=1", "--config.rule.kinds=NUM"], "--config.rule.kinds: settings change those of a config file"),
        (["--show=1", "--config=configs/slm_tiny.py"], "--folder and --config are given"),
        (["--show=1", "--compare=a,b"], "--show and --compare are given"),
        (["--compare=a,b"], "--folder goes with --show"),
        (["--show=1", "--beam_parts=p"], "--beam_parts goes with neither --show nor --compare"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    small_data: Prepared, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    status, out, err = shown(capsys, f"--folder={small_data.packed.directory}", *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {said}")
    assert "\x1b" not in err


def test_other_folders_are_one_line(small_data: Prepared, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    annotated = f"--folder={small_data.annotated_directory}"
    for words, said in (
        ([f"--folder={tmp_path}", "--show=1"], "is no prepared data: name the version folder"),
        ([annotated, "--show=1", "--of=train"], "holds documents, not packed windows"),
        ([annotated, "--show=1", "--tokens"], "--tokens: documents alone have no tokenizer"),
        (["--show=1"], "--config is needed"),
        (["--config=configs/slm_tiny.py", f"--config.data.directory={tmp_path}", "--show=1"], "prepare it first"),
    ):
        status, out, err = shown(capsys, *words)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert said in err
