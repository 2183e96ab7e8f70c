"""Which facts a partner knows: it is asked with the text before each; the answer is compared with what stands there."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lacy_jax.cascade import Partner
from lacy_jax.cascade.marks.asking import BATCH, question, stands_at
from lacy_jax.cascade.partners.guard import Guard
from lacy_jax.data.documents import Document, Spans, full_text
from lacy_jax.data.factual import keep_spans
from lacy_jax.errors import PartnerError

Marked = list[tuple[Document, Spans]]


@dataclass(frozen=True)
class Answers:
    """Of `asked` facts, those that a partner answered as the text goes on, and those that it did not answer."""

    asked: int
    right: int
    unanswered: int


def known(
    documents: Marked, partner: Partner, *, timeout: float, progress: Callable[[str, int, int | None], None]
) -> tuple[Marked, Answers]:
    """The documents with those of their spans alone that the partner answers right, and how often it did.

    Args:
        timeout: seconds for BATCH questions; a later answer is none.

    Raises:
        PartnerError: it answered no question at all.
    """
    guard = Guard(partner, timeout=timeout)
    texts = [full_text(document) for document, _ in documents]
    places = [(text, int(start)) for text, (_, spans) in zip(texts, documents, strict=True) for start in spans.starts]
    answers: list[str] = []
    for first in range(0, len(places), BATCH):
        answers += guard.complete([question(text, start) for text, start in places[first : first + BATCH]])
        progress("ask the partner", len(answers), len(places))
    if places and not any(answers):
        reasons = ", ".join(guard.reasons) or "it had nothing to say"
        raise PartnerError(f"partner {guard.name}: none of {len(places):,} questions was answered ({reasons})")
    right = np.array([stands_at(*place, answer) for place, answer in zip(places, answers, strict=True)], bool)
    parts = np.split(right, np.cumsum([len(spans) for _, spans in documents])[:-1])
    kept = [(document, keep_spans(spans, part)) for (document, spans), part in zip(documents, parts, strict=True)]
    return kept, Answers(asked=len(places), right=int(right.sum()), unanswered=answers.count(""))
