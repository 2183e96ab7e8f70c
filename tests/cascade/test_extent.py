"""Where a partner's answer ends: examples, and laws that hold for any text."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lacy_jax.cascade.text.extent import complete_extent
from lacy_jax.config import Span

SPANS: tuple[Span, ...] = ("token", "word", "phrase")


@pytest.mark.parametrize(
    ("written", "word", "phrase"),
    [
        (" Ulm, in the", " Ulm", " Ulm"),
        (" Albert Einstein was", " Albert", " Albert Einstein"),
        ("stein was born", "stein", "stein"),
        ("stein Brothers Ltd. went", "stein", "stein Brothers Ltd"),
        (" 1,234.5 grams", " 1,234.5", " 1,234.5"),
        (" 1,234.", " 1,234", " 1,234"),
        (",234.5 grams", ",234.5", ",234.5"),
        (" 14 March 1879 in", " 14", " 14 March 1879"),
        (" March 14, 1879, in", " March", " March 14, 1879"),
        (" March 14, 18791", " March", " March 14"),
        (" March 14, after", " March", " March 14"),
        (" Apollo 11, 1969", " Apollo", " Apollo 11"),
        (" 3.5 million people", " 3.5", " 3.5 million"),
        (" Saint-Denis is", " Saint-Denis", " Saint-Denis"),
        ("-Denis is", "-Denis", "-Denis"),
        ("'s wife", "'s", "'s"),
        (" the U.S. Army fought", " the", " the U.S. Army"),
        (" U.S. and", " U.S.", " U.S."),
        (".S. and", ".S.", ".S."),
        (" J. Robert Oppenheimer led", " J", " J. Robert Oppenheimer"),
        (" George W. Bush, the", " George", " George W. Bush"),
        (" plan B. it", " plan", " plan B"),
        (" University of California in", " University", " University of California"),
        (" University of the people", " University", " University"),
        (" Ludwig van der Rohe", " Ludwig", " Ludwig van der Rohe"),
        (" Musa al-Khwarizmi wrote", " Musa", " Musa al-Khwarizmi"),
        (" Johnson & Johnson sold", " Johnson", " Johnson & Johnson"),
        (" physicist and", " physicist", " physicist"),
        (" (14 March 1879) was", " (14", " (14 March 1879"),
        (" $5.50 a", " $5.50", " $5.50"),
        (" -.5 and", " -.5", " -.5"),
        (", in Ulm", ",", ","),
        (". He", ".", "."),
        ("\n\nUlm\nMunich", "\n\nUlm", "\n\nUlm"),
        (" Ulm\nMunich", " Ulm", " Ulm"),
        ("東京都は日本", "東", "東京都"),
        ("1879年3月14日に", "1879", "1879年3月14日"),
        ("アインシュタインは", "ア", "アインシュタイン"),
        ("葛\U000e0100城", "葛\U000e0100", "葛\U000e0100"),
        (" 👩‍👩‍👧 and", " 👩‍👩‍👧", " 👩‍👩‍👧"),
        (" 🇩🇪 and", " 🇩🇪", " 🇩🇪"),
        ("#️⃣ x", "#️⃣", "#️⃣"),
        (" e\u0301cole normale", " e\u0301cole", " e\u0301cole"),
        (" Ελλάς και", " Ελλάς", " Ελλάς"),
        ("", "", ""),
        ("  \n ", "", ""),
    ],
)
def test_words_and_phrases(written: str, word: str, phrase: str) -> None:
    assert complete_extent(written, span="word", ended=True) == word
    assert complete_extent(written, span="phrase", ended=True) == phrase


@pytest.mark.parametrize(
    "written",
    ["", " ", " U", " Ulm", " 1", " 1,", " 1,2", " Saint-", " U.", " U.S", " O'", " (", " $", "東", " caf\ufffd", "."],
)
def test_more_is_needed(written: str) -> None:
    assert complete_extent(written, span="word", ended=False) is None
    assert complete_extent(written, span="phrase", ended=False) is None


@pytest.mark.parametrize(
    "written", [" Ulm ", " Ulm of ", " Ulm of the ", " March 14,", " March 14, 187", " J. ", " 3 mil"]
)
def test_more_is_needed_for_a_phrase(written: str) -> None:
    assert complete_extent(written, span="phrase", ended=False) is None


def test_no_more_than_needed_is_asked_for() -> None:
    for written, piece in (
        (" Ulm ", " Ulm"),
        (" Ulm, ", " Ulm"),
        (" Ulm)", " Ulm"),
        ("東京", "東"),
        ("\n\nHe ", "\n\nHe"),
    ):
        assert complete_extent(written, span="word", ended=False) == piece
    for written, piece in ((" Ulm.\n", " Ulm"), (" Ulm in ", " Ulm"), (" May 14, x ", " May 14"), (" in\n", " in")):
        assert complete_extent(written, span="phrase", ended=False) == piece


def test_tokens() -> None:
    for written, piece in ((" Ul", " Ul"), ("  x", "  x"), ("\n", "\n"), ("1", "1"), (" ", None), ("", None)):
        assert complete_extent(written, span="token", ended=False) == piece
        assert complete_extent(written, span="token", ended=True) == (piece or "")
    assert complete_extent("x\ufffd", span="token", ended=False) is None
    assert complete_extent("x\ufffd", span="token", ended=True) == ""


def test_a_broken_end_is_no_end() -> None:
    assert complete_extent(" caf\ufffd", span="word", ended=True) == ""
    assert complete_extent(" café \ufffd", span="word", ended=True) == " café"
    assert complete_extent(" Ulm in \ufffd\ufffd", span="phrase", ended=False) == " Ulm"


def test_phrases_are_bounded() -> None:
    assert len(complete_extent(" A1" * 500, span="phrase", ended=False) or "") < 60
    assert complete_extent("東" * 500, span="phrase", ended=False) == "東" * 8


# Texts full of what decides: joiners, digits, capitals, white space, marks, ideographs.
MARKS = " .,:/-'’()$%\"&\n\t"
WORDS = "1 23 1879 U S J Ulm al of the von x é e\u0301 東 年 か\u3099 カ 😀 👩‍👩‍👧 \u200d \ufe0f March St ß 한국"
PARTS = st.sampled_from([*MARKS, "  ", *WORDS.split()])
TEXTS = st.one_of(st.lists(PARTS, max_size=14).map("".join), st.text(max_size=20)).filter(
    lambda text: "\ufffd" not in text
)


@settings(max_examples=600, deadline=None)
@given(text=TEXTS, span=st.sampled_from(SPANS))
def test_a_piece_is_a_beginning_and_is_never_blank(text: str, span: Span) -> None:
    piece = complete_extent(text, span=span, ended=True)
    assert piece is not None
    assert text.startswith(piece)
    assert piece == "" or piece.strip(" ")
    assert bool(piece) == bool(text.strip(" ") if span == "token" else text.strip())


@settings(max_examples=600, deadline=None)
@given(text=TEXTS, more=TEXTS, span=st.sampled_from(("word", "phrase")))
def test_what_is_certain_stays_whatever_follows(text: str, more: str, span: Span) -> None:
    piece = complete_extent(text, span=span, ended=False)
    if piece is not None:
        assert piece
        assert complete_extent(text + more, span=span, ended=True) == piece
        assert complete_extent(text + more, span=span, ended=False) == piece


def is_east_asian(character: str) -> bool:
    return unicodedata.name(character, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "IDEOGRAPHIC"))


@settings(max_examples=600, deadline=None)
@given(text=TEXTS, span=st.sampled_from(("word", "phrase")))
def test_no_cut_inside_a_word_or_number(text: str, span: Span) -> None:
    """Checked by character classes alone, without the module's expressions."""
    piece = complete_extent(text, span=span, ended=True) or ""
    rest = text[len(piece) :]
    if not piece or not rest:
        return
    last, following = piece[-1], rest[0]
    if last.isalnum() and following.isalnum():
        assert is_east_asian(last) or is_east_asian(following)
    if piece.split()[-1].isdecimal() and following in ".,:/":
        assert not rest[1:2].isdecimal()
    assert following not in "\u0301\u3099\ufe0f\u200d"


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_a_phrase_is_at_least_a_word(text: str) -> None:
    word, phrase = (complete_extent(text, span=span, ended=True) or "" for span in ("word", "phrase"))
    assert is_east_asian(phrase.strip()[:1] or "x") or phrase.startswith(word)
