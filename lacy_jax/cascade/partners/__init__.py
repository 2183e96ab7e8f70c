"""Who answers a call. One question: what comes next in each of these texts?"""

import os
import pkgutil
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lacy_jax.config import CascadeConfig, CorpusConfig, Span
from lacy_jax.errors import DataError, PartnerError, did_you_mean
from lacy_jax.paths import expand_home, expand_homes
from lacy_jax.registry import Registry

FORMS = (
    "documents, documents:FILE.jsonl, checkpoint:PATH, the path of a checkpoint, database:FILE.sqlite,"
    " http://HOST:PORT/v1, reader:MODEL[@FILE.jsonl], world[:known=SHARE,...], none"
)
# Ours are made of a `Wanted`; those of packages by (argument: str, *, span: Span, timeout: float) -> Partner.
PARTNERS = Registry(
    kind="partner",
    group="lacy_jax.partners",
    built_in={
        "documents": "lacy_jax.cascade.partners.documents:from_spec",
        "database": "lacy_jax.cascade.partners.database:from_spec",
        "http": "lacy_jax.cascade.partners.http:from_spec",
        "https": "lacy_jax.cascade.partners.http:from_spec",
        "checkpoint": "lacy_jax.cascade.partners.checkpoint:from_spec",
        "reader": "lacy_jax.cascade.partners.reader:from_spec",
        "world": "lacy_jax.evidence.closed_world.world.partner:from_spec",
    },
    error=PartnerError,
)
_HOST = re.compile(r"[\w.-]+:\d+(/.*)?")
# Its last @ stands before the documents; one before a server's host does not.
_READER = re.compile(r"((?:https?://[^/]*)?.*?)(?:@([^@]*))?", re.DOTALL)


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


@dataclass(frozen=True)
class Wanted:
    """A partner of ours that is to be made: what `make_partner` is given, and the `argument` after the spec's form."""

    spec: str
    argument: str
    corpus: CorpusConfig
    directory: str
    batch_size: int
    span: Span
    timeout: float


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

    Any other NAME or NAME:ARGUMENT is looked up among the entry points of the group "lacy_jax.partners".

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
    form, argument = read_spec(spec)
    if form == "none":
        return None
    factory = _load(form)
    if form not in PARTNERS.built_in:
        return _registered(factory, form, argument, span=span, timeout=timeout)
    wanted = Wanted(
        spec, argument, corpus=corpus, directory=directory, batch_size=batch_size, span=span, timeout=timeout
    )
    made: Partner = factory(wanted)
    return made


def read_spec(spec: str) -> tuple[str, str]:
    """The form of a partner and its argument: which of FORMS `spec` is, or the name of an entry point. Opens nothing.

    Paths of our own forms begin with the home folder where `spec` has ~.

    Raises:
        PartnerError: it is none of them; says which form is meant, where that can be guessed.
    """
    form, colon, argument = spec.partition(":")
    packages = [name for name in PARTNERS.names() if name not in PARTNERS.built_in]
    complete = {
        "none": not colon,
        "documents": bool(argument) or not colon,
        "database": bool(argument),
        "checkpoint": bool(argument),
        "reader": bool(argument),
        "world": bool(argument) or not colon,
        "http": argument.startswith("//"),
        "https": argument.startswith("//"),
    }
    if complete.get(form, form in packages):
        expand = {"documents": expand_homes, "database": expand_home, "checkpoint": expand_home}.get(form, str)
        return form, expand(argument)
    path = expand_home(spec)
    if not colon and (os.path.isdir(path) or (path.endswith(".gguf") and os.path.isfile(path))):
        return "checkpoint", path
    raise PartnerError(
        f"unknown partner {spec!r}; allowed: {FORMS}; registered by packages: {', '.join(packages) or 'none'}"
        f"{_meant(spec, [*complete, *packages])}"
    )


def read_reader(argument: str) -> tuple[str, str]:
    """The specs of the model that writes and of the documents that it reads, of "reader:MODEL[@DOCUMENTS]".

    MODEL is the spec of a checkpoint or a server; one that has an @ of its own needs another at its end.

    Raises:
        PartnerError: it is neither.
    """
    parts = _READER.fullmatch(argument)
    assert parts is not None
    model, files = parts[1], parts[2]
    try:
        form, named = read_spec(model)
    except PartnerError:
        form, named = "", ""
    if form not in ("checkpoint", "http", "https"):
        raise PartnerError(
            f"reader: {model!r} is no model that could write; allowed: reader:PATH of a checkpoint,"
            " reader:http://HOST:PORT/v1, and after either @FILE.jsonl, the documents that it reads"
        )
    return f"{form}:{named}", f"documents:{files}" if files else "documents"


def searches_corpus(spec: str) -> bool:
    """Whether the partner searches the SLM's own corpus.

    Raises:
        PartnerError: see `read_spec` and `read_reader`.
    """
    form, argument = read_spec(spec)
    if form == "reader":
        return searches_corpus(read_reader(argument)[1])
    return form == "documents" and not argument


def describe_partner(spec: str, *, corpus: CorpusConfig) -> str:
    """Who will be asked, in words for the user: the address of a server, a file, a folder. `corpus`: of `documents`.

    Raises:
        PartnerError: see `read_spec` and `read_reader`.
    """
    form, argument = read_spec(spec)
    if form in ("http", "https"):
        from lacy_jax.cascade.remote.address import describe, parse_address

        return describe(parse_address(spec))
    if form == "reader":
        model, documents = (describe_partner(each, corpus=corpus) for each in read_reader(argument))
        return f"{model}, which reads passages of {documents}"
    from lacy_jax.data.corpus import OF_FILES

    files = argument or (corpus.files if corpus.name in OF_FILES else "")
    return {
        "none": "nobody, the model writes all by itself",
        "documents": f"the documents of {files}" if files else f"the documents of the corpus {corpus.name}",
        "database": f"the database {argument}",
        "checkpoint": f"the checkpoint {argument}",
        "world": f"a database of the closed world, {argument or 'all facts'}",
    }.get(form, f"{spec}, of an installed package")


def check_partner(spec: str) -> None:
    """Returns if `spec` is a partner's, and its packages and the file or folder that it names exist.

    Raises:
        PartnerError, DataError, CheckpointError: it is not.
    """
    form, argument = read_spec(spec)
    if form != "none":
        _load(form)
    if form in ("http", "https"):
        from lacy_jax.cascade.remote.address import parse_address

        parse_address(spec)
    elif form == "reader":
        for each in read_reader(argument):
            check_partner(each)
    elif form == "documents" and argument:
        from lacy_jax.data.corpora import jsonl

        for problem in jsonl.problems(CorpusConfig(name="jsonl", files=argument)):
            raise DataError(problem.replace("config.corpus.files", "documents", 1))
    elif form == "database" and not os.path.isfile(argument):
        raise PartnerError(f"database: no such file: {argument}")
    elif form == "world":  # by name, as in PARTNERS: the cascade imports no evidence
        pkgutil.resolve_name("lacy_jax.evidence.closed_world.world:read_knowledge")(argument)
    elif form == "checkpoint":
        from lacy_jax.checkpoints.format import find_checkpoint, kind_of

        if kind_of(argument) == "own":
            find_checkpoint(argument)


def _meant(spec: str, forms: Iterable[str]) -> str:
    """A guess at what was meant by a file's name or a host alone, or by a misspelt form."""
    name = spec.lower()
    guesses = [
        (name.endswith((".csv", ".tsv", ".sqlite", ".db")), f"did you mean database:{spec}?"),
        (name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")), f"did you mean documents:{spec}?"),
        (os.path.isfile(spec), "it is a file, and a checkpoint is a folder or a file NAME.gguf"),
        (bool(_HOST.fullmatch(spec)), f"did you mean http://{spec}?"),
        (name.endswith(".gguf"), "there is no such file"),
        ("/" in spec, "there is no such folder"),
    ]
    return next((f"; {guess}" for fits, guess in guesses if fits), did_you_mean(spec.partition(":")[0], forms))


def _load(form: str) -> Any:
    """What makes a partner of that form. Raises `PartnerError` where a package that it needs is missing."""
    try:
        return PARTNERS.load(form)
    except ImportError as error:
        raise PartnerError(f"partner {form!r} needs {error.name} ({error}): pip install {error.name}") from error


def _registered(factory: Any, name: str, argument: str, *, span: Span, timeout: float) -> Partner:
    """The partner that another package makes; its errors become ours."""
    try:
        partner = factory(argument, span=span, timeout=timeout)
    except PartnerError:
        raise
    except Exception as error:
        raise PartnerError(
            f"partner {name!r} cannot be made of {argument!r}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(getattr(partner, "name", None), str) or not callable(getattr(partner, "complete", None)):
        raise PartnerError(f"partner {name!r} made a {type(partner).__name__}, which has no name and complete(texts)")
    made: Partner = partner
    return made
