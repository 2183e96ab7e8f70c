"""Claims in a text, found by spaCy, and whether an article contains them: a cheap stand-in for checking facts.

A claim is a name, date or number that the text brings up. Being contained is less than being true (the relation
in which it is used is not looked at); docs/real_text.md says how often the two differ.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lacy_jax.config import AnnotateConfig, RuleConfig
from lacy_jax.data.annotate import annotate_documents
from lacy_jax.data.documents import Document, Spans
from lacy_jax.data.factual import select_spans

DATES = ("DATE", "TIME")
# "1,234.5", "20th" and "1990s" are one word each; no other word has digits.
_WORD = re.compile(r"\d+(?:[.,]\d+)*(?:(?:st|nd|rd|th|s)\b)?|[^\W\d_]+")
_POSSESSIVE = re.compile(r"(?<=\w)['’]s\b")
_ROMAN = re.compile(r"[ivxl]+")
# At either end of a phrase they say nothing.
_EDGES = frozenset({"a", "an", "and", "in", "of", "the"})
# Beside the parts of a date: "from about 1883 until late March 1924".
_FILLERS = _EDGES | {
    "about",
    "after",
    "around",
    "before",
    "between",
    "early",
    "from",
    "late",
    "mid",
    "on",
    "to",
    "until",
}
_SHORTEST_SURNAME = 3  # letters


@dataclass(frozen=True)
class Claim:
    """A phrase of a text: its characters [start, end), and its kind (an entity label, PROPN or NUM)."""

    start: int
    end: int
    text: str
    kind: str


def find_claims(texts: Sequence[str], *, starts: Sequence[int]) -> list[list[Claim]]:
    """The claims of each text that say something new at or after its character `starts`.

    Neighbouring words of one kind are one claim. As in training (the default `RuleConfig`), it counts where one of its
    words is no part of a grammatical subject and was not said before.

    Raises:
        DataError: spaCy or its model is missing.
    """
    documents = [Document(id=str(index), title="", text=text) for index, text in enumerate(texts)]
    marked = annotate_documents(documents, AnnotateConfig(workers=1))
    return [
        list(_claims(document.text, spans, start=start))
        for (document, spans), start in zip(marked, starts, strict=True)
    ]


def _claims(text: str, spans: Spans, *, start: int) -> Iterator[Claim]:
    new = {int(begin) for begin in select_spans(spans, RuleConfig()).starts if begin >= start}
    phrase: list[int] = []  # indices of spans
    for index in range(len(spans) + 1):
        if index < len(spans) and phrase and _adjoin(text, spans, phrase[-1], index):
            phrase.append(index)
            continue
        if any(int(spans.starts[word]) in new for word in phrase):
            begin, end, kind = int(spans.starts[phrase[0]]), int(spans.ends[phrase[-1]]), spans.kinds[phrase[0]]
            if _telling(words_of(text[begin:end]), kind=kind):
                yield Claim(begin, end, text[begin:end], kind)
        phrase = [index]


def _adjoin(text: str, spans: Spans, left: int, right: int) -> bool:
    gap = text[spans.ends[left] : spans.starts[right]]
    return spans.kinds[left] == spans.kinds[right] and not gap.strip(" ")


def words_of(text: str) -> list[str]:
    """The words and numbers of a text: case and accents folded, no possessive 's, no commas in numbers."""
    plain = _POSSESSIVE.sub("", unicodedata.normalize("NFKD", text))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter)).casefold()
    return [word.replace(",", "") for word in _WORD.findall(plain)]


def is_contained(claim: Claim, article: str) -> bool:
    """Whether an article (title included) has what the claim names.

    Names and numbers: the same words in a row, but for "the", "of" and the like at the ends; numbers whole. A person:
    the surname is enough. A date: each number and each run of words of it, wherever they stand.
    """
    words, present = _telling(words_of(claim.text), kind=claim.kind), words_of(article)
    if claim.kind in DATES:
        runs = [list(run) for number, run in itertools.groupby(words, key=_has_digit) if not number]
        dated = [word for word in present if word not in _FILLERS]
        return set(filter(_has_digit, words)) <= set(dated) and all(_in_a_row(run, dated) for run in runs)
    surname = words[-1]
    is_name = len(surname) >= _SHORTEST_SURNAME and not _ROMAN.fullmatch(surname)
    return _in_a_row(words, present) or (claim.kind == "PERSON" and is_name and surname in present)


def _in_a_row(words: Sequence[str], present: Sequence[str]) -> bool:
    return f" {' '.join(words)} " in f" {' '.join(present)} "


def _has_digit(word: str) -> bool:
    return any(letter.isdigit() for letter in word)


def _telling(words: list[str], *, kind: str) -> list[str]:
    """The words that have to be found."""
    if kind in DATES:
        return [word for word in words if word not in _FILLERS]
    kept = [index for index, word in enumerate(words) if word not in _EDGES]
    return words[kept[0] : kept[-1] + 1] if kept else []
