"""How far a partner writes: where an answer of one token, one word or one phrase ends. Strings in, strings out."""

import re
import unicodedata

from lacy_jax.config import Span

# Ideographs and kana: written without spaces, so each counts as a word.
IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
PUNCTUATION = "!-/:-@\\[-`{-~\u00a1-\u00a9\u00ab-\u00b1\u00b4\u00b6-\u00b8\u00bb\u00bf\u00d7\u00f7"
PUNCTUATION += "\u2000-\u200b\u200e-\u206f\u3000-\u303f\uff00-\uff0f\uff1a-\uff20"
LETTER = rf"[^\s{PUNCTUATION}{IDEOGRAPHS}]"
# Initials ("U.S."), numbers ("1,234.5") and compounds ("Saint-Denis") are whole.
_INITIALS = r"[^\W\d_]\."
_COMPOUND = rf"{LETTER}+(?:[-'\u2019\u2010\u2011]{LETTER}+)*"
_WORD = re.compile(rf"[{IDEOGRAPHS}]|(?:{_INITIALS}){{2,}}|\d+(?:[.,:/]\d+)+{LETTER}*|{_COMPOUND}|\S")
# The rest of a word or number that was begun before: "-Denis", "'s", ",234.5", ".S.".
_CONTINUED = re.compile(rf"(?:[.,:/]\d+)+{LETTER}*|[-'\u2019\u2010\u2011]{_COMPOUND}|\.(?:{_INITIALS})+")
# What stands before a word and belongs to it: an opening bracket or quote, a number's sign, currency or point.
OPENING = re.compile("[(\\[{\u00ab\u201c\u2018\"']*(?:[-+\u2212\u00b1~$\u20ac\u00a3\u00a5#]?\\.?(?=\\d))?")
_JOINERS = frozenset("-'\u2019\u2010\u2011.,:/")
_LOOKED_AHEAD = 3  # characters after a word, at most, on which its end depends: "U" and ".S."
_REPLACEMENT = "\ufffd"

_SPACES = re.compile("[ \u00a0\u202f]+")
_DOT_AND_SPACES = re.compile("\\.[ \u00a0\u202f]+")
_ABBREVIATED = re.compile(r"(?:[^\W\d_]|St|Mt|Dr|Mr|Mrs|Ms|Prof)")
_DAY = re.compile(
    r"\b(?:Jan|Feb|Mar|Apr|May|June?|July?|Aug|Sept?|Oct|Nov|Dec|January|February|March|April|August|September|October"
    r"|November|December) \d{1,2}$"
)
_COMMA_AND_SPACE = re.compile(", ")
_YEAR = re.compile(r"\d{4}")
_CONNECTOR = re.compile(
    "&|of|the|de|del|della|di|da|do|dos|das|du|des|la|las|le|les|el|al|von|van|der|den|zu|zur|af|av|bin|ibn|ben|y|e"
    "|upon|sur|für|för|og"
)
_MAGNITUDE = re.compile("hundred|thousand|million|billion|trillion")
_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
MOST_WORDS = 12  # of a phrase
MOST_CONNECTORS = 3  # in a row
MOST_IDEOGRAPHS = 8  # of a phrase: Chinese has no sign for its end
_EASTERN = re.compile(
    rf"(?=\d*[{_HAN}])(?:(?>\d+(?:[.,:/]\d+)*)(?!{LETTER})|[{_HAN}]){{1,{MOST_IDEOGRAPHS}}}"  # 1879年3月14日
    "|[\u30a1-\u30ff]+"  # カタカナ
)


def complete_extent(written: str, *, span: Span, ended: bool) -> str | None:
    """The piece to hand over of what a partner has written, once it is certain where the piece ends.

    token: all of it, unless that is only spaces. word: white space and the rest of one word, number, ideograph or
    punctuation mark. phrase: a name, date or number whole. That is the first word, then words with a capital or a
    digit, and connectors ("of", "von") before such a word; it stops before punctuation and line ends.

    What is returned is a prefix of `written`, and no continuation of `written` would change it.

    Args:
        written: whole characters; U+FFFD at its end stands for a character of which bytes are missing.
        ended: the writer has no more.

    Returns:
        None while more must be written; "" where nothing can be handed over: only white space, or a broken end.
    """
    whole = written.rstrip(_REPLACEMENT)
    broken = len(whole) < len(written)
    piece = _piece(whole, span=span, ended=ended and not broken)
    if span == "token" and broken:
        piece = None
    return "" if piece is None and ended else piece


def word_end(text: str, start: int, *, opening: bool = False) -> int:
    """Where the word that begins at `start` ends; `start` itself on white space and at the end of the text.

    opening: an opening bracket or a sign before a word, "(14" or "$5", is part of it; else the rest of a word begun
    before, "-Denis" or ",234.5", is whole.
    """
    begun = _CONTINUED.match(text, start)
    if begun and not opening:
        end = begun.end()
    else:
        before = OPENING.match(text, start) if opening else None
        end = before.end() if before else start
        word = _WORD.match(text, end)
        end = word.end() if word else end
    return _after_marks(text, end)


def phrase_end(text: str, start: int, end: int) -> int:
    """Where the phrase ends whose first word is text[start:end], if nothing follows the text."""
    found = _phrase_end(text, start, end, ended=True)
    assert found is not None
    return found


def _piece(text: str, *, span: Span, ended: bool) -> str | None:
    if span == "token":
        return text if text.strip(" ") else None
    start = len(text) - len(text.lstrip())
    if start == len(text):
        return None
    end = word_end(text, start, opening=start > 0)
    if not ended and not _certain(text, end):
        return None
    found = _phrase_end(text, start, end, ended=ended) if span == "phrase" else end
    return None if found is None else text[:found]


def _phrase_end(text: str, start: int, end: int, *, ended: bool) -> int | None:
    """Where the phrase ends whose first word is text[start:end]; None where that is not certain."""
    if not any(c.isalnum() for c in text[start:end]):
        return end
    eastern = _EASTERN.match(text, start)
    if eastern:
        end = _after_marks(text, eastern.end())
        return end if ended or _certain(text, end) else None
    last, at, connectors = text[start:end], end, 0
    for _ in range(MOST_WORDS + MOST_CONNECTORS):
        dated = _COMMA_AND_SPACE.match(text, at) if _DAY.search(text, start, at) else None
        dotted = _DOT_AND_SPACES.match(text, at) if _ABBREVIATED.fullmatch(last) else None
        gap = dated or dotted or _SPACES.match(text, at)
        if gap is None:
            return end if ended or at < len(text) else None
        stop = word_end(text, gap.end())
        if not ended and not _certain(text, stop):
            return None
        word = text[gap.end() : stop]
        if _CONNECTOR.fullmatch(word) and gap not in (dated, dotted) and connectors < MOST_CONNECTORS:
            connectors += 1
        elif _goes_on(word, last, dated=bool(dated), dotted=bool(dotted)):
            end, connectors = stop, 0
        else:
            break
        last, at = word, stop
    return end


def _goes_on(word: str, last: str, *, dated: bool, dotted: bool) -> bool:
    """Whether a word goes on with a name, date or number whose last word is `last`."""
    if dated:
        return bool(_YEAR.fullmatch(word))
    if dotted:
        return word[:1].isupper()
    return any(c.isupper() or c.isdigit() for c in word) or bool(_MAGNITUDE.fullmatch(word) and last[-1].isdigit())


def _certain(text: str, end: int) -> bool:
    """Whether text[:end] ends with a word, however the text goes on."""
    ahead = text[end : end + _LOOKED_AHEAD]
    if len(ahead) == _LOOKED_AHEAD or any(c.isspace() for c in ahead):
        return True
    return bool(ahead) and not {text[end - 1], ahead[0]} & _JOINERS


def _after_marks(text: str, end: int) -> int:
    """Past accents, variation selectors and the like, which belong to the character before."""
    while end < len(text) and (unicodedata.category(text[end])[0] == "M" or text[end] == "\u200d"):
        end += 1
    return end
