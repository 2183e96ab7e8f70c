"""Words as texts are compared by them: folded, without marks; and a query for passages that hold some of them."""

import functools
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from lacy_jax.cascade.text.extent import IDEOGRAPHS, LETTER, OPENING

# What texts are compared by: words, single ideographs, line breaks, single punctuation marks.
UNIT = re.compile(rf"{LETTER}+|[{IDEOGRAPHS}]|\n+|\S")
_IDEOGRAPH = re.compile(f"[{IDEOGRAPHS}]")


@functools.lru_cache(maxsize=1 << 16)
def fold(text: str) -> str:
    """For comparing: no case, no accents, one normal form."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return unicodedata.normalize("NFC", plain).casefold()


@dataclass(frozen=True)
class Word:
    """A folded word, and where it is in its text."""

    term: str
    start: int
    end: int


def words_of(text: str) -> list[Word]:
    """The words of a text, in order, without punctuation; an ideograph is a word."""
    return [Word(fold(match[0]), *match.span()) for match in UNIT.finditer(text) if is_word(match[0])]


def terms_of(text: str) -> list[str]:
    """The folded words of a text."""
    return [fold(unit) for unit in UNIT.findall(text) if is_word(unit)]


def joint(text: str, piece: str) -> str:
    """The space between a text and a piece that was found without one before it: " " or ""."""
    if not text or not piece or text[-1].isspace():
        return ""
    opens = bool(OPENING.fullmatch(text[-1])) or text[-1] in "-/\u2010\u2011\u2013"
    begins = OPENING.match(piece)
    joined = not is_word(piece[0]) and not (begins and begins[0])
    return "" if opens or joined or _IDEOGRAPH.fullmatch(text[-1]) else " "


def is_word(unit: str) -> bool:
    """Whether a unit is a word or number, not a mark or a line's end."""
    return any(c.isalnum() for c in unit)


def match_query(terms: Iterable[str]) -> str:
    """An FTS5 query for passages with any of `terms`: every term a quoted string, so that none is an operator.

    FTS5 takes a NUL for the query's end, and for a space in the passages.
    """
    return " OR ".join('"' + term.replace('"', '""').replace("\0", " ") + '"' for term in terms)
