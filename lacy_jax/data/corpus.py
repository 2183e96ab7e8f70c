"""Where documents come from: an installed data package, JSON-lines files, or a TFDS dataset.

Documents are streamed, one at a time, in a fixed order. Which split a document belongs to is a
function of its id alone, so it never changes when others are added or removed.
"""

import contextlib
import dataclasses
import glob
import gzip
import hashlib
import importlib.metadata
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

from lacy_jax.config import CorpusConfig

Split = Literal["train", "validation"]

_TITLE_END = "\n\n"
_SURROGATE = re.compile("[\ud800-\udfff]")


class DataError(ValueError):
    """Input data, or prepared data, that cannot be used: says what, where and what to do."""


@dataclasses.dataclass(frozen=True)
class Document:
    """One document; `title` is "" where there is none. No string holds a lone surrogate."""

    id: str
    title: str
    text: str


def full_text(document: Document) -> str:
    """What the model reads: the title, an empty line and the text; or the text alone."""
    return document.title + _TITLE_END + document.text if document.title else document.text


def text_offset(document: Document) -> int:
    """The character of `full_text(document)` at which `document.text` starts."""
    return len(document.title) + len(_TITLE_END) if document.title else 0


def split_of(document_id: str, *, validation_share: float) -> Split:
    """The split of a document, by a hash of its id: stable across machines, runs and corpora."""
    digest = hashlib.blake2b(document_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return "validation" if int.from_bytes(digest, "big") < validation_share * 2.0**64 else "train"
