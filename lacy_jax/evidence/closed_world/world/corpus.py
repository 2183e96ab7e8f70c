"""The corpus biographies: what `lacy_jax.data.corpus` asks of the closed world."""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

from lacy_jax.config import CorpusConfig
from lacy_jax.data.documents import Document
from lacy_jax.evidence.closed_world.world.grammar import words_text
from lacy_jax.evidence.closed_world.world.writing import biographies

GENERATOR = 1  # raise it when the same settings and words give other texts


def documents(settings: CorpusConfig) -> Iterator[tuple[str, Document]]:
    """Biographies of invented people (docs/biographies.md)."""
    for biography in biographies(settings.biographies):
        yield f"biography {biography.document.id}", biography.document


def fingerprint(settings: CorpusConfig) -> dict[str, Any]:
    """The world's settings, its words and the generator."""
    digest = hashlib.sha256(words_text().encode()).hexdigest()
    return dataclasses.asdict(settings.biographies) | {"generator": GENERATOR, "words": digest}
