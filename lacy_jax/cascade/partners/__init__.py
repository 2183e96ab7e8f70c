"""Who answers a call. One question: what comes next in each of these texts?"""

import os
from collections.abc import Sequence
from typing import Protocol

from lacy_jax.config import CorpusConfig

FORMS = "documents, documents:FILE.jsonl, checkpoint:PATH, the path of a checkpoint, none"


class Partner(Protocol):
    """An outside source of text."""

    @property
    def name(self) -> str:
        """How it is named in results and messages."""
        ...

    def complete(self, texts: Sequence[str]) -> list[str]:
        """The next piece of each text, leading white space included; "" where it has nothing to say.

        A text's piece must not depend on the texts beside it. An exception is taken for a batch that failed:
        the texts are asked again one by one, and only those that fail again go unanswered.
        """
        ...


class PartnerError(ValueError):
    """A partner that cannot be made: says what was asked for and what is allowed."""


def make_partner(spec: str, *, corpus: CorpusConfig, directory: str, batch_size: int = 8) -> Partner | None:
    """The partner that `spec` names (see FORMS); None for "none": never call.

    Args:
        spec: "documents" searches `corpus`; "documents:FILE" JSON-lines files in its stead.
        corpus: what an SLM's own settings name as its corpus.
        directory: where indexes of documents are kept, usually that of the prepared data.
        batch_size: how many texts a checkpoint works on at once.

    Raises:
        PartnerError: a spec of none of the forms.
        DataError, CheckpointError: what it names cannot be used.
    """
    kind, colon, rest = spec.partition(":")
    if spec == "none":
        return None
    if kind == "documents" and (rest or not colon):
        from lacy_jax.cascade.partners.documents import Documents, open_store  # needs no JAX

        source = CorpusConfig(name="jsonl", files=rest) if rest else corpus
        return Documents(open_store(source, directory=directory), name=spec)
    if (kind == "checkpoint" and rest) or os.path.exists(spec):
        from lacy_jax.cascade.partners.checkpoint import CheckpointPartner
        from lacy_jax.checkpoint import load_model

        path = rest if kind == "checkpoint" and rest else spec
        return CheckpointPartner(load_model(path), slots=batch_size, name=f"checkpoint:{path}")
    raise PartnerError(f"unknown partner {spec!r}; allowed: {FORMS}")
