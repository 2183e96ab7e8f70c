"""Who answers a call. One question: what comes next in each of these texts?"""

import importlib.metadata
import os
from collections.abc import Sequence
from typing import Protocol

from lacy_jax.config import CorpusConfig, Span
from lacy_jax.errors import PartnerError

__all__ = ["ENTRY_POINTS", "FORMS", "Partner", "PartnerError", "make_partner"]

FORMS = (
    "documents, documents:FILE.jsonl, checkpoint:PATH, the path of a checkpoint, database:FILE.sqlite,"
    " http://HOST:PORT/v1, none"
)
# Where packages register partners of their own; see `make_partner`.
ENTRY_POINTS = "lacy_jax.partners"


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


def make_partner(
    spec: str,
    *,
    corpus: CorpusConfig,
    directory: str,
    batch_size: int = 8,
    span: Span = "word",
    timeout: float = 30.0,
) -> Partner | None:
    """The partner that `spec` names (see FORMS); None for "none": never call.

    Any other NAME or NAME:ARGUMENT is looked up among the entry points of the group "lacy_jax.partners". Each is a
    callable, (argument: str, *, span: Span, timeout: float) -> Partner.

    Args:
        spec: "documents" searches `corpus`; "documents:FILE" JSON-lines files in its stead.
        corpus: what an SLM's own settings name as its corpus.
        directory: where indexes are kept, usually that of the prepared data.
        batch_size: how many texts a checkpoint works on at once.
        span: how far the partner writes at a call.
        timeout: seconds for a question, where the partner can keep to a time.

    Raises:
        PartnerError: a spec of none of the forms, or a partner that cannot be made of it.
        DataError, CheckpointError: what it names cannot be used.
    """
    kind, colon, rest = spec.partition(":")
    if spec == "none":
        return None
    if kind == "documents" and (rest or not colon):
        from lacy_jax.cascade.partners.documents import Documents, open_store

        source = CorpusConfig(name="jsonl", files=rest) if rest else corpus
        return Documents(open_store(source, directory=directory), span=span, name=spec)
    if kind == "database" and rest:
        from lacy_jax.cascade.partners.database import Database, open_facts

        return Database(open_facts(rest, directory=directory), span=span, name=spec)
    if kind in ("http", "https") and rest.startswith("//"):
        return _http(spec, span=span, timeout=timeout)
    entries = {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if kind in entries:
        return _registered(entries[kind], rest, span=span, timeout=timeout)
    if (kind == "checkpoint" and rest) or os.path.exists(spec):
        from lacy_jax.cascade.partners.checkpoint import CheckpointPartner  # needs JAX, which others do without
        from lacy_jax.checkpoints.loading import load_model

        path = rest if kind == "checkpoint" and rest else spec
        return CheckpointPartner(load_model(path), slots=batch_size, span=span, name=f"checkpoint:{path}")
    known = ", ".join(sorted(entries)) or "none"
    raise PartnerError(f"unknown partner {spec!r}; allowed: {FORMS}; registered by packages: {known}")


def _http(spec: str, *, span: Span, timeout: float) -> Partner:
    try:
        from lacy_jax.cascade.partners.http import HttpPartner, parse_address
    except ImportError as error:
        raise PartnerError(f"a partner behind http needs httpx ({error}): pip install httpx") from error
    return HttpPartner(parse_address(spec), span=span, timeout=timeout, name=spec)


def _registered(entry: importlib.metadata.EntryPoint, argument: str, *, span: Span, timeout: float) -> Partner:
    """The partner that another package's entry point makes; its errors become ours."""
    where = f"partner {entry.name!r} (entry point {entry.value!r})"
    try:
        factory = entry.load()
    except Exception as error:
        raise PartnerError(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
    try:
        partner = factory(argument, span=span, timeout=timeout)
    except PartnerError:
        raise
    except Exception as error:
        raise PartnerError(f"{where} cannot be made of {argument!r}: {type(error).__name__}: {error}") from error
    if not isinstance(getattr(partner, "name", None), str) or not callable(getattr(partner, "complete", None)):
        raise PartnerError(f"{where} made a {type(partner).__name__}, which has no name and complete(texts)")
    made: Partner = partner
    return made
