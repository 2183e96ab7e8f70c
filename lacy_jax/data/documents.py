"""Documents, the spans marked in them, and which split each belongs to."""

import dataclasses
import hashlib
import re
from typing import Literal

import numpy as np

Split = Literal["train", "validation"]
_TITLE_END = "\n\n"
BEGINNING = 200  # characters of what is left out
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Document:
    """One document; `title` is "" where there is none. No string holds a lone surrogate."""

    id: str
    title: str
    text: str


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A record of a corpus that cannot be a document.

    reason: why, in one line. beginning: how its content begins, at most `BEGINNING` characters.
    """

    reason: str
    beginning: str = ""


def full_text(document: Document) -> str:
    """What the model reads: the title, an empty line and the text; or the text alone."""
    return document.title + _TITLE_END + document.text if document.title else document.text


def text_offset(document: Document) -> int:
    """The character of `full_text(document)` at which `document.text` starts."""
    return len(document.title) + len(_TITLE_END) if document.title else 0


def clean_text(text: str) -> str:
    """The text with U+FFFD in place of every lone surrogate."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def split_of(document_id: str, *, validation_share: float) -> Split:
    """The split of a document, by a hash of its id: stable across machines, runs and corpora."""
    digest = hashlib.blake2b(document_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return "validation" if int.from_bytes(digest, "big") < validation_share * 2.0**64 else "train"


@dataclasses.dataclass(frozen=True, eq=False)
class Losses:
    """What a model pays for a text, as M of its own tokens in a row, from the text's beginning.

    ends: int32[M], where each ends, a character of `full_text(document)`; not decreasing. nats: float32[M], the NLL of
    each, all before it given.
    """

    ends: np.ndarray
    nats: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Spans:
    """N marked spans of one document, ordered by start.

    starts, ends: int32[N], character offsets into `full_text(document)`; 0 <= start < end.
    kinds: N names: an entity label ("GPE", "DATE", ...), else "PROPN" or "NUM"; a spans file brings its own.
    subject: bool[N], the word is part of a grammatical subject.
    repeated: bool[N], its lower-cased form occurred earlier in the document, title included.
    losses: what the partner that made the marks pays for the whole text, if it is a model.
    """

    starts: np.ndarray
    ends: np.ndarray
    kinds: tuple[str, ...]
    subject: np.ndarray
    repeated: np.ndarray
    losses: Losses | None = None

    def __len__(self) -> int:
        return len(self.kinds)


NO_SPANS = Spans(
    starts=np.empty(0, np.int32),
    ends=np.empty(0, np.int32),
    kinds=(),
    subject=np.empty(0, bool),
    repeated=np.empty(0, bool),
)
