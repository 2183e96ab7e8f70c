"""The annotator tagger: the marks that another one would make, by a network that learned them (docs/tagger.md)."""

import functools
import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import jax
import numpy as np
from flax import nnx

from lacy_jax.config import AnnotateConfig
from lacy_jax.data.annotators.spacy_words import check_spacy
from lacy_jax.data.batch import Array
from lacy_jax.data.documents import NO_SPANS, Document, Spans
from lacy_jax.errors import LacyError
from lacy_jax.tagging.network import WINDOW, Network, Windows, inner, windows_of
from lacy_jax.tagging.saved import About, load_tagger, read_about
from lacy_jax.tagging.words import Words, words_of

PARTS = "in order"  # not "anywhere": only one process can have an accelerator
GROUP = 64  # documents that are tagged together
BATCH = 64  # windows in one call of the network


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Tagged(Generic[Array]):
    """Of N words: marked, how probable any mark is; kind, the most probable of the marks' kinds, from 0; subject."""

    marked: Array
    kind: Array
    subject: Array


def problems(config: AnnotateConfig) -> Iterator[str]:
    """One line if spaCy is missing, or the folder holds no tagger. checks.py reports where none is named."""
    if config.tagger:
        try:
            check_spacy()
        except LacyError as error:
            yield from error.problems
        try:
            read_about(config.tagger)
        except LacyError as error:
            yield from (f"config.annotate.tagger: {problem}" for problem in error.problems)


def fingerprint(config: AnnotateConfig) -> dict[str, Any]:
    """The tagger's weights and description, and the threshold. Raises `DataError` where there is none."""
    about, sha256 = read_about(config.tagger)
    return {
        "sha256": sha256,
        "format": about.format,
        "language": about.language,
        "kinds": list(about.kinds),
        "threshold": config.tagger_threshold,
    }


def mark(documents: Iterable[Document], config: AnnotateConfig) -> Iterator[tuple[Document, Spans]]:
    """Each document with its marks, in order. The network runs on the devices that JAX has.

    Raises:
        DataError: there is no tagger, it is damaged, or spaCy lacks its language.
    """
    about, network = load_tagger(config.tagger)
    words = words_of(documents, language=about.language)
    while group := list(itertools.islice(words, GROUP)):
        tags = tag([own for _, own in group], network)
        for (document, own), tagged in zip(group, tags, strict=True):
            yield document, spans_of(own, tagged, about, threshold=config.tagger_threshold)


def tag(documents: Sequence[Words], network: Network) -> Iterator[Tagged[np.ndarray]]:
    """What the network says of the words of each document. All calls have one shape, so it compiles once."""
    graph, state = nnx.split(network)
    windows = [windows_of(words) for words in documents]
    answers = jax.device_get([_answers(graph, state, call) for call in _batches(windows)])
    joined = jax.tree.map(lambda *parts: np.concatenate(parts).reshape(-1), *answers)  # [windows * WINDOW]
    first = 0
    for words, own in zip(documents, windows, strict=True):
        yield jax.tree.map(operator.itemgetter(slice(first, first + len(words))), joined)
        first += len(own) * WINDOW


def spans_of(words: Words, tagged: Tagged[np.ndarray], about: About, *, threshold: float) -> Spans:
    """Each word that is marked with more than `threshold`, as a span; with `phrases`, neighbours of a kind join."""
    chosen = np.flatnonzero((tagged.marked > threshold) & ~words.space)
    if not len(chosen):
        return NO_SPANS
    begins = np.ones(len(chosen), bool)
    if about.phrases:
        solid = np.cumsum(~words.space)[chosen]  # numbers of words, white space left out
        begins[1:] = (np.diff(solid) > 1) | (np.diff(tagged.kind[chosen]) != 0)
    firsts = chosen[begins]
    lasts = chosen[np.append(np.flatnonzero(begins)[1:] - 1, len(chosen) - 1)]
    return Spans(
        starts=words.starts[firsts],
        ends=words.ends[lasts],
        kinds=tuple(about.kinds[nth] for nth in tagged.kind[firsts]),
        subject=tagged.subject[firsts],
        repeated=words.repeated[firsts] & about.repeats,
    )


def _batches(windows: Sequence[Windows[np.ndarray]]) -> Iterator[Windows[np.ndarray]]:
    """All windows, `BATCH` in each; the last is filled up with windows without words."""
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *windows)
    count = len(joined)
    missing = -count % BATCH if count else BATCH
    full = jax.tree.map(lambda array: np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1)), joined)
    for first in range(0, count + missing, BATCH):
        yield jax.tree.map(operator.itemgetter(slice(first, first + BATCH)), full)


@functools.partial(jax.jit, static_argnums=0)
def _answers(graph: Any, state: Any, windows: Windows[jax.Array]) -> Tagged[jax.Array]:
    kinds, subjects = map(inner, nnx.merge(graph, state)(windows))
    return Tagged(marked=1 - jax.nn.softmax(kinds)[..., 0], kind=kinds[..., 1:].argmax(axis=-1), subject=subjects > 0)
