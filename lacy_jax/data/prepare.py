"""Everything a run reads, made once: corpus -> annotated documents -> tokenizer -> packed windows.

Each stage has a folder named after the fingerprint of all it depends on, under `config.data.directory`:

    annotated/<corpus>-<hash>/1.0.0/            documents and marks (TFDS)
    tokenizer/<corpus>-<hash>/tokenizer.model
    packed/<corpus>-<hash>/1.0.0/               windows, and the tokenizer again (TFDS)

A stage whose folder is there is not run again. Folders appear by a rename when they are complete, so an interrupted
stage is simply started anew; processes that want the same folder wait for the one that makes it.
"""

import dataclasses
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import filelock
import numpy as np

from lacy_jax.config import Config, RuleConfig
from lacy_jax.data import datasets
from lacy_jax.data.annotate import annotate_documents, annotator_fingerprint
from lacy_jax.data.check import SMALL, small_corpus_problems
from lacy_jax.data.corpus import corpus_fingerprint, read_documents
from lacy_jax.data.datasets import AnnotatedSource, Fingerprint
from lacy_jax.data.documents import Document, Spans, full_text, split_of
from lacy_jax.data.factual import select_spans
from lacy_jax.data.files import write_whole
from lacy_jax.data.pack import (
    TOKENIZER_FILE,
    Packed,
    PackedSource,
    Progress,
    encode_documents,
    open_packed,
    write_packed,
)
from lacy_jax.data.tokenizer import Tokenizer, train_tokenizer
from lacy_jax.errors import DataError

FORMAT = 1  # of all folders; raise it when what the same settings give changes

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """What a run reads. `annotated_directory` may be missing where the packed dataset was made elsewhere."""

    packed: Packed
    annotated_directory: Path

    @property
    def train(self) -> PackedSource:
        return self.packed.train

    @property
    def validation(self) -> PackedSource:
        return self.packed.validation

    @property
    def tokenizer(self) -> Tokenizer:
        return self.packed.tokenizer

    @property
    def fingerprint(self) -> Fingerprint:
        return self.packed.fingerprint

    def documents(self) -> Iterator[Document]:
        """All documents of the corpus, in its order. Raises `DataError` where the annotated dataset is not there."""
        return (document for document, _ in AnnotatedSource(self.annotated_directory))

    def validation_documents(self) -> Iterator[tuple[Document, Spans]]:
        """The held-out documents, each with the spans that the rule calls factual. Raises as `documents` does."""
        rule, share = RuleConfig(**self.fingerprint["rule"]), self.fingerprint["validation_share"]
        for document, spans in AnnotatedSource(self.annotated_directory):
            if split_of(document.id, validation_share=share) == "validation":
                yield document, select_spans(spans, rule)


def prepare(config: Config, *, progress: Progress = lambda _stage, _done, _total: None) -> Prepared:
    """Makes what is missing of what `config` needs, and opens it; with `config.data.packed`, only opens that.

    Args:
        progress: called as progress(stage, done, total), from one thread, a stage after the other.

    Raises:
        DataError: the corpus, a spans file or a tokenizer cannot be read, or the dataset named is another one.
    """
    if config.data.packed:
        directory = Path(config.data.packed)
        packed = open_packed(directory, expected=_expected(config))
        root = directory.absolute().parent.parent.parent
    else:
        root = Path(config.data.directory)
        tokenizer = _tokenizer(config, root, progress)
        fingerprint = _packed_fingerprint(config, tokenizer)
        name = datasets.fingerprint_name(config.corpus.name, fingerprint)
        directory = datasets.dataset_directory(root, "packed", name=name)

        def build() -> None:
            _pack(config, root, tokenizer=tokenizer, fingerprint=fingerprint, name=name, progress=progress)

        _once(directory, build, progress)
        packed = open_packed(directory, expected=fingerprint)
    return Prepared(packed=packed, annotated_directory=_annotated_directory(root, packed.fingerprint))


def _annotated_fingerprint(config: Config) -> Fingerprint:
    return {"format": FORMAT, "corpus": _documents(config), "annotator": annotator_fingerprint(config.annotate)}


def _documents(config: Config) -> Fingerprint:
    """The corpus alone: how it is split matters to later stages, and is an entry of its own there."""
    return {key: value for key, value in corpus_fingerprint(config.corpus).items() if key != "validation_share"}


def _packed_fingerprint(config: Config, tokenizer: Tokenizer) -> Fingerprint:
    return _annotated_fingerprint(config) | {
        "tokenizer": tokenizer.fingerprint,
        "rule": dataclasses.asdict(config.rule),
        "window": config.model.context,
        "validation_share": config.corpus.validation_share,
    }


def _expected(config: Config) -> Fingerprint:
    """What can be said of a packed dataset without the corpus it was made from."""
    expected: Fingerprint = {"rule": dataclasses.asdict(config.rule), "window": config.model.context}
    if config.tokenizer.path:
        expected["tokenizer"] = Tokenizer.from_file(config.tokenizer.path).fingerprint
    return expected


def _annotated_directory(root: Path, fingerprint: Fingerprint) -> Path:
    own = {key: fingerprint[key] for key in ("format", "corpus", "annotator")}
    name = datasets.fingerprint_name(fingerprint["corpus"]["name"], own)
    return datasets.dataset_directory(root, "annotated", name=name)


def _annotated(config: Config, root: Path, progress: Progress) -> AnnotatedSource:
    fingerprint = _annotated_fingerprint(config)
    directory = _annotated_directory(root, fingerprint)

    def build() -> None:
        count = characters = 0
        first: list[Document] = []  # all, where there are few
        for document in read_documents(config.corpus):
            count += 1
            characters += len(full_text(document))
            if characters <= SMALL:
                first.append(document)
            progress("read corpus", count, config.corpus.max_documents or None)
        if characters <= SMALL and (problems := list(small_corpus_problems(first, config))):
            raise DataError(*problems)
        marked = annotate_documents(read_documents(config.corpus), config.annotate)
        datasets.write_annotated(
            _counted(marked, "annotate", count, progress),
            directory=root,
            name=directory.parent.name,
            fingerprint=fingerprint,
            count=count,
            characters=characters,
        )

    _once(directory, build, progress)
    return AnnotatedSource(directory)


def _tokenizer(config: Config, root: Path, progress: Progress) -> Tokenizer:
    if config.tokenizer.path:
        return Tokenizer.from_file(config.tokenizer.path)
    fingerprint = {
        "format": FORMAT,
        "corpus": _documents(config),
        "validation_share": config.corpus.validation_share,
        "pieces": config.tokenizer.vocab_size,
        "characters": config.tokenizer.train_characters,
        "sentencepiece": importlib.metadata.version("sentencepiece"),
    }
    folder = root / "tokenizer" / datasets.fingerprint_name(config.corpus.name, fingerprint)

    def build() -> None:
        source = _annotated(config, root, progress)
        texts = _training_texts(source, config=config, progress=progress)
        model = train_tokenizer(
            texts, vocab_size=config.tokenizer.vocab_size, characters=config.tokenizer.train_characters
        )
        (folder / "fingerprint.json").write_text(json.dumps(fingerprint, indent=2))
        write_whole(folder / TOKENIZER_FILE, model)

    _once(folder / TOKENIZER_FILE, build, progress)
    return Tokenizer.from_file(folder / TOKENIZER_FILE)


def _training_texts(source: AnnotatedSource, *, config: Config, progress: Progress) -> Iterator[str]:
    """Training documents in a fixed random order: a part of them is a fair sample of all."""
    total, done = min(config.tokenizer.train_characters, source.statistics["characters"]), 0
    for index in np.random.default_rng(0).permutation(len(source)).tolist():
        document, _ = source[index]
        if split_of(document.id, validation_share=config.corpus.validation_share) == "train":
            text = full_text(document)
            done += len(text)
            progress("train tokenizer", min(done, total), total)
            yield text


def _pack(
    config: Config, root: Path, *, tokenizer: Tokenizer, fingerprint: Fingerprint, name: str, progress: Progress
) -> None:
    source = _annotated(config, root, progress)
    documents = encode_documents(
        source, tokenizer=tokenizer, rule=config.rule, validation_share=config.corpus.validation_share
    )
    write_packed(
        _counted(documents, "pack", len(source), progress),
        directory=root,
        name=name,
        fingerprint=fingerprint,
        tokenizer=tokenizer,
        window=config.model.context,
        progress=progress,
    )


def _once(target: Path, build: Callable[[], None], progress: Progress) -> None:
    """Builds `target`, which is there when it is complete, unless it is there; one process at a time."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(target.parent / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        progress("wait for another process", 0, None)
        lock.acquire()
    try:
        if not target.exists():
            for leftover in target.parent.glob("incomplete.*"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            build()
    finally:
        lock.release()


def _counted(items: Iterable[T], stage: str, total: int, progress: Progress) -> Iterator[T]:
    for done, item in enumerate(items, start=1):
        progress(stage, done, total)
        yield item
