"""What a trained model says of held-out documents, token by token, and the prompts that they give a cascade."""

from collections.abc import Sequence

import jax
import numpy as np

from lacy_jax import objective
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.data.documents import Document, Spans, full_text
from lacy_jax.data.factual import factual_tokens
from lacy_jax.evidence.run_report.page import ArticleScores
from lacy_jax.model import decoder

PROMPT_WORDS = 6


def article_scores(
    loaded: LoadedModel, documents: Sequence[tuple[Document, Spans]], *, batch_size: int = 8
) -> list[ArticleScores]:
    """Call score, loss and factual flag of each document's first `context` tokens; `documents` carry selected spans."""
    context, tokenizer = loaded.model.context, loaded.tokenizer

    @jax.jit
    def scores(params: decoder.Params, tokens_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        hidden_BTD = decoder.forward(params, tokens_BT[:, :-1], config=loaded.model)
        matrix = decoder.output_matrix(params)
        scalars = objective.head_scalars(hidden_BTD, matrix, tokens_BT[:, 1:], tokenizer.call_id)
        return objective.call_log_odds(scalars), objective.nll_without_call(scalars)

    articles = []
    for start in range(0, len(documents), batch_size):
        group = documents[start : start + batch_size]
        encodings = [tokenizer.encode(full_text(document)) for document, _ in group]
        # As in training, a document follows the end of another one.
        tokens_BT = np.full((batch_size, context + 1), tokenizer.end_id, np.int32)
        for row, encoding in enumerate(encodings):
            ids = encoding.ids[:context]
            tokens_BT[row, 1 : 1 + len(ids)] = ids
        call_scores, losses = (np.asarray(x) for x in scores(loaded.params, tokens_BT))
        for row, ((document, spans), encoding) in enumerate(zip(group, encodings, strict=True)):
            text, length = full_text(document), min(len(encoding.ids), context)
            starts, ends = encoding.starts[:length], encoding.ends[:length]
            # Bytes of one character share its span; the first of them shows it.
            first = np.diff(starts, prepend=-1) > 0
            articles.append(
                ArticleScores(
                    title=document.title or document.id,
                    tokens=[text[a:b] if show else "" for a, b, show in zip(starts, ends, first, strict=True)],
                    call_scores=call_scores[row, :length],
                    factual=factual_tokens(starts, ends, text=text, spans=spans, sub_tokens="all"),
                    losses=losses[row, :length],
                )
            )
    return articles


def prompt_of(document: Document) -> str:
    """The title line and the first words of a document's text."""
    opening = " ".join(document.text.split()[:PROMPT_WORDS])
    return f"{document.title}\n\n{opening}" if document.title else opening
