"""The stage that marks: a corpus is read into parts, each part is marked, and the dataset is put together in order.

The parts lie beside the dataset until it is complete, so a command that was killed and is started again goes on from
the parts that are marked. Who marks them, and in what order, changes nothing: where parts and batches are cut follows
from the documents alone (batches.py). A reading that was cut off begins again, since it costs little beside marking.
"""

import dataclasses
import functools
import itertools
import json
import logging
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

from lacy_jax.config import Config
from lacy_jax.data import datasets, parts
from lacy_jax.data.annotate import (
    JUDGED,
    JUDGED_CHARACTERS,
    annotator_doubts,
    annotator_has_losses,
    annotator_parts,
    annotator_reads,
    in_order,
    mark_documents,
    workers,
)
from lacy_jax.data.batches import corpus_parts
from lacy_jax.data.beam import Beam, run_pipeline
from lacy_jax.data.check import SMALL, small_corpus_problems
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.datasets import Fingerprint
from lacy_jax.data.documents import Document, LeftOut, Spans, full_text
from lacy_jax.data.files import parse_json, write_whole
from lacy_jax.data.left_out import FILE, add_left_out, leave_out, left_out_beside
from lacy_jax.data.pack import Progress, counted
from lacy_jax.data.parts import Part
from lacy_jax.data.speed import Marked, units_of
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.errors import DataError
from lacy_jax.paths import absolute

FOLDER = "parts"  # beside the version folder of the dataset
PLAN = "plan.json"
_RUNS = 3  # of a pipeline that fails
_POLL_SECONDS = 1.0  # between two looks at the parts that are marked
_USABLE = 20  # the corpus is refused if fewer than one in so many of its documents can be marked


@dataclasses.dataclass(frozen=True)
class Marking:
    """How the documents are marked.

    report: called with what was marked so far, after each document. beam: who runs the pipeline; None: processes of
    this command.
    """

    report: Callable[[Marked], None] = lambda _marked: None
    beam: Beam | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was read of a corpus.

    folder: where the parts lie. left_out: the size of the file of what could not be read. beginnings: how some
    documents begin.
    """

    folder: str
    left_out: int
    beginnings: list[str]
    parts: list[Part]

    @property
    def documents(self) -> int:
        return sum(part.documents for part in self.parts)

    @property
    def characters(self) -> int:
        return sum(part.characters for part in self.parts)

    def read(self, number: int) -> list[Document]:
        """The documents of a part; raises `DataError` where they are missing or damaged."""
        return parts.read_documents(self.folder, number, sha256=self.parts[number].sha256)

    def finished(self, number: int) -> bool:
        """Whether the part is marked."""
        return parts.count_left_out(self.folder, number, sha256=self.parts[number].sha256) is not None


def make_annotated(
    config: Config,
    tokenizer: TextTokenizer | None,
    *,
    directory: Path,
    fingerprint: Fingerprint,
    marking: Marking,
    progress: Progress,
) -> None:
    """Makes the annotated dataset at `directory`, its version folder, and removes the parts.

    Raises:
        DataError: the corpus cannot be read, is too small, or cannot be marked.
    """
    work, beam = directory.parent / FOLDER, marking.beam
    if beam and annotator_parts(config.annotate) != "anywhere":
        raise DataError(
            f"--beam_runner: the annotator {config.annotate.annotator} marks in one process on this machine; leave "
            "--beam_runner out"
        )
    # No other folder has this name, wherever --beam_parts is: all of it is removed at the end.
    shared = f"{directory.parent.name}.{FOLDER}"
    folder = f"{beam.parts.rstrip('/')}/{shared}" if beam and beam.parts else str(work.absolute())
    plan = _open_plan(work, folder=folder, directory=directory)
    if plan is None:
        plan = _read_corpus(config, folder=folder, directory=directory, progress=progress)
        write_whole(work / PLAN, json.dumps(dataclasses.asdict(plan)).encode())
    if plan.characters <= SMALL:
        documents = [document for number in range(len(plan.parts)) for document in plan.read(number)]
        if problems := list(small_corpus_problems(documents, config, tokenizer=tokenizer)):
            raise DataError(*problems)
    for line in annotator_doubts(plan.beginnings, config.annotate):
        logging.warning("%s", line)
    _mark(plan, config, tokenizer, marking=marking, progress=progress)
    _put_together(plan, directory=directory, fingerprint=fingerprint, progress=progress)
    shutil.rmtree(work)
    if absolute(folder).exists():
        absolute(folder).rmtree()


# Reading.


def _open_plan(work: Path, *, folder: str, directory: Path) -> Plan | None:
    """What an earlier command read into `folder`, if that is whole and still there."""
    left_out = directory.parent / FILE
    try:
        found = parse_json((work / PLAN).read_bytes())
        plan = Plan(**{**found, "parts": [Part(**part) for part in found["parts"]]})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    whole = plan.folder == folder and all(parts.has_documents(folder, number) for number in range(len(plan.parts)))
    return plan if whole and (left_out.stat().st_size if left_out.exists() else 0) >= plan.left_out else None


def _read_corpus(config: Config, *, folder: str, directory: Path, progress: Progress) -> Plan:
    """Reads the corpus once, and writes its parts."""
    beginnings: list[str] = []
    written = []
    with left_out_beside(directory) as left_out:
        documents = read_documents(config.corpus, left_out=functools.partial(leave_out, left_out))
        seen = _beginnings(documents, into=beginnings, most=config.corpus.max_documents, progress=progress)
        for number, part in enumerate(corpus_parts(seen)):
            digest = parts.write_documents(folder, number, part)
            written.append(Part(len(part), sum(len(full_text(each)) for each in part), digest))
        left_out.flush()
        size = left_out.tell()
    return Plan(folder, size, beginnings, written)


def _beginnings(documents: Iterator[Document], *, into: list[str], most: int, progress: Progress) -> Iterator[Document]:
    """Passes documents on, and keeps how some of them begin, chosen evenly from all."""
    choice = random.Random(0)
    for count, document in enumerate(documents, start=1):
        if count <= JUDGED:
            into.append(document.text[:JUDGED_CHARACTERS])
        elif (place := choice.randrange(count)) < JUDGED:
            into[place] = document.text[:JUDGED_CHARACTERS]
        progress("read corpus", count, most or None)
        yield document


# Marking.


@dataclasses.dataclass
class _Tally:
    """Shows what is marked, document by document. done: documents of the corpus that are marked."""

    plan: Plan
    config: Config
    marking: Marking
    progress: Progress
    marked: Marked
    done: int = 0
    started: float = dataclasses.field(default_factory=time.monotonic)

    def add(self, document: Document, marks: Spans | LeftOut) -> None:
        self.done += 1
        spans = None if isinstance(marks, LeftOut) else marks
        if spans is not None and (spans.losses is not None) != annotator_has_losses(self.config.annotate):
            raise DataError(
                f"annotator {self.config.annotate.annotator}: of the document {document.id!r} it gave "
                f"{'no losses' if spans.losses is None else 'losses'}, against what its has_losses says"
            )
        seconds = time.monotonic() - self.started
        self.marked = self.marked.add(document, spans, rule=self.config.rule, seconds=seconds)
        self.marking.report(self.marked)
        self.progress("annotate", self.done, self.plan.documents)


def _mark(plan: Plan, config: Config, tokenizer: TextTokenizer | None, *, marking: Marking, progress: Progress) -> None:
    """Marks the parts that are not marked."""
    everything = range(len(plan.parts))
    kept = annotator_parts(config.annotate) != "whole"
    missing = [number for number in everything if not (kept and plan.finished(number))]
    cores = workers(config.annotate) if annotator_parts(config.annotate) == "anywhere" else 1
    if marking.beam and marking.beam.runner != "DirectRunner":
        cores = 0  # not known here
    units, each = units_of(plan.beginnings, tokenizer)
    tally = _Tally(plan, config, marking, progress, Marked(cores=cores, units=units, characters_per_unit=each))
    tally.done = plan.documents - sum(plan.parts[number].documents for number in missing)
    if tally.done:
        logging.warning("%s of %s documents are marked already", f"{tally.done:,}", f"{plan.documents:,}")
    progress("annotate", tally.done, plan.documents)  # the first batch takes a while
    if missing and marking.beam:
        _mark_with_beam(plan, missing, beam=marking.beam, config=config, tally=tally)
    elif missing:
        _mark_in_order(plan, missing, config=config, tally=tally)


def _mark_with_beam(plan: Plan, missing: list[int], *, beam: Beam, config: Config, tally: _Tally) -> None:
    """Runs the pipeline; where it fails, or a part is damaged, again for the parts that are left."""
    further = annotator_reads(config.annotate, corpus=config.corpus, directory=config.data.directory)
    run = functools.partial(
        run_pipeline,
        beam,
        folder=plan.folder,
        settings=config.annotate,
        further=further,
        workers=workers(config.annotate),
    )
    failure: BaseException | None = None
    for _ in range(_RUNS):
        failure = None
        running = _started(run, [(number, plan.parts[number].sha256) for number in missing])
        while not running.done():
            wait([running], timeout=_POLL_SECONDS)
            missing = _tally_finished(plan, missing, tally=tally)
        missing = _tally_finished(plan, missing, tally=tally)
        failure = running.exception()
        if isinstance(failure, DataError):
            raise failure
        if not missing:
            return
        logging.warning("%d parts are still to be marked (%s)", len(missing), failure)
    said = str(failure).strip().rpartition("\n")[2][:300]
    raise DataError(
        f"--beam_runner={beam.runner}: {len(missing)} of {len(plan.parts)} parts could not be marked ({said}); "
        "the same command goes on from the others"
    ) from failure


def _started(run: Callable[[Any], None], given: Any) -> Future[None]:
    """Calls `run` in a thread that the program does not wait for: after Ctrl-C, Beam waits for its workers for ever."""
    future: Future[None] = Future()

    def work() -> None:
        try:
            run(given)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=work, daemon=True).start()
    return future


def _tally_finished(plan: Plan, missing: list[int], *, tally: _Tally) -> list[int]:
    """Counts the parts of `missing` that are marked by now; returns the others."""
    left = []
    there = parts.marked_parts(plan.folder)
    for number in missing:
        marks = None
        if number in there:
            marks = parts.read_marks(plan.folder, number, sha256=plan.parts[number].sha256)
        if marks is None:
            left.append(number)
            continue
        for document, mark in zip(plan.read(number), marks, strict=True):
            tally.add(document, mark)
    return left


def _mark_in_order(plan: Plan, missing: list[int], *, config: Config, tally: _Tally) -> None:
    """Has the annotator mark the documents of these parts as one stream, and writes each part when it is whole."""
    documents = (document for number in missing for document in plan.read(number))
    marked = mark_documents(documents, config.annotate, corpus=config.corpus, directory=config.data.directory)
    for number in missing:
        marks = []
        for document, mark in in_order(plan.read(number), marked, annotator=config.annotate.annotator):
            marks.append(mark)
            tally.add(document, mark)
        parts.write_marks(plan.folder, number, marks, sha256=plan.parts[number].sha256)
    for _ in marked:  # to its end: there an annotator may look back on all documents
        pass


# Putting together.


def _put_together(plan: Plan, *, directory: Path, fingerprint: Fingerprint, progress: Progress) -> None:
    """Writes the dataset, in the order of the corpus, and notes the documents that could not be marked."""
    lost = [
        (document, mark)
        for number, part in enumerate(plan.parts)
        if parts.count_left_out(plan.folder, number, sha256=part.sha256)
        for document, mark in _marked_part(plan, number)
        if isinstance(mark, LeftOut)
    ]
    count = plan.documents - len(lost)
    if count * _USABLE < plan.documents:
        document, mark = lost[0]
        raise DataError(
            f"annotate: only {count:,} of {plan.documents:,} documents could be marked; the first of the others, "
            f"{document.id!r}, {mark.reason}"
        )
    add_left_out(directory, after=plan.left_out, records=((f"document {each.id!r}", mark) for each, mark in lost))
    whole = itertools.chain.from_iterable(_marked_part(plan, number) for number in range(len(plan.parts)))
    kept = ((document, mark) for document, mark in whole if not isinstance(mark, LeftOut))
    datasets.write_annotated(
        counted(kept, stage="write documents", total=count, progress=progress),
        directory=directory.parents[2],
        name=directory.parent.name,
        fingerprint=fingerprint,
        count=count,
        characters=plan.characters - sum(len(full_text(document)) for document, _ in lost),
    )


def _marked_part(plan: Plan, number: int) -> Iterator[tuple[Document, Spans | LeftOut]]:
    marks = parts.read_marks(plan.folder, number, sha256=plan.parts[number].sha256)
    if marks is None:
        raise DataError(
            f"{plan.folder}: the marks of part {number} are damaged; repeat the command: they are made again"
        )
    yield from zip(plan.read(number), marks, strict=True)
