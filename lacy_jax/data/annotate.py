"""Marking the facts of a corpus: documents in, documents with character spans out.

Marking is the costly step, so it keeps every candidate word and leaves the choice to `select_spans` (data/factual.py),
which is applied when packing: another rule, tokenizer or window length never marks again. See docs/annotation.md.

An annotator is a module, or any object, with two functions of `AnnotateConfig`:

    mark(documents, settings) -> Iterator[tuple[Document, Spans]]    each document, in order, with its spans
    fingerprint(settings) -> dict                                    what the marks depend on, as plain JSON values

and optionally

    problems(settings) -> Iterator[str]         lines about missing files and the like, before anything begins
    doubts(texts, settings) -> Iterator[str]    lines about documents that it may mark badly, before it marks;
                                                texts: how some documents of the corpus begin
    READS = ("corpus", "directory")             what `mark` and `fingerprint` are also given, by keyword: the
                                                `CorpusConfig`, and the folder of prepared data, a str
    PARTS = "whole"         (the default) `mark` gets the whole corpus in one call, in this process
    PARTS = "in order"      the marks of a document depend on it alone, so after a kill `mark` gets only what is left
    PARTS = "anywhere"      also, several processes, on any machine, may call `mark` with any documents
    parts(settings)         one of these three, where it depends on the settings
    unneeded(settings) -> tuple[str, ...]       packages that a process that only marks need not import
    has_losses(settings) -> bool                whether spans come with `Losses`, those of all documents

In place of spans `mark` may yield `LeftOut(reason)` for a document that cannot be marked.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from lacy_jax.config import AnnotateConfig, Config, CorpusConfig, DataConfig
from lacy_jax.data.documents import Document, LeftOut, Spans
from lacy_jax.data.pool import Marks, mark_in_pool
from lacy_jax.errors import DataError
from lacy_jax.registry import Registry
from lacy_jax.runtime.cores import cores

Parts = Literal["whole", "in order", "anywhere"]
JUDGED, JUDGED_CHARACTERS = 500, 2_000  # documents whose beginnings are judged, and how much of each

ANNOTATORS = Registry(
    kind="annotator",
    group="lacy_jax.annotators",
    built_in={
        "spacy": "lacy_jax.data.annotators.spacy_words",
        "tagger": "lacy_jax.tagging.marking",
        "judge": "lacy_jax.evidence.judge_marks",
        "partner": "lacy_jax.cascade.marks.partner",
        "links": "lacy_jax.data.annotators.links",
        "spans": "lacy_jax.data.annotators.spans_file",
        "union": "lacy_jax.data.annotators.stored:UNION",
        "intersection": "lacy_jax.data.annotators.stored:INTERSECTION",
        "oracle": "lacy_jax.evidence.closed_world.world.oracle",
    },
    error=DataError,
    functions=("mark", "fingerprint"),
)


def annotate_documents(
    documents: Iterable[Document],
    config: AnnotateConfig,
    *,
    corpus: CorpusConfig = Config.corpus,
    directory: str = DataConfig.directory,
) -> Iterator[tuple[Document, Spans]]:
    """Each document with its marks, in the order of `documents`, which are read as they are needed.

    Args:
        corpus: where the documents are from. directory: of prepared data.

    Raises:
        DataError: the annotator is missing or fails, a document cannot be marked, or its marks do not fit it.
        PartnerError, JudgeError: the partner or the judge does not answer.
    """
    if workers(config) > 1 or annotator_parts(config) != "anywhere":
        return map(_with_spans, mark_documents(documents, config, corpus=corpus, directory=directory))
    annotator = ANNOTATORS.load(config.annotator)
    return map(_with_spans, annotator.mark(documents, config, **_read(annotator, corpus=corpus, directory=directory)))


def mark_documents(
    documents: Iterable[Document], config: AnnotateConfig, *, corpus: CorpusConfig, directory: str
) -> Iterator[tuple[Document, Marks]]:
    """Each document with its marks, or the reason why it has none; in processes of their own if PARTS is "anywhere".

    Raises:
        DataError: the annotator is missing, cannot start, or cannot mark many documents in a row.
        PartnerError, JudgeError: the partner or the judge does not answer.
    """
    annotator = ANNOTATORS.load(config.annotator)
    further = _read(annotator, corpus=corpus, directory=directory)
    if annotator_parts(config) == "anywhere":
        return mark_in_pool(documents, config, further=further, workers=workers(config))
    marked: Iterator[tuple[Document, Marks]] = annotator.mark(documents, config, **further)
    return marked


def in_order(
    documents: Iterable[Document], marked: Iterator[tuple[Document, Marks]], *, annotator: str
) -> Iterator[tuple[Document, Marks]]:
    """Each document with its marks, the next of `marked`.

    Raises:
        DataError: the annotator gave those of another document, or none.
    """
    for own in documents:
        document, marks = next(marked, (None, None))
        if document is None or marks is None:
            raise DataError(f"annotator {annotator}: gave no marks for {own.id!r}")
        if document.id != own.id:
            raise DataError(f"annotator {annotator}: gave {document.id!r} in place of {own.id!r}")
        yield own, marks


def annotator_parts(config: AnnotateConfig) -> Parts:
    """In what parts a corpus may be marked, as the annotator says."""
    annotator = ANNOTATORS.load(config.annotator)
    found: Parts = annotator.parts(config) if hasattr(annotator, "parts") else getattr(annotator, "PARTS", "whole")
    return found


def annotator_has_losses(config: AnnotateConfig) -> bool:
    """Whether the marks come with what a model pays for the text (`documents.Losses`)."""
    annotator = ANNOTATORS.load(config.annotator)
    return hasattr(annotator, "has_losses") and bool(annotator.has_losses(config))


def workers(config: AnnotateConfig) -> int:
    """The number of processes that mark on this machine."""
    return config.workers or cores()


def _with_spans(marked: tuple[Document, Marks]) -> tuple[Document, Spans]:
    document, spans = marked
    if isinstance(spans, LeftOut):
        raise DataError(f"annotate: the document {document.id!r} {spans.reason}")
    return document, spans


def annotator_doubts(texts: Sequence[str], config: AnnotateConfig) -> Iterator[str]:
    """Lines about marks that may not be what the rule asks for, in such texts. Raises as `annotator_fingerprint`."""
    annotator = ANNOTATORS.load(config.annotator)
    if hasattr(annotator, "doubts"):
        yield from annotator.doubts(texts, config)


def annotator_fingerprint(
    config: AnnotateConfig, *, corpus: CorpusConfig = Config.corpus, directory: str = DataConfig.directory
) -> dict[str, Any]:
    """What the marks depend on beside the text, as plain JSON values. Arguments as for `annotate_documents`.

    Raises:
        DataError, PartnerError, JudgeError: what it needs is missing.
    """
    annotator = ANNOTATORS.load(config.annotator)
    own: dict[str, Any] = annotator.fingerprint(config, **_read(annotator, corpus=corpus, directory=directory))
    return {"annotator": config.annotator} | own


def annotator_reads(config: AnnotateConfig, *, corpus: CorpusConfig, directory: str) -> dict[str, Any]:
    """What `mark` is given beside the settings of the annotator."""
    return _read(ANNOTATORS.load(config.annotator), corpus=corpus, directory=directory)


def _read(annotator: Any, **known: Any) -> dict[str, Any]:
    """What the annotator is given beside its settings."""
    return {name: known[name] for name in getattr(annotator, "READS", ())}
