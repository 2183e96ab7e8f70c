"""Teaching a tagger: documents with another annotator's marks in, a network that makes such marks out."""

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic

import jax
import numpy as np
import optax
from flax import nnx

from lacy_jax.config import RuleConfig
from lacy_jax.data.batch import Array
from lacy_jax.data.datasets import Fingerprint
from lacy_jax.data.documents import Document, Spans, split_of
from lacy_jax.data.factual import select_spans
from lacy_jax.errors import DataError
from lacy_jax.languages import MODELS
from lacy_jax.measures.agreement import Agreement, agreement_of
from lacy_jax.tagging.marking import spans_of, tag
from lacy_jax.tagging.network import WINDOW, Network, Windows, inner, windows_of
from lacy_jax.tagging.saved import MOST_KINDS, About, new_network
from lacy_jax.tagging.words import Words, words_of

BATCH = 32  # windows of a step
DROPOUT, DROPOUT_AFTER = 0.1, 0.3  # the second where it begins with another tagger: there are few documents
EPOCHS, EPOCHS_AFTER = 4, 8  # the second where it begins with another tagger
RATE = 2e-3  # of AdamW, at its highest

Progress = Callable[[str, int, int], None]
Marked = tuple[Document, Words, Spans]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Examples(Generic[Array]):
    """Windows with the right answers for the words that they are for: kinds, subjects, int32[B, WINDOW]."""

    windows: Windows[Array]
    kinds: Array
    subjects: Array


def read_marked(documents: Iterable[tuple[Document, Spans]], *, language: str) -> Iterator[Marked]:
    """Documents with their words beside their marks. Raises `DataError` as `words_of`."""
    ahead, again = itertools.tee(documents)
    read = words_of((document for document, _ in ahead), language=language)
    for (document, words), (_, spans) in zip(read, again, strict=True):
        yield document, words, spans


def describe(marked: Iterable[Marked], *, language: str) -> About:
    """What a tagger of these marks is. Raises `DataError` where there are none, or too many kinds."""
    kinds: set[str] = set()
    repeats = phrases = False
    for _, words, spans in marked:
        kinds.update(spans.kinds)
        repeats |= bool(spans.repeated.any())
        phrases |= len(spans) < int(np.count_nonzero(_span_of_words(words, spans) >= 0))
    if not 0 < len(kinds) <= MOST_KINDS:
        raise DataError(f"the documents have marks of {len(kinds)} kinds; a tagger learns 1 to {MOST_KINDS}")
    return About(tuple(sorted(kinds)), language=language, repeats=repeats, phrases=phrases)


def teach(
    marked: Iterable[Marked],
    about: About,
    *,
    start: Network | None = None,
    epochs: int,
    seed: int,
    progress: Progress = lambda _stage, _done, _total: None,
) -> Network:
    """A network that learned the marks of all these documents.

    Args:
        start: the one whose tables of words and layers it begins with. The tables stay as they are, since few
            documents lack most words of other texts. The two heads are learned anew.
    """
    parts = [_example(words, spans, about) for _, words, spans in marked if len(words)]
    examples = jax.tree.map(lambda *each: np.concatenate(each), *parts)
    network = new_network(about, seed=seed, dropout=DROPOUT if start is None else DROPOUT_AFTER)
    if start is not None:
        _begin_with(network, start)
    learned = nnx.Param if start is None else nnx.All(nnx.Param, nnx.Not(nnx.PathContains("tables")))
    total = max(1, epochs * -(-len(examples.kinds) // BATCH))
    warm = min(200, total // 10 + 1)
    schedule = optax.warmup_cosine_decay_schedule(0.0, RATE, warm, max(total, warm + 1), RATE / 100)
    optimizer = nnx.Optimizer(network, optax.adamw(schedule, weight_decay=0.01), wrt=learned)
    step = nnx.jit(functools.partial(_step, learned=learned))
    random = np.random.default_rng(seed)
    done = 0
    for _ in range(epochs):
        order = random.permutation(len(examples.kinds))
        for chosen in np.split(order, range(BATCH, len(order), BATCH)):
            step(network, optimizer, jax.tree.map(operator.itemgetter(np.resize(chosen, BATCH)), examples))
            progress("teach", min(done := done + 1, total), total)
    network.eval()
    return network


def agreement(marked: Iterable[Marked], about: About, network: Network) -> Agreement:
    """How far a tagger's facts are those of the annotator, by the default rule, word by word; the annotator's first."""
    rule, theirs, ours = RuleConfig(), [np.zeros(0, bool)], [np.zeros(0, bool)]
    documents = list(marked)
    tags = tag([words for _, words, _ in documents], network)
    for (_, words, spans), tagged in zip(documents, tags, strict=True):
        found = spans_of(words, tagged, about, threshold=0.5)
        theirs.append(_span_of_words(words, select_spans(spans, rule)) >= 0)
        ours.append(_span_of_words(words, select_spans(found, rule)) >= 0)
    return agreement_of(np.concatenate(theirs), np.concatenate(ours))


def language_of(fingerprint: Fingerprint) -> str:
    """The code of the language of marked documents: of the spaCy model, as its name begins; English for other marks."""
    code = str(fingerprint["annotator"].get("model", "")).partition("_")[0]
    return code if code in MODELS else "en"


def is_held_out(document: Document, *, share: float) -> bool:
    """Whether this document judges a tagger, and does not teach it."""
    return split_of(document.id, validation_share=share) == "validation"


def _span_of_words(words: Words, spans: Spans) -> np.ndarray:
    """int[N]: the span that each word shares a character with, the first such; -1 for none, and for white space."""
    if not len(spans):
        return np.full(len(words), -1)
    last = np.searchsorted(spans.starts, words.ends, side="left") - 1  # the last that begins before the word ends
    first = np.searchsorted(np.maximum.accumulate(spans.ends), words.starts, side="right")
    return np.where((first <= last) & ~words.space, first, -1)


def _example(words: Words, spans: Spans, about: About) -> Examples[np.ndarray]:
    windows, own = windows_of(words), _span_of_words(words, spans)
    number = {kind: nth + 1 for nth, kind in enumerate(about.kinds)}
    of_span = np.array([number.get(kind, 0) for kind in spans.kinds] + [0], np.int32)
    subject = np.append(spans.subject, False).astype(np.int32)

    def placed(values: np.ndarray) -> np.ndarray:
        return np.pad(values, (0, len(windows) * WINDOW - len(words))).reshape(-1, WINDOW)

    return Examples(windows, kinds=placed(of_span[own]), subjects=placed(subject[own]))


def _begin_with(network: Network, start: Network) -> None:
    state = nnx.state(start, nnx.Param)
    kept = [(path, value) for path, value in nnx.to_flat_state(state) if path[0] not in ("kind", "subject")]
    nnx.update(network, nnx.from_flat_state(kept))


def _step(network: Network, optimizer: nnx.Optimizer, batch: Examples[jax.Array], *, learned: Any) -> None:
    optimizer.update(network, nnx.grad(_loss, argnums=nnx.DiffState(0, learned))(network, batch))


def _loss(network: Network, batch: Examples[jax.Array]) -> jax.Array:
    """Cross-entropy of the kinds of all words, and of whether a marked word is part of a subject; nats per word."""
    there = inner(batch.windows.there)
    kind_logits, subject_logits = map(inner, network(batch.windows))
    of_kinds = optax.softmax_cross_entropy_with_integer_labels(kind_logits, batch.kinds) * there
    of_subjects = optax.sigmoid_binary_cross_entropy(subject_logits, batch.subjects) * (batch.kinds > 0)
    return (of_kinds.sum() + of_subjects.sum()) / there.sum()  # every window has words
