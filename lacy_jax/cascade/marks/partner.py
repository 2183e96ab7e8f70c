"""The annotator partner: a span is marked where the partner, asked with the text before it, answers what stands there.

The partner is asked at every word of the text, or, with `config.of`, only where the marks of a stored annotation begin.
A span is a whole answer (a phrase); words within it are not asked for again. A partner that searches documents does not
see the document itself (`Partner.without`). A checkpoint is not asked. It reads each text once (reading.py), and what
it pays for the text is kept with the marks. Answers of others that are costly to ask are kept beside the data, so the
same command goes on from there.
"""

import dataclasses
import functools
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lacy_jax.cascade.marks.asking import BATCH, question, stands_at
from lacy_jax.cascade.marks.reading import TEXTS, Read, answers_at, read_texts
from lacy_jax.cascade.partners import Partner, check_partner, describe_partner, make_partner, read_reader, read_spec
from lacy_jax.cascade.partners.facts import files_of
from lacy_jax.cascade.partners.guard import BROKEN, ENDLESS, Guard
from lacy_jax.cascade.remote.answers import Answers
from lacy_jax.cascade.text.words import words_of
from lacy_jax.checkpoints.format import META_FILE, find_checkpoint, kind_of
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.config import AnnotateConfig, CorpusConfig
from lacy_jax.data.annotate import Parts
from lacy_jax.data.annotators.stored import StoredMarks, folder_problems, folders_of, stored_fingerprint
from lacy_jax.data.corpus import corpus_fingerprint
from lacy_jax.data.documents import Document, Spans, full_text, text_offset
from lacy_jax.data.files import file_sha256
from lacy_jax.errors import LacyError, PartnerError
from lacy_jax.paths import absolute

READS = ("corpus", "directory")
KIND = "ANSWERED"
ANSWERS_FILE = "partner_answers.sqlite"
SECONDS = 120.0  # for a batch of questions: nobody waits for the text
MOST_FAULTS = 3 * BATCH  # questions in a row without an answer: after that many, the partner is taken for lost
TOLERATED = 0.01  # of all questions; with more of them unanswered there is no dataset
_CHEAP = ("database", "documents", "world")  # their answers are not kept: to ask again is as fast
_ANYWHERE = ("database", "world")  # every process may open them, and a batch is answered in seconds
_READS = "checkpoint"  # reads texts, and is not asked
_ALGORITHM = 1  # raise it when the marks of an unchanged text and partner change

_ALGORITHM_OF_READING = 1  # the same of a model's

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Place:
    """Where the partner is asked, a character of the full text, and how a span there is labelled."""

    start: int
    kind: str = KIND
    subject: bool = False
    repeated: bool = False


def problems(config: AnnotateConfig) -> Iterator[str]:
    """Lines about a partner that is `none`, or whose file or folder does not exist."""
    yield from folder_problems(config)
    try:
        if read_spec(config.partner)[0] == "none":
            yield "config.annotate.partner: nobody would answer; name a partner (docs/partners.md)"
        check_partner(config.partner)
    except LacyError as error:
        yield from (f"config.annotate.partner: {problem}" for problem in error.problems)


def parts(config: AnnotateConfig) -> Parts:
    """In what parts a corpus may be marked; stored annotations are read in one go."""
    form = read_spec(config.partner)[0]
    if form == _READS:
        return "in order"
    if config.of or form not in _CHEAP:
        return "whole"
    return "anywhere" if form in _ANYWHERE else "in order"


def has_losses(config: AnnotateConfig) -> bool:
    """Whether the partner is a model that is read here, so that what it pays for a text is known."""
    return read_spec(config.partner)[0] == _READS


def mark(
    documents: Iterable[Document], config: AnnotateConfig, *, corpus: CorpusConfig, directory: str
) -> Iterator[tuple[Document, Spans]]:
    """Each document with the answers that stand in its text, in order.

    Raises:
        PartnerError: the partner cannot be made, is lost, or leaves too many questions unanswered. Costly answers are
            kept: the same command goes on from there.
        CheckpointError: the model that is read cannot be loaded.
        DataError: the annotation of `config.of` does not fit the documents.
    """
    stored = [StoredMarks(folder) for folder in folders_of(config)]

    def places_of(document: Document) -> list[_Place]:
        return _places_of(stored[0].spans_of(document)) if stored else _words(document)

    if has_losses(config):
        yield from _mark_by_reading(documents, config.partner, places_of=places_of)
        return
    if parts(config) == "anywhere":
        partner = _kept_open(config.partner, corpus, directory, _stamp(config.partner))
    else:
        partner = _opened(config.partner, corpus, directory)
    costly = read_spec(config.partner)[0] not in _CHEAP
    # A hash of files; what is asked in many pieces, each of which would read them again, needs none.
    identity = json.dumps(fingerprint(config, corpus=corpus, directory=directory), sort_keys=True) if costly else ""
    kept = Answers(f"{directory}/{ANSWERS_FILE}", error=PartnerError) if costly else None
    asked = _Asked(partner, identity=identity, kept=kept)
    try:
        for document in documents:
            asked.about(document)
            yield document, _spans(document, places_of(document), answers=asked.answers)
        asked.check_faults()
    finally:
        if kept is not None:
            kept.close()


def _mark_by_reading(
    documents: Iterable[Document], spec: str, *, places_of: Callable[[Document], list[_Place]]
) -> Iterator[tuple[Document, Spans]]:
    slm, left = load_model(read_spec(spec)[1]), iter(documents)
    _log.warning("marks are made by %s, which reads each text once", spec)
    while group := list(itertools.islice(left, TEXTS)):
        for document, read in zip(group, read_texts(slm, [full_text(each) for each in group]), strict=True):
            if not np.isfinite(read.nats).all():
                raise PartnerError(
                    f"{spec} reads the document {document.id!r} with losses that are not finite: its weights are "
                    "damaged; copy the model again, or name another"
                )

            def answers(text: str, starts: Sequence[int], read: Read = read) -> list[str]:
                return answers_at(slm, read, text, starts=starts)

            yield (
                document,
                dataclasses.replace(_spans(document, places_of(document), answers=answers), losses=read.losses),
            )


def _opened(spec: str, corpus: CorpusConfig, directory: str) -> Partner:
    partner = make_partner(spec, corpus=corpus, directory=directory, batch_size=BATCH, span="phrase", timeout=SECONDS)
    if partner is None:
        raise PartnerError("config.annotate.partner=none: nobody would answer; name a partner (docs/partners.md)")
    _log.warning("marks are made by asking %s", describe_partner(spec, corpus=corpus))
    return partner


@functools.lru_cache(maxsize=1)
def _kept_open(spec: str, corpus: CorpusConfig, directory: str, _stamp: tuple[str, int, int] | None) -> Partner:
    """The partner, where a process is given a corpus in many pieces; `_stamp`: of its file as it is now."""
    return _opened(spec, corpus, directory)


def _stamp(spec: str) -> tuple[str, int, int] | None:
    """Path, size and time of change of a database's file; None where there is none."""
    form, argument = read_spec(spec)
    if form != "database" or not os.path.isfile(argument):
        return None
    status = os.stat(argument)
    return os.path.abspath(argument), status.st_size, status.st_mtime_ns


def fingerprint(config: AnnotateConfig, *, corpus: CorpusConfig, directory: str) -> dict[str, Any]:
    """The partner, and the files that it knows things from. The corpus has a fingerprint of its own.

    Raises:
        PartnerError, DataError, CheckpointError: something of it is missing.
    """
    del corpus, directory
    found = {"partner": _known_by(config.partner), "algorithm": _ALGORITHM}
    if has_losses(config):
        found["read"] = _ALGORITHM_OF_READING
    return found | ({"of": stored_fingerprint(config)} if config.of else {})


def _known_by(spec: str) -> list[Any]:
    """The form of a partner, and a hash of what it names, or the name itself."""
    form, argument = read_spec(spec)
    if form == "reader":
        return [form, *map(_known_by, read_reader(argument))]
    if form == "database":
        return [form, *map(file_sha256, files_of(Path(argument).expanduser()))]
    if form == "documents" and argument:
        return [form, corpus_fingerprint(CorpusConfig(name="jsonl", files=argument))]
    if form == "checkpoint":
        return [form, _files_of_model(argument)]
    return [form, argument]


def _files_of_model(path: str) -> dict[str, str]:
    kind = kind_of(path)
    if kind == "own":  # its description has the checksums of its arrays
        return {META_FILE: file_sha256(str(find_checkpoint(path) / META_FILE))}
    files = [absolute(path)] if kind == "gguf" else sorted(each for each in absolute(path).iterdir() if each.is_file())
    return {file.name: file_sha256(str(file)) for file in files}


class _Asked:
    """A partner that is asked, in batches, and what became of the questions."""

    def __init__(self, partner: Partner, *, identity: str, kept: Answers | None) -> None:
        self._partner = self._now = partner
        self.name = partner.name
        self._guard = Guard(self, timeout=SECONDS)  # one for all documents: each has two threads
        self._identity, self._kept = identity, kept
        self._document = ""  # a hash of its text
        self._questions = self._unanswered = self._in_a_row = 0

    @property
    def failures(self) -> Mapping[str, int]:
        """How many texts the partner left unanswered for which reason, where it says so."""
        return getattr(self._now, "failures", {})

    def about(self, document: Document) -> None:
        """The next questions are about this document. A partner that searches documents does not see it."""
        without = getattr(self._partner, "without", None)
        self._now = self._partner if without is None else without(document)
        self._document = hashlib.sha256(full_text(document).encode()).hexdigest()

    def complete(self, texts: Sequence[str]) -> list[str]:
        """What the guard asks."""
        return self._now.complete(texts)

    def answers(self, text: str, starts: Sequence[int]) -> list[str]:
        """The answers at places of a text. Raises `PartnerError` where the partner is lost."""
        key = json.dumps([self._identity, self._document, list(starts)]).encode()
        if self._kept is not None and (known := self._kept.find(key)) is not None:
            return list(json.loads(known))
        before = self._faults()
        answers = self._guard.complete([question(text, start) for start in starts])
        faults = min(self._faults() - before, len(starts))
        self._questions += len(starts)
        self._unanswered += faults
        self._in_a_row = self._in_a_row + faults if faults == len(starts) else 0
        if self._in_a_row >= MOST_FAULTS:
            raise PartnerError(f"{self.name} left {self._in_a_row} questions in a row unanswered{self._why()}")
        if not faults and self._kept is not None:
            self._kept.keep(key, json.dumps(answers))
        return answers

    def check_faults(self) -> None:
        """Raises `PartnerError` where too many questions went unanswered; warns of fewer."""
        said = f"{self.name} left {self._unanswered:,} of {self._questions:,} questions unanswered"
        if self._unanswered > TOLERATED * self._questions:
            raise PartnerError(said + self._why())
        if self._unanswered:
            _log.warning("%s; nothing is marked there", said)

    def _faults(self) -> int:
        """Questions without an answer so far for which the same question might get one."""
        statistics, reasons = self._guard.statistics, self._guard.reasons
        passing = sum(count for reason, count in reasons.items() if reason not in (BROKEN, ENDLESS))
        return statistics.failed + statistics.late + passing

    def _why(self) -> str:
        reasons = ", ".join(self._guard.reasons) or "see the log"
        kept = "its answers are kept: the same command goes on from there" if self._kept else "nothing is written"
        return f" ({reasons}); {kept}"


def _words(document: Document) -> list[_Place]:
    offset = text_offset(document)
    return [_Place(word.start + offset) for word in words_of(document.text)]


def _places_of(spans: Spans) -> list[_Place]:
    columns = (spans.starts.tolist(), spans.kinds, spans.subject.tolist(), spans.repeated.tolist())
    return [_Place(*row) for row in zip(*columns, strict=True)]


def _spans(
    document: Document, places: Sequence[_Place], *, answers: Callable[[str, Sequence[int]], Sequence[str]]
) -> Spans:
    """The answers that stand in a document. Of the words of an answer only those of its own batch are asked for."""
    text, end, found = full_text(document), 0, list[tuple[_Place, int]]()
    left = iter(places)
    while batch := _next(left, end):
        found_here = answers(text, [place.start for place in batch])
        for place, answer in zip(batch, found_here, strict=True):
            if place.start >= end and stands_at(text, place.start, answer):
                end = place.start + len(answer.strip())
                found.append((place, end))
    return Spans(
        starts=np.array([place.start for place, _ in found], np.int32),
        ends=np.array([stop for _, stop in found], np.int32),
        kinds=tuple(place.kind for place, _ in found),
        subject=np.array([place.subject for place, _ in found], bool),
        repeated=np.array([place.repeated for place, _ in found], bool),
    )


def _next(places: Iterator[_Place], end: int) -> list[_Place]:
    """The next BATCH places at or after the character `end`."""
    batch: list[_Place] = []
    for place in places:
        if place.start >= end:
            batch.append(place)
        if len(batch) == BATCH:
            break
    return batch
