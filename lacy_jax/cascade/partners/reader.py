"""A partner that reads before it writes: passages stand before the text, and a model goes on with it.

The partner "documents" finds the passages, and a checkpoint or a server writes, as it does alone. What it is given is
prose without a template: every passage after its title and with an empty line after it, the best one last, then the
text.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence

from lacy_jax.cascade.partners import Partner, Wanted, documents, make_partner, read_reader, read_spec
from lacy_jax.cascade.partners.documents import Documents, Found
from lacy_jax.cascade.partners.http import fitted
from lacy_jax.cascade.text.words import words_of
from lacy_jax.data.documents import Document

WORDS = 300  # of all passages together, at most, without their titles
PASSAGE_WORDS = 100  # of a passage: those around the place at which the text goes on
# Of a longer text so much of its end is seen: with the passages it must fit into a partner's context (checkpoint.py,
# remote/address.py), since what does not fit is cut off at the beginning, where the passages stand.
TEXT_CHARACTERS = 1_500


def from_spec(wanted: Wanted) -> "Reader":
    """The partner "reader:MODEL[@DOCUMENTS]". Raises as `read_reader` and the partners of which it is made."""
    model, searched = read_reader(wanted.argument)
    _, files = read_spec(searched)
    found_by = documents.from_spec(dataclasses.replace(wanted, spec=searched, argument=files))
    writer = make_partner(
        model,
        corpus=wanted.corpus,
        directory=wanted.directory,
        batch_size=wanted.batch_size,
        span=wanted.span,
        timeout=wanted.timeout,
    )
    assert writer is not None
    return Reader(found_by, writer, name=wanted.spec)


class Reader:
    """What a partner writes that has read; see this module's first lines."""

    def __init__(self, searched: Documents, writer: Partner, *, name: str = "reader", words: int = WORDS):
        """`words`: of all passages together, about; as many passages as have room, but at least one."""
        self.name = name
        self._documents, self._writer = searched, writer
        self._passages = max(1, words // PASSAGE_WORDS)
        if hasattr(writer, "warm_up"):  # a partner that has none is not waited for
            self.warm_up = self._warm_up

    def without(self, document: Document) -> "Reader":
        """The same partner, that does not read one document."""
        other = copy.copy(self)
        other._documents = self._documents.without(document)
        return other

    @property
    def failures(self) -> Mapping[str, int]:
        """How many texts went unanswered for which reason, where the writer says so."""
        return getattr(self._writer, "failures", {})

    def complete(self, texts: Sequence[str]) -> list[str]:
        """See `Partner.complete`. A text for which nothing is found is given to the writer alone."""
        return self._writer.complete([self.before_and_text(text) for text in texts])

    def before_and_text(self, text: str) -> str:
        """What the writer is given: passages, and the end of the text."""
        found = self._documents.find(text)[: self._passages]
        before = "".join(f"{_titled(each)}\n\n" for each in reversed(found))
        return before + fitted(text, max_characters=TEXT_CHARACTERS)

    def _warm_up(self, texts: Sequence[str] = (), *, more: int = 0) -> int:
        """Compiles whatever the writer may need: how long its texts will be is known only when passages are found."""
        del texts, more
        programs: int = self._writer.warm_up()  # type: ignore[attr-defined]
        return programs


def _titled(found: Found) -> str:
    """The words of a passage around the place at which the text goes on, in one line, after the passage's title."""
    passage = found.passage
    words = words_of(passage.text)
    here = sum(word.start < found.place.at for word in words)
    first = max(0, min(here - PASSAGE_WORDS // 2, len(words) - PASSAGE_WORDS))
    start = words[first].start if first else 0
    end = words[first + PASSAGE_WORDS].start if first + PASSAGE_WORDS < len(words) else len(passage.text)
    title = " ".join(passage.title.split())
    prose = " ".join(passage.text[start:end].removeprefix(f"{passage.title}\n\n").split())
    return f"{title}: {prose}" if title else prose
