"""Marking the facts of a corpus: documents in, documents with character spans out.

Marking is the costly step, so it keeps every candidate word and leaves the choice to `select_spans` (data/factual.py),
which is applied when packing: another rule, tokenizer or window length never marks again. See docs/annotation.md.

An annotator is a module, or any object, with two functions of `AnnotateConfig`:

    mark(documents, settings) -> Iterator[tuple[Document, Spans]]    each document, in order, with its spans
    fingerprint(settings) -> dict                                    what the marks depend on, as plain JSON values

and optionally

    problems(settings) -> Iterator[str]         lines about missing files and the like, said before the start
    doubts(texts, settings) -> Iterator[str]    lines about documents that it may mark badly, said before it marks them;
                                                texts: how some documents of the corpus begin
    READS = ("corpus", "directory")             what `mark` and `fingerprint` are also given, by keyword: the
                                                `CorpusConfig`, and the folder of prepared data, a str
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lacy_jax.config import AnnotateConfig, Config, CorpusConfig, DataConfig
from lacy_jax.data.documents import Document, Spans
from lacy_jax.errors import DataError
from lacy_jax.registry import Registry

JUDGED, JUDGED_CHARACTERS = 500, 2_000  # documents whose beginnings are judged, and how much of each

ANNOTATORS = Registry(
    kind="annotator",
    group="lacy_jax.annotators",
    built_in={
        "spacy": "lacy_jax.data.annotators.spacy_words",
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
        DataError: the annotator is missing or fails, or its marks do not fit the documents.
        PartnerError, JudgeError: who is asked for the marks does not answer.
    """
    annotator = ANNOTATORS.load(config.annotator)
    further = _read(annotator, corpus=corpus, directory=directory)
    marked: Iterator[tuple[Document, Spans]] = annotator.mark(documents, config, **further)
    return marked


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


def _read(annotator: Any, **known: Any) -> dict[str, Any]:
    """What the annotator is given beside its settings."""
    return {name: known[name] for name in getattr(annotator, "READS", ())}
