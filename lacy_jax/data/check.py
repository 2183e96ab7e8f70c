"""What is wrong with a corpus, found as early as it can be: before it is read, and before its facts are marked."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lacy_jax.config import Config
from lacy_jax.data.annotate import ANNOTATORS
from lacy_jax.data.corpus import CORPORA
from lacy_jax.data.documents import Document, full_text, split_of
from lacy_jax.data.mixture import mixture_problems
from lacy_jax.data.tokenizer import TextTokenizer, train_tokenizer
from lacy_jax.errors import DataError, did_you_mean
from lacy_jax.folders import unreadable
from lacy_jax.paths import absolute
from lacy_jax.registry import Registry

SMALL = 2_000_000  # characters; so short a text trains a tokenizer in seconds, and may be too short for its vocabulary
_SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


def data_problems(config: Config) -> Iterator[str]:
    """Files, folders and names in the settings that do not exist, one line each; nothing is read.

    A corpus or an annotator may add to it: its function `problems`, of the same settings, gives further lines.
    """
    if config.data.mixture:
        yield from mixture_problems(config)
        return
    if config.data.packed:
        if problem := unreadable(config.data.packed):
            yield f"config.data.packed={config.data.packed}: {problem}"
        elif not absolute(config.data.packed).is_dir():
            yield f"config.data.packed: there is no folder {config.data.packed}"
        return
    yield from _named(CORPORA, "config.corpus.name", config.corpus.name, settings=config.corpus)
    yield from _named(ANNOTATORS, "config.annotate.annotator", config.annotate.annotator, settings=config.annotate)
    if config.tokenizer.path and not Path(config.tokenizer.path).is_file():
        yield f"config.tokenizer.path: there is no file {config.tokenizer.path}"


def _named(registry: Registry, setting: str, name: str, *, settings: Any) -> Iterator[str]:
    if name not in registry.names():
        known = registry.names()
        yield f"{setting}: unknown {registry.kind} {name!r}; allowed are {', '.join(known)}{did_you_mean(name, known)}"
        return
    try:
        yield from getattr(registry.load(name), "problems", lambda _settings: ())(settings)
    except DataError as error:
        yield f"{setting}: {error}"


def small_corpus_problems(
    documents: Sequence[Document], config: Config, *, tokenizer: TextTokenizer | None
) -> Iterator[str]:
    """What a small corpus is too small for, all at once, each with the flag to add.

    tokenizer: the one to pack with; None: it is trained on these documents.
    """
    asked = config.corpus.validation_share
    share = next((share for share in (asked, *_SHARES) if _both_splits(documents, share)), None)
    if share is None:
        yield f"corpus: {len(documents)} documents are too few to train on some and hold others out"
        return
    if share != asked:
        yield (
            f"config.corpus.validation_share: with {asked:g} one of the two splits has none of the {len(documents)} "
            f"documents; add --config.corpus.validation_share={share:g}"
        )
    if tokenizer is not None:
        return
    texts = [full_text(each) for each in documents if split_of(each.id, validation_share=share) == "train"]
    try:
        train_tokenizer(texts, vocab_size=config.tokenizer.vocab_size, characters=config.tokenizer.train_characters)
    except DataError as error:
        yield str(error)


def _both_splits(documents: Sequence[Document], share: float) -> bool:
    return len({split_of(each.id, validation_share=share) for each in documents}) == 2
