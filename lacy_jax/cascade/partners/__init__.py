"""Who answers a call. One question: what comes next in each of these texts?"""

import importlib.metadata
import os
from collections.abc import Sequence
from typing import Protocol

from lacy_jax.config import CascadeConfig, CorpusConfig, Span
from lacy_jax.errors import DataError, PartnerError, did_you_mean

__all__ = ["ENTRY_POINTS", "FORMS", "Partner", "PartnerError", "make_partner"]

FORMS = (
    "documents, documents:FILE.jsonl, checkpoint:PATH, the path of a checkpoint, database:FILE.sqlite,"
    " http://HOST:PORT/v1, none"
)
_KINDS = ("documents", "checkpoint", "database", "http", "none")
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
    span: Span = CascadeConfig.span,
    timeout: float = CascadeConfig.timeout,
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
    kind, argument = read_spec(spec)
    if kind == "none":
        return None
    if kind == "documents":
        from lacy_jax.cascade.partners.documents import Documents, open_store

        source = CorpusConfig(name="jsonl", files=argument) if argument else corpus
        return Documents(open_store(source, directory=directory), span=span, name=spec)
    if kind == "database":
        from lacy_jax.cascade.partners.database import Database, open_facts

        return Database(open_facts(argument, directory=directory), span=span, name=spec)
    if kind == "http":
        return _http(argument, span=span, timeout=timeout)
    if kind == "checkpoint":
        from lacy_jax.cascade.partners.checkpoint import CheckpointPartner  # needs JAX, which others do without
        from lacy_jax.checkpoints.loading import load_model

        return CheckpointPartner(load_model(argument), slots=batch_size, span=span, name=f"checkpoint:{argument}")
    return _registered(_entries()[kind], argument, span=span, timeout=timeout)


def read_spec(spec: str) -> tuple[str, str]:
    """The kind of a partner and its argument: which of FORMS `spec` is, or the name of an entry point. Opens nothing.

    Raises:
        PartnerError: it is none of them; says which form is meant, where that can be guessed.
    """
    kind, colon, rest = spec.partition(":")
    if spec in ("none", "documents") or (kind in ("documents", "database", "checkpoint") and rest):
        return kind, rest
    if kind in ("http", "https") and rest.startswith("//"):
        return "http", spec
    entries = _entries()
    if kind in entries:
        return kind, rest
    if not colon and os.path.isdir(spec):
        return "checkpoint", spec
    registered = ", ".join(sorted(entries)) or "none"
    raise PartnerError(
        f"unknown partner {spec!r}; allowed: {FORMS}; registered by packages: {registered}"
        f"{_meant(spec, [*_KINDS, *entries])}"
    )


def check_partner(spec: str) -> None:
    """Returns where `spec` is a partner's and the file or folder that it names is there; opens nothing.

    Raises:
        PartnerError, DataError, CheckpointError: it is not.
    """
    kind, argument = read_spec(spec)
    if kind == "documents" and argument:
        from lacy_jax.data.corpora import jsonl

        for problem in jsonl.problems(CorpusConfig(name="jsonl", files=argument)):
            raise DataError(problem.replace("config.corpus.files", "documents", 1))
    elif kind == "database" and not os.path.isfile(os.path.expanduser(argument)):
        raise PartnerError(f"database: no such file: {argument}")
    elif kind == "checkpoint" and not os.path.isfile(os.path.join(argument, "config.json")):  # of a Hugging Face folder
        from lacy_jax.checkpoints.format import find_checkpoint

        find_checkpoint(argument)


def _meant(spec: str, kinds: Sequence[str]) -> str:
    """The form that somebody meant who wrote a file's name alone, or a kind that is not quite one."""
    if spec.endswith((".csv", ".tsv", ".sqlite", ".db")):
        return f"; did you mean database:{spec}?"
    if spec.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
        return f"; did you mean documents:{spec}?"
    if spec.endswith(".gguf"):
        return "; a GGUF file is not read here; serve it (llama-server) and give its address, http://HOST:PORT/v1"
    if os.path.isfile(spec):
        return "; it is a file, and a checkpoint is a folder"
    if "/" in spec:
        return "; there is no such folder"
    return did_you_mean(spec.partition(":")[0], kinds)


def _entries() -> dict[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}


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
