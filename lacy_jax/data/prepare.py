"""Everything a run reads, made once: corpus -> annotated documents -> tokenizer -> packed windows.

Each stage has a folder named after the fingerprint of all it depends on, under `config.data.directory`:

    annotated/<corpus>-<hash>/1.0.0/            documents and marks (TFDS)
    annotated/<corpus>-<hash>/left_out.jsonl    records that could not be documents, and documents that could not be
                                                marked, if there are any
    annotated/<corpus>-<hash>/parts/            what is marked so far, until the dataset is complete (marking.py)
    tokenizer/<corpus>-<hash>/tokenizer.model
    packed/<corpus>-<hash>/1.0.0/               windows, and the tokenizer again (TFDS)
    files.json                                  sha256 of the files read, by path, size and time of change

A stage whose folder is there is not run again. Folders appear by a rename when they are complete, so an interrupted
stage is simply started anew; marking goes on from its parts. Processes that want the same folder wait for the one that
makes it.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import filelock
import numpy as np

from lacy_jax.config import Config
from lacy_jax.data import datasets
from lacy_jax.data.annotate import annotator_fingerprint, annotator_has_losses
from lacy_jax.data.corpus import corpus_fingerprint
from lacy_jax.data.datasets import AnnotatedSource, Fingerprint
from lacy_jax.data.documents import full_text, split_of
from lacy_jax.data.files import parse_json, remembered_hashes, write_whole
from lacy_jax.data.left_out import say_left_out
from lacy_jax.data.marking import Marking, make_annotated
from lacy_jax.data.mixture import open_mixture
from lacy_jax.data.pack import (
    TOKENIZER_FILE,
    WITH_LOSSES,
    Progress,
    counted,
    encode_documents,
    open_packed,
    write_packed,
)
from lacy_jax.data.prepared import Prepared, annotated_directory, open_elsewhere
from lacy_jax.data.read_tokenizer import tokenizer_of_file
from lacy_jax.data.tokenizer import TextTokenizer, train_tokenizer
from lacy_jax.errors import DataError
from lacy_jax.folders import read_file, writing

FINGERPRINT_FILE = "fingerprint.json"  # beside a tokenizer that was trained here
FORMAT = 1  # of all folders; raise it when what the same settings give changes


def prepare(
    config: Config,
    *,
    tokenizer: TextTokenizer | None = None,
    progress: Progress = lambda _stage, _done, _total: None,
    missing: Literal["make", "refuse"] = "make",
    marking: Marking = Marking(),  # noqa: B008 - frozen
) -> Prepared:
    """Makes what is missing of what `config` needs, and opens it; only opens `config.data.packed` or `mixture`.

    The corpus is read once, and only where its documents are not annotated yet. Its files are hashed only where their
    size or time of change is another than in `files.json`, which lies beside the prepared data.

    Args:
        tokenizer: the one to pack with, in place of what `config.tokenizer` says: a pretrained model's own.
        progress: called as progress(stage, done, total), from one thread, a stage after the other.
        missing: whether to make what is missing.
        marking: how the documents are marked, and who is called with the speed.

    Raises:
        DataError: the corpus, a spans file or a tokenizer cannot be read, the dataset named is another one, or data is
            missing that must not be made.
        StorageError: the disk is full, or the dataset named lies in a bucket and cannot be copied.
    """
    if config.data.packed or config.data.mixture:
        return _open_elsewhere(config, tokenizer=tokenizer, progress=progress)
    root = Path(config.data.directory)
    source = source_fingerprint(config)
    annotated = annotated_directory(root, source)
    tokenizer_file = _tokenizer_file(config, source=source)
    if tokenizer is None and (config.tokenizer.path or tokenizer_file.exists()):
        tokenizer = _open_tokenizer(tokenizer_file)
    if tokenizer is None or not _packed_directory(config, source=source, tokenizer=tokenizer).exists():
        if missing == "refuse":
            raise DataError(f"{root} has no data prepared with these settings; prepare it first, without --show")
        if config.objective.partner_losses == "stored" and not annotator_has_losses(config.annotate):
            raise DataError(f"config.objective.partner_losses=stored: what marks has no losses to store; {WITH_LOSSES}")
        documents = _annotate(config, tokenizer, source=source, marking=marking, progress=progress)
        if tokenizer is None:
            tokenizer = _tokenize(config, documents, file=tokenizer_file, source=source, progress=progress)
        _pack(config, documents, source=source, tokenizer=tokenizer, progress=progress)
    packed = open_packed(
        _packed_directory(config, source=source, tokenizer=tokenizer),
        expected=_packed_fingerprint(config, source=source, tokenizer=tokenizer),
        shuffle=config.data.shuffle,
        partner_losses=config.objective.partner_losses,
    )
    say_left_out(annotated)
    return Prepared(packed=packed, annotated_directory=annotated)


def annotated_documents(config: Config, *, tokenizer: TextTokenizer, progress: Progress) -> AnnotatedSource:
    """The documents of `config.corpus` with all their marks, made where they are missing.

    Raises:
        DataError, StorageError: as `prepare`.
    """
    source = source_fingerprint(config)
    documents = _annotate(config, tokenizer, source=source, marking=Marking(), progress=progress)
    say_left_out(annotated_directory(Path(config.data.directory), source))
    return documents


def source_fingerprint(config: Config) -> Fingerprint:
    """What the annotated documents depend on. How they are split matters to later stages, an entry of its own there."""
    with remembered_hashes(config.data.directory):
        corpus = {key: value for key, value in corpus_fingerprint(config.corpus).items() if key != "validation_share"}
        annotator = annotator_fingerprint(config.annotate, corpus=config.corpus, directory=config.data.directory)
        return {"format": FORMAT, "corpus": corpus, "annotator": annotator}


def _open_elsewhere(config: Config, *, tokenizer: TextTokenizer | None, progress: Progress) -> Prepared:
    """The dataset of `config.data.packed`, or those of `config.data.mixture`.

    All that can be checked without their corpora must fit the config.
    """
    expected: Fingerprint = {"rule": dataclasses.asdict(config.rule), "window": config.model.context}
    if tokenizer is None and config.tokenizer.path:
        tokenizer = tokenizer_of_file(config.tokenizer.path)
    if tokenizer is not None:
        expected["tokenizer"] = tokenizer.fingerprint
    if config.data.mixture:
        return open_mixture(config, expected=expected, progress=progress)
    return open_elsewhere(
        config.data.packed,
        expected=expected,
        shuffle=config.data.shuffle,
        progress=progress,
        partner_losses=config.objective.partner_losses,
    )


# What each stage depends on, and where it lies.


def _tokenizer_fingerprint(config: Config, *, source: Fingerprint) -> Fingerprint:
    return {
        "format": FORMAT,
        "corpus": source["corpus"],
        "validation_share": config.corpus.validation_share,
        "pieces": config.tokenizer.vocab_size,
        "characters": config.tokenizer.train_characters,
        "sentencepiece": importlib.metadata.version("sentencepiece"),
    }


def _tokenizer_file(config: Config, *, source: Fingerprint) -> Path:
    """The file that the config names, whether it exists or not; else the one that is trained on these documents."""
    if config.tokenizer.path:
        return Path(config.tokenizer.path)
    name = datasets.fingerprint_name(config.corpus.name, _tokenizer_fingerprint(config, source=source))
    return Path(config.data.directory) / "tokenizer" / name / TOKENIZER_FILE


def _packed_fingerprint(config: Config, *, source: Fingerprint, tokenizer: TextTokenizer) -> Fingerprint:
    return source | {
        "tokenizer": tokenizer.fingerprint,
        "rule": dataclasses.asdict(config.rule),
        "window": config.model.context,
        "validation_share": config.corpus.validation_share,
    }


def _packed_directory(config: Config, *, source: Fingerprint, tokenizer: TextTokenizer) -> Path:
    fingerprint = _packed_fingerprint(config, source=source, tokenizer=tokenizer)
    name = datasets.fingerprint_name(config.corpus.name, fingerprint)
    return datasets.dataset_directory(Path(config.data.directory), "packed", name=name)


# The stages.


def _annotate(
    config: Config, tokenizer: TextTokenizer | None, *, source: Fingerprint, marking: Marking, progress: Progress
) -> AnnotatedSource:
    """Marks the corpus; goes on where an earlier command was killed (marking.py)."""
    directory = annotated_directory(Path(config.data.directory), source)
    make = functools.partial(make_annotated, config, tokenizer, directory=directory, fingerprint=source)
    _once(directory, lambda: make(marking=marking, progress=progress), progress=progress)
    return AnnotatedSource(directory)


def _tokenize(
    config: Config, documents: AnnotatedSource, *, file: Path, source: Fingerprint, progress: Progress
) -> TextTokenizer:
    """Trains a tokenizer on the training documents."""
    settings = config.tokenizer

    def build() -> None:
        texts = _training_texts(documents, config=config, progress=progress)
        model = train_tokenizer(texts, vocab_size=settings.vocab_size, characters=settings.train_characters)
        about = _tokenizer_fingerprint(config, source=source) | {"sha256": hashlib.sha256(model).hexdigest()}
        write_whole(file.parent / FINGERPRINT_FILE, json.dumps(about, indent=2).encode())
        write_whole(file, model)

    _once(file, build, progress=progress)
    return tokenizer_of_file(file)


def _open_tokenizer(file: Path) -> TextTokenizer:
    """A tokenizer, compared with the sha256 beside it where there is one: those that were trained here have it.

    Raises:
        DataError: it is missing, no tokenizer, or damaged.
    """
    about = file.parent / FINGERPRINT_FILE
    content = read_file(about)
    try:
        expected = "" if content is None else parse_json(content).get("sha256", "")
    except (ValueError, AttributeError) as error:
        raise DataError(f"{about} is damaged ({error}); delete {file.parent}, and it is trained anew") from None
    if expected and file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() != expected:
        raise DataError(f"{file} is damaged (by its sha256); delete {file.parent}, and it is trained anew")
    return tokenizer_of_file(file)


def _training_texts(documents: AnnotatedSource, *, config: Config, progress: Progress) -> Iterator[str]:
    """Training documents in a fixed random order: a part of them is a fair sample of all."""
    total, done = min(config.tokenizer.train_characters, documents.statistics["characters"]), 0
    for index in np.random.default_rng(0).permutation(len(documents)).tolist():
        document, _ = documents[index]
        if split_of(document.id, validation_share=config.corpus.validation_share) == "train":
            text = full_text(document)
            done += len(text)
            progress("train tokenizer", min(done, total), total)
            yield text


def _pack(
    config: Config, documents: AnnotatedSource, *, source: Fingerprint, tokenizer: TextTokenizer, progress: Progress
) -> None:
    """Writes the windows of both splits."""
    directory = _packed_directory(config, source=source, tokenizer=tokenizer)

    def build() -> None:
        encoded = encode_documents(
            documents, tokenizer=tokenizer, rule=config.rule, validation_share=config.corpus.validation_share
        )
        write_packed(
            counted(encoded, stage="pack", total=len(documents), progress=progress),
            directory=Path(config.data.directory),
            name=directory.parent.name,
            fingerprint=_packed_fingerprint(config, source=source, tokenizer=tokenizer),
            tokenizer=tokenizer,
            window=config.model.context,
            losses=documents.has_losses,
            progress=progress,
        )

    _once(directory, build, progress=progress)


def _once(target: Path, build: Callable[[], None], *, progress: Progress) -> None:
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
            with writing(target):
                build()
    finally:
        lock.release()
