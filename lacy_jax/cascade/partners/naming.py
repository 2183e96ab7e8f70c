"""Whom a text names: its words, and the subjects of a database among them, read once while the text grows."""

import itertools
from collections import ChainMap
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass

from lacy_jax.cascade.partners.facts import Facts, Subject
from lacy_jax.cascade.text.words import UNIT, Word, fold, is_word

ARTICLES = frozenset({"a", "an", "the"})
MOST_TEXTS, MOST_WORDS = 128, 200_000  # that are remembered, beside the one that is asked about


@dataclass(frozen=True)
class Mention:
    """Where a subject is named last: the indices of the first word of it and of the one after."""

    subject: Subject
    start: int
    end: int


class Read:
    """A text, its words and its mentions. It goes on from there with a longer text, so a text costs its length once.

    What the next characters may change is read again: the last word, and names that may go on.
    """

    def __init__(self, facts: Facts) -> None:
        self.text = ""
        self.words: list[Word] = []
        self._places: dict[str, list[int]] = {}  # of each folded word
        self._facts = facts
        self._read = 0  # characters that are read for good
        self._start = 0  # words whose mentions are, and these: who was named, the last one last,
        self._named: dict[str, Mention] = {}
        self._short: dict[str, Subject] = {}  # and who was named last of those whose name begins or ends with a word

    def grow(self, text: str) -> None:
        """Reads on. `text` begins with the text so far."""
        while self.words and self.words[-1].start >= self._read:
            self._places[self.words.pop().term].pop()
        for match in UNIT.finditer(text, self._read):
            if is_word(match[0]):
                word = Word(fold(match[0]), *match.span())
                self._places.setdefault(word.term, []).append(len(self.words))
                self.words.append(word)
            self._read = match.start() if match.end() == len(text) else match.end()
        self.text = text
        sure = len(self.words) - bool(self.words and self.words[-1].start >= self._read)
        self._start = self._name(self._start, self._named, self._short, sure=sure)

    def says(self, terms: Sequence[str]) -> bool:
        """Whether folded words stand in the text one after the other; no words do in a text without any."""
        if not terms:
            return not self.words
        size = len(terms)
        return any(
            [word.term for word in self.words[place : place + size]] == [*terms]
            for place in self._places.get(terms[0], ())
        )

    def mentions(self) -> Iterator[Mention]:
        """The subjects that the text names, the last one first, each once."""
        last: dict[str, Mention] = {}
        self._name(self._start, last, ChainMap({}, self._short), sure=None)
        yield from reversed(last.values())
        yield from (each for name, each in reversed(self._named.items()) if name not in last)

    def _name(
        self, start: int, named: dict[str, Mention], short: MutableMapping[str, Subject], *, sure: int | None
    ) -> int:
        """Adds who is named from a word on; the word where it stopped.

        sure: as many words are there for good. It stops where more of them could make another name. None: at the end.
        """
        words = self.words
        while start < len(words):
            if sure is not None and start + max(1, self._facts.longest_name(words[start].term)) > sure:
                break
            mention = self._full_name(start)
            if mention is None and words[start].term in short and self.text[words[start].start].isupper():
                mention = Mention(short[words[start].term], start, start + 1)
            if mention is None:
                start += 1
                continue
            subject = mention.subject
            named.pop(subject.name, None)
            named[subject.name] = mention
            short.update({term: subject for term in (subject.terms[0], subject.terms[-1]) if term not in ARTICLES})
            start = mention.end
        return start

    def _full_name(self, start: int) -> Mention | None:
        """The longest name that begins with a word of the text."""
        for size in range(min(self._facts.longest_name(self.words[start].term), len(self.words) - start), 0, -1):
            subject = self._facts.subject(" ".join(word.term for word in self.words[start : start + size]))
            if subject:
                return Mention(subject, start, start + size)
        return None


class Reader:
    """Reads texts, and remembers the last ones: cascades and marks ask about the same text again, a little longer."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._texts: list[Read] = []  # the one that was asked about last is the last

    def read(self, text: str) -> Read:
        """The text, read on from one that it begins with. It is good until the next one is read."""
        found = next((each for each in reversed(self._texts) if text.startswith(each.text)), None)
        if found is None:
            sizes = itertools.accumulate(len(each.words) for each in reversed(self._texts))
            kept = min(MOST_TEXTS - 1, sum(size <= MOST_WORDS for size in sizes))
            self._texts = self._texts[len(self._texts) - kept :]
            found = Read(self._facts)
        else:
            self._texts.remove(found)
        found.grow(text)
        self._texts.append(found)
        return found
