"""What a trained model says of held-out documents, token by token, and the prompts that they give a cascade."""

from collections.abc import Sequence

import numpy as np

from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.data.documents import Document, Spans
from lacy_jax.evidence.reading import Reading, read_documents
from lacy_jax.evidence.run_report.page import ArticleScores

PROMPT_WORDS = 6


def article_scores(slm: LoadedModel, documents: Sequence[tuple[Document, Spans]]) -> list[ArticleScores]:
    """Call score, loss and factual flag of each document's first `context` tokens; `documents` carry selected spans."""
    return [article_of(reading, reading.said.call["call_score"]) for reading in read_documents(slm, documents)]


def article_of(reading: Reading, call_scores: np.ndarray) -> ArticleScores:
    """A document that was read, with float[N] scores of calling for its N targets."""
    # Bytes of one character share its span; the first of them shows it.
    shown = np.diff(reading.starts, prepend=-1) > 0
    spans = zip(reading.starts, reading.ends, shown, strict=True)
    return ArticleScores(
        title=reading.document.title or reading.document.id,
        tokens=[reading.text[start:end] if show else "" for start, end, show in spans],
        call_scores=call_scores,
        factual=reading.factual,
        losses=reading.said.nll,
    )


def prompt_of(document: Document) -> str:
    """The title line and the first words of a document's text."""
    opening = " ".join(document.text.split()[:PROMPT_WORDS])
    return f"{document.title}\n\n{opening}" if document.title else opening
