"""Documents and windows of prepared data as views, and what is said of the data as a whole."""

from collections.abc import Iterable, Iterator

import numpy as np

from lacy_jax.data.documents import full_text, split_of
from lacy_jax.data.marks import who_marked
from lacy_jax.errors import ConfigError
from lacy_jax.evidence.inspector.choice import Part, Source
from lacy_jax.evidence.inspector.pieces import (
    View,
    document_counts,
    document_pieces,
    joined,
    window_counts,
    window_pieces,
)


def described(source: Source) -> list[str]:
    """Who marked the data, and the rule that it is shown by."""
    rule = source.rule
    left_out = [
        *(["without subjects"] if rule.exclude_subjects else []),
        *(["first mentions alone"] if rule.first_mention_only else []),
        *(["first tokens alone"] if rule.sub_tokens == "first" else []),
    ]
    return [f"marked by {who_marked(source.fingerprint['annotator'])}", f"rule: {', '.join([rule.kinds, *left_out])}"]


def views(source: Source, numbers: Iterable[int], *, part: Part, tokens: bool) -> Iterator[View]:
    """A view of each document or window. tokens: show where each token begins.

    Raises:
        ConfigError: the borders of tokens are asked for, and no tokenizer is known.
        DataError: a record is damaged.
    """
    show = _document if part == "documents" else _window
    return (show(source, number, part=part, tokens=tokens) for number in numbers)


def _document(source: Source, number: int, *, part: Part, tokens: bool) -> View:
    del part
    assert source.documents is not None
    tokenizer = source.packed.tokenizer if source.packed and tokens else None
    if tokens and tokenizer is None:
        raise ConfigError("--tokens: documents alone have no tokenizer; name a packed folder, with --of=documents")
    document, spans = source.documents[number]
    counts = document_counts(spans, source.rule)
    factual = sum(count for (mark, _), count in counts.items() if mark == "factual")
    split = ""
    if source.packed is not None:
        split = f", {split_of(document.id, validation_share=source.packed.fingerprint['validation_share'])}"
    return View(
        title=f"document {number}: {document.title or document.id}",
        about=(
            f"id {document.id}{split}",
            f"{len(full_text(document)):,} characters; words marked: {len(spans):,}, factual: {factual:,}",
        ),
        pieces=document_pieces(document, spans, rule=source.rule, tokenizer=tokenizer),
        counts=counts,
    )


def _window(source: Source, number: int, *, part: Part, tokens: bool) -> View:
    assert source.packed is not None
    record = (source.packed.train if part == "train" else source.packed.validation)[number]
    pieces = window_pieces(record, tokenizer=source.packed.tokenizer)
    counts = window_counts(pieces)
    return View(
        title=f"window {number} of the split {part}",
        about=(
            f"tokens: {len(pieces):,}, of which the first is read and the others are targets; factual targets: "
            f"{int(np.count_nonzero(record['factual'][1 : len(pieces)])):,}; ends of documents: {counts['end', '']}",
        ),
        pieces=pieces if tokens else joined(pieces),
        counts=counts,
        padding=len(record["tokens"]) - len(pieces),
    )
