"""A document or a packed window cut into pieces, each with what the rule made of it."""

import codecs
import collections
import itertools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from lacy_jax.config import RuleConfig
from lacy_jax.data.datasets import Record
from lacy_jax.data.documents import Document, Spans, full_text
from lacy_jax.data.factual import factual_tokens, select_spans
from lacy_jax.data.tokenizer import TextTokenizer

Mark = Literal["plain", "factual", "subject", "repeated", "kind", "context", "end"]
"""What the rule made of some text: nothing marks it; it is factual; it is marked, but left out as part of a subject, as
said before, or for its kind; it is the first token of a window, which is read but not asked for; it ends a document."""

LEFT_OUT: tuple[Mark, ...] = ("subject", "repeated", "kind")
Counts = collections.Counter[tuple[Mark, str]]


@dataclass(frozen=True)
class Piece:
    """Some text. kind: as the annotator calls what it marked, or "". token: its id where it is a token, else -1."""

    text: str
    mark: Mark = "plain"
    kind: str = ""
    token: int = -1


@dataclass(frozen=True)
class View:
    """A document or window to look at.

    about: what is said of it, one line each. pieces: their texts joined are its text. padding: tokens after the last.
    counts: words (of a window: tokens) by mark and kind.
    """

    title: str
    about: tuple[str, ...]
    pieces: tuple[Piece, ...]
    counts: Counts
    padding: int = 0


def marks_of(spans: Spans, rule: RuleConfig) -> list[Mark]:
    """What `rule` makes of each span."""
    chosen = select_spans(spans, replace(rule, exclude_subjects=False, first_mention_only=False))
    asked = set(chosen.kinds)
    found: list[Mark] = []
    for kind, subject, repeated in zip(spans.kinds, spans.subject, spans.repeated, strict=True):
        if kind not in asked:
            found.append("kind")
        elif subject and rule.exclude_subjects:
            found.append("subject")
        else:
            found.append("repeated" if repeated and rule.first_mention_only else "factual")
    return found


def document_pieces(
    document: Document, spans: Spans, *, rule: RuleConfig, tokenizer: TextTokenizer | None = None
) -> tuple[Piece, ...]:
    """The full text of a document by its marks: of words, or with a tokenizer of each token, as they are packed."""
    text, marks = full_text(document), marks_of(spans, rule)
    owner = _owners(len(text), spans, marks)
    if tokenizer is not None:
        return tuple(_token_pieces(text, spans, marks, owner=owner, rule=rule, tokenizer=tokenizer))
    edges = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(text)]
    pieces = (
        Piece(text[low:high], *_mark_at(owner[low], spans, marks))
        for low, high in itertools.pairwise(edges)
        if low < high
    )
    return tuple(_phrases(pieces))


def document_counts(spans: Spans, rule: RuleConfig) -> Counts:
    """How many marked words there are of each mark and kind."""
    return collections.Counter(zip(marks_of(spans, rule), spans.kinds, strict=True))


def window_pieces(record: Record, *, tokenizer: TextTokenizer) -> tuple[Piece, ...]:
    """The tokens of a packed window, a piece each, without its padding."""
    length = int(record["length"])
    ids, factual = record["tokens"][:length].tolist(), record["factual"][:length].tolist()
    pieces = []
    for place, (index, text) in enumerate(zip(ids, token_texts(ids, tokenizer), strict=True)):
        mark: Mark = "end" if index == tokenizer.end_id else "factual" if factual[place] else "plain"
        pieces.append(Piece(text, "context" if place == 0 and mark != "end" else mark, token=index))
    return tuple(pieces)


def window_counts(pieces: Iterable[Piece]) -> Counts:
    """How many tokens there are of each mark."""
    return collections.Counter((piece.mark, piece.kind) for piece in pieces)


def joined(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """Neighbours of one mark and kind as one piece, without their tokens' borders; ends of documents stay apart.

    The space that a marked piece begins with goes to the piece before it.
    """
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if last is not None and piece.mark != "end" and (last.mark, last.kind) == (piece.mark, piece.kind):
            found[-1] = replace(last, text=last.text + piece.text)
            continue
        if last is not None and last.mark == "plain" and piece.text.startswith(" "):
            found[-1] = replace(last, text=f"{last.text} ")
            piece = replace(piece, text=piece.text[1:])
        found.append(replace(piece, token=-1))
    return tuple(found)


def carried(text: str) -> str:
    """The text, for where something stands before it: a letter for a mark to combine with, if it begins with one."""
    return f"◌{text}" if text and unicodedata.category(text[0]).startswith("M") else text


def token_texts(ids: Sequence[int], tokenizer: TextTokenizer) -> list[str]:
    """What each token adds to the text: "" where a character is not complete; U+FFFD for bytes that are no UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    texts = [decoder.decode(tokenizer.decode_bytes([index]), index == tokenizer.end_id) for index in ids]
    if texts:
        texts[-1] += decoder.decode(b"", True)
    return texts


def _owners(length: int, spans: Spans, marks: Sequence[Mark]) -> np.ndarray:
    """int32[length], the span that each character belongs to: a factual one before others, the first of several."""
    owner = np.full(length, -1, np.int32)
    order = sorted(range(len(spans)), key=lambda index: (marks[index] == "factual", -index))
    for index in order:
        owner[spans.starts[index] : spans.ends[index]] = index
    return owner


def _mark_at(owner: int, spans: Spans, marks: Sequence[Mark]) -> tuple[Mark, str]:
    return ("plain", "") if owner < 0 else (marks[owner], spans.kinds[owner])


def _phrases(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Words of one mark and kind that only spaces part as one piece."""
    waiting: list[Piece] = []  # a marked piece, then perhaps spaces after it
    for piece in pieces:
        if waiting and waiting[0].mark == piece.mark != "plain" and waiting[0].kind == piece.kind:
            waiting = [replace(piece, text="".join(each.text for each in (*waiting, piece)))]
        elif len(waiting) == 1 and piece.mark == "plain" and not piece.text.strip(" "):
            waiting.append(piece)
        else:
            yield from waiting
            waiting = [piece] if piece.mark != "plain" else []
            if not waiting:
                yield piece
    yield from waiting


def _token_pieces(
    text: str,
    spans: Spans,
    marks: Sequence[Mark],
    *,
    owner: np.ndarray,
    rule: RuleConfig,
    tokenizer: TextTokenizer,
) -> Iterator[Piece]:
    encoding = tokenizer.encode(text)
    factual = factual_tokens(
        encoding.starts, encoding.ends, text=text, spans=select_spans(spans, rule), sub_tokens=rule.sub_tokens
    )
    shown = 0
    for index, start, end, flag in zip(
        encoding.ids.tolist(), encoding.starts.tolist(), encoding.ends.tolist(), factual.tolist(), strict=True
    ):
        if start > shown:  # what another tokenizer leaves out
            yield Piece(text[shown:start])
        owners = [int(owner[place]) for place in range(start, end) if owner[place] >= 0 and not text[place].isspace()]
        own = [_mark_at(each, spans, marks) for each in owners]
        mark, kind = next((each for each in own if (each[0] == "factual") == flag), ("plain", ""))
        yield Piece(text[max(start, shown) : end], "factual" if flag else mark, kind, token=index)
        shown = max(shown, end)
    if shown < len(text):
        yield Piece(text[shown:])
