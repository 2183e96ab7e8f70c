"""A partner that knows (subject, relation, value): the subject is named in the text, the relation by its wording.

The subject is the last one that the text has named, by its full name or, after that, by its first or last word; one of
whom the relation is not known is passed over for the one named before. The relation is found by a wording that ends
where the value has to begin, or by the words of its name ("Her employer is"). Where the text has begun a value already,
its rest is the answer; where it says something else there, there is none.
"""

import functools
import itertools
import re
import threading
from collections.abc import Iterator, Sequence

from lacy_jax.cascade.partners import Wanted
from lacy_jax.cascade.partners.facts import SLOT, Facts, Wording, open_facts
from lacy_jax.cascade.partners.naming import ARTICLES, Mention, Read, Reader
from lacy_jax.cascade.text.extent import complete_extent
from lacy_jax.cascade.text.words import Word, fold, joint, terms_of
from lacy_jax.config import Span

__all__ = ["Database", "Facts", "open_facts"]

MOST_SUBJECTS = 8  # the last ones named, that are tried
MOST_BEGUN = 12  # words after a wording that may be the beginning of its value
GAP, SLOT_GAP = 2, 8  # words passed over between two of a wording: adverbs; what stands in a slot
MOST_LINKS = 4  # words between a relation's name and its value: "is", "was in"
SENTENCE_WORDS = 40

_LINK = re.compile("is|was|are|were|be|been|being|in|at|of|by|for|from|on|as|to|with|named|called|s")
_SENTENCE_END = re.compile(r"(?<=[^\s.]{2})[.!?;]\s+|\n")  # not after initials: "J. R. Smith"
_BEFORE_VALUE = re.compile(r"\s*[:\u2013\u2014]?\s*[(\[\"'\u201c\u2018\u00ab]*")
_ARTICLE = re.compile(r"(?:an?|the)(?:\s+|$)")
_SEPARATOR = re.compile(r"\s*(?:[,;]\s*(?:and\s+|or\s+|&\s*)?|(?:and|or)\s+|&\s*)|\s+(?:and|or|&)$", re.IGNORECASE)


def from_spec(wanted: Wanted) -> "Database":
    """The partner "database:FILE". Raises as `open_facts`."""
    return Database(open_facts(wanted.argument, directory=wanted.directory), span=wanted.span, name=wanted.spec)


class Database:
    """The partner over a file's facts; see this module's first lines. No answer is a guess: "" where none fits."""

    def __init__(self, facts: Facts, *, span: Span, name: str = "database"):
        """`span`: "phrase" is the whole value, else its next word."""
        self.name = name
        self._facts, self._span = facts, span
        self._reader, self._lock = Reader(facts), threading.Lock()  # one text is read at a time

    def complete(self, texts: Sequence[str]) -> list[str]:
        """The next word, or the rest, of the value that each text asks for."""
        with self._lock:
            return [self._answer(text) for text in texts]

    def _answer(self, text: str) -> str:
        read = self._reader.read(text)
        words = read.words
        worded = self._worded(text, words)
        for mention in itertools.islice(read.mentions(), MOST_SUBJECTS):
            values = mention.subject.values
            named = self._named(text, words, mention)
            # The first place is tried first: what follows it may be a value that holds a wording ("University of").
            for relation, end in sorted([*worded, *named], key=lambda found: found[1]):
                piece = continued(read, words[end - 1].end, values[relation]) if relation in values else None
                if piece is not None:
                    return piece if self._span == "phrase" else complete_extent(piece, span="word", ended=True) or ""
        return ""

    def _worded(self, text: str, words: Sequence[Word]) -> list[tuple[str, int]]:
        """(relation, index of the word after the wording), of wordings with one end the longest first."""
        found = []
        for end in range(len(words), max(0, len(words) - MOST_BEGUN - 1), -1):
            for wording in self._facts.wordings.get(words[end - 1].term, ()):
                passed = passed_over(wording, text, words, end)
                if passed is not None:
                    found.append((-len(wording.terms), passed, wording.relation, end))
        return [(relation, end) for _, _, relation, end in sorted(found, key=lambda match: match[:2])]

    def _named(self, text: str, words: Sequence[Word], mention: Mention) -> Iterator[tuple[str, int]]:
        """(relation, index of the word after) where the sentence names a relation, and then a link: "employer is"."""
        start = sentence_start(text, words)
        for relation in mention.subject.values:
            places = [places_of(term, words, start=start) for term in self._facts.relation_terms[relation]]
            if not places or not all(places):
                continue
            for last in {max(found[0] for found in places), max(found[-1] for found in places)}:
                end = self._after_links(text, words, last + 1, mention)
                if end is not None:
                    yield relation, end

    def _after_links(self, text: str, words: Sequence[Word], after: int, mention: Mention) -> int | None:
        """The index of the word after the links that follow a relation's name, and maybe "of" the subject."""
        between = words[after : max(after, mention.start)]
        if not all(_LINK.fullmatch(word.term) or word.term in ARTICLES for word in between):
            return None
        end = after = max(after, mention.end)
        while end < len(words) and end - after < MOST_LINKS and _LINK.fullmatch(words[end].term):
            end += 1
        colon = text[words[after - 1].end :].lstrip().startswith(":")
        return end if end > after or colon else None


def passed_over(wording: Wording, text: str, words: Sequence[Word], end: int) -> int | None:
    """How many other words are among those of a wording before the word `end`; None where it does not end there."""
    place, passed, allowed = end, 0, 0
    for term in reversed(wording.terms):
        if term == SLOT:
            allowed = SLOT_GAP
            continue
        stop = max(-1, place - 2 - allowed)
        found = next((i for i in range(place - 1, stop, -1) if words[i].term == term), -1)
        if found < 0:
            return None
        passed += place - 1 - found
        place, allowed = found, GAP
    within = text[words[place].start : words[end - 1].end]
    return None if _SENTENCE_END.search(within) else passed


def sentence_start(text: str, words: Sequence[Word]) -> int:
    """The index of the first word of the sentence that the text ends with."""
    first = max(0, len(words) - SENTENCE_WORDS)
    offset = words[first].start if words else 0
    border = max((match.end() for match in _SENTENCE_END.finditer(text, offset)), default=0)
    return next((i for i in range(first, len(words)) if words[i].start >= border), len(words))


def places_of(term: str, words: Sequence[Word], *, start: int) -> list[int]:
    """The indices, from `start` on, of a word and of its plural."""
    return [i for i in range(start, len(words)) if words[i].term in (term, f"{term}s")]


def continued(read: Read, end: int, values: Sequence[str]) -> str | None:
    """What is missing of a value that has its place at text[end:] of what was read.

    Of several values, those that the text has said are not said again.

    Returns:
        None where text[end:] is not the beginning of a value (an article before it aside); "" where it is all of it.
    """
    text = read.text
    before = _BEFORE_VALUE.match(text, end)
    begun, listed = text[before.end() if before else end :], False
    while (rest := _after_listed(begun, values)) is not None:
        begun, listed = rest, True
    said_again = not listed and len(values) == 1
    open_values = values if said_again else [value for value in values if not read.says(terms_of(value))]
    # A value that the text has begun counts as said when it is short of nothing: then it is complete.
    for start in (begun, _without_article(begun)):
        for value in values if start and not listed else open_values:
            size = begun_size(value, start)
            if size is not None:
                rest = value[size:]
                return rest if start else joint(text, rest) + rest
    return None


def _without_article(text: str) -> str:
    article = _ARTICLE.match(text)
    return text[article.end() :] if article else text


def _after_listed(begun: str, values: Sequence[str]) -> str | None:
    """What follows a value and a comma or "and" at the beginning; None where there is no such value."""
    for value in sorted(values, key=len, reverse=True):
        for start in (begun, _without_article(begun)):
            if fold(start).startswith(fold(value)):
                size = next((k for k in range(len(start) + 1) if _plain(start[:k]) == fold(value)), len(start))
                separator = _SEPARATOR.match(start, size)
                if separator:
                    return start[separator.end() :]
    return None


def begun_size(value: str, begun: str) -> int | None:
    """How many characters of a value are `begun`; None where it is not the beginning of the value.

    Case and accents are ignored, except in a word of which only a part is there.
    """
    if not begun:
        return 0
    if _ARTICLE.fullmatch(begun) and fold(value.split()[0]) != begun.strip():
        return None
    if not fold(value).startswith(fold(begun)):
        return None
    size = next((k for k in range(len(value), 0, -1) if _plain(value[:k]) == fold(begun)), None)
    inside = size is not None and value[size - 1].isalnum() and value[size : size + 1].isalnum()
    if size is not None and inside and value[:size].split()[-1:] != begun.split()[-1:]:
        return None
    return size


@functools.lru_cache(maxsize=1 << 12)
def _plain(text: str) -> str:
    """`fold`, with a memory of its own: beginnings of values are many."""
    return fold.__wrapped__(text)
