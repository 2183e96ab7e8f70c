"""From marked documents to the windows of tokens that training reads (docs/data_format.md)."""

import contextlib
import dataclasses
import functools
import itertools
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lacy_jax.config import PartnerLosses, RuleConfig, Shuffle
from lacy_jax.data import datasets
from lacy_jax.data.batch import document_starts
from lacy_jax.data.datasets import LOSSES, Fingerprint, Record, Shard, Statistics
from lacy_jax.data.documents import Document, Spans, Split, full_text, split_of
from lacy_jax.data.factual import factual_tokens, losses_of_tokens, select_spans
from lacy_jax.data.order import Blocks, Windows
from lacy_jax.data.read_tokenizer import tokenizer_of_file
from lacy_jax.data.shards import FetchedRecords
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.errors import DataError

Progress = Callable[[str, int, int | None], None]
"""Called as progress(stage, done, total) after each item; total is None where it is not known."""

TOKENIZER_FILE = "tokenizer.model"
TRAIN_SHARDS = "packed-train."  # TFDS' names of these files begin so
SPLITS: tuple[Split, ...] = ("train", "validation")

WITH_LOSSES = (
    "mark with a model: --config.annotate.annotator=partner --config.annotate.partner=checkpoint:PATH "
    "(docs/annotation.md)"
)

_SHARD_TOKENS = 2**24


_T = TypeVar("_T")


def counted(items: Iterable[_T], *, stage: str, total: int, progress: Progress) -> Iterator[_T]:
    """The items, each shown as one more of `total` units of a stage."""
    for done, item in enumerate(items, start=1):
        progress(stage, done, total)
        yield item


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedDocument:
    """A document as the model reads it: ids int32[N], factual bool[N], and the split it belongs to.

    losses: float32[N], nats, where the partner that made the marks is a model (see `losses_of_tokens`).
    """

    split: Split
    ids: np.ndarray
    factual: np.ndarray
    losses: np.ndarray | None = None


def encode_documents(
    documents: Iterable[tuple[Document, Spans]],
    *,
    tokenizer: TextTokenizer,
    rule: RuleConfig,
    validation_share: float,
) -> Iterator[EncodedDocument]:
    """Tokens and factual bits of each document's full text, in order."""
    for document, spans in documents:
        text = full_text(document)
        encoding = tokenizer.encode(text)
        factual = factual_tokens(
            encoding.starts, encoding.ends, text=text, spans=select_spans(spans, rule), sub_tokens=rule.sub_tokens
        )
        split = split_of(document.id, validation_share=validation_share)
        losses = None if spans.losses is None else losses_of_tokens(spans.losses, encoding.ends)
        yield EncodedDocument(split=split, ids=encoding.ids, factual=factual, losses=losses)


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """All documents of a split: `</s>`, then each document and `</s>`. tokens: uint16 or int32[L], factual: bool[L].

    losses: float16[L], a partner's, NaN at `</s>`; None where there are none.
    """

    tokens: np.ndarray
    factual: np.ndarray
    losses: np.ndarray | None = None

    def windows(self, window: int) -> int:
        """How many windows of `window` targets there are; the last may have fewer."""
        return math.ceil((len(self.tokens) - 1) / window)

    def window(self, index: int, *, window: int, end_id: int) -> Record:
        """One window: `window` tokens and the one after them, padded with `</s>`."""
        chunk = slice(index * window, (index + 1) * window + 1)
        tokens = np.full(window + 1, end_id, self.tokens.dtype)
        factual = np.zeros(window + 1, np.bool_)
        length = len(self.tokens[chunk])
        tokens[:length] = self.tokens[chunk]
        factual[:length] = self.factual[chunk]
        record: Record = {"tokens": tokens, "factual": factual, "length": length}
        if self.losses is not None:
            record[LOSSES] = np.full(window + 1, np.nan, np.float16)
            record[LOSSES][:length] = self.losses[chunk]
        return record


def write_packed(
    documents: Iterable[EncodedDocument],
    *,
    directory: Path,
    name: str,
    fingerprint: Fingerprint,
    tokenizer: TextTokenizer,
    window: int,
    progress: Progress,
    losses: bool = False,
) -> None:
    """Writes the windows of both splits and the tokenizer under directory/packed/name.

    Window i of a split is stream[i * window : (i + 1) * window + 1] of its `Stream`: every token but the first is a
    target once. `fingerprint` holds the tokenizer's and the window, under these names. `losses`: whether the documents
    have a partner's.

    Raises:
        DataError: a split has no documents.
    """
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.int32)
    statistics: Statistics = {}

    def shards(incomplete: Path) -> dict[str, list[Shard]]:
        (incomplete / TOKENIZER_FILE).write_bytes(tokenizer.definition)
        streams = _write_streams(
            documents, scratch=incomplete, dtype=dtype, end_id=tokenizer.end_id, counts=statistics, losses=losses
        )
        done, total = itertools.count(1), sum(stream.windows(window) for stream in streams.values())

        def records(stream: Stream) -> Iterator[Record]:
            for index in range(stream.windows(window)):
                progress("write windows", next(done), total)
                yield stream.window(index, window=window, end_id=tokenizer.end_id)

        def split_shards(split: Split) -> list[Shard]:
            windows = statistics[split]["windows"] = streams[split].windows(window)
            parts = min(windows, math.ceil(windows * window / _SHARD_TOKENS))
            return datasets.shards_of(records(streams[split]), datasets.even_sizes(windows, parts))

        return {split: split_shards(split) for split in SPLITS}

    settings = datasets.Settings(
        name=name,
        fingerprint=fingerprint,
        statistics=statistics,
        shards=shards,
        features=datasets.packed_features(window, dtype=dtype, losses=losses),
    )
    datasets.write_dataset(settings, "packed", directory=directory)


def _write_streams(
    documents: Iterable[EncodedDocument],
    *,
    scratch: Path,
    dtype: np.dtype,
    end_id: int,
    counts: Statistics,
    losses: bool,
) -> dict[Split, Stream]:
    """Joins the documents of each split, in nameless files that vanish with the process, and fills `counts`."""
    kinds = {"tokens": dtype, "factual": np.dtype(np.bool_)} | ({"losses": np.dtype(np.float16)} if losses else {})
    end = EncodedDocument("train", np.array([end_id]), np.zeros(1), np.full(1, np.nan))
    with contextlib.ExitStack() as stack:
        files: dict[Split, dict[str, Any]] = {}
        for split in SPLITS:
            files[split] = {name: stack.enter_context(tempfile.TemporaryFile(dir=scratch)) for name in kinds}
            counts[split] = {"documents": 0, "tokens": 1, "factual": 0}
            _append(files[split], end, kinds=kinds)
        for document in documents:
            _append(files[document.split], document, kinds=kinds)
            _append(files[document.split], end, kinds=kinds)
            count = counts[document.split]
            count["documents"] += 1
            count["tokens"] += len(document.ids) + 1
            count["factual"] += int(document.factual.sum())
        for split in SPLITS:
            if not counts[split]["documents"]:
                raise DataError(
                    f"packing: none of the {sum(count['documents'] for count in counts.values())} documents belongs to "
                    f"the {split} split; use more documents, or change config.corpus.validation_share"
                )
        return {
            split: Stream(**{name: _mapped(own[name], kind) for name, kind in kinds.items()})
            for split, own in files.items()
        }


def _append(files: Mapping[str, Any], document: EncodedDocument, *, kinds: Mapping[str, np.dtype]) -> None:
    columns = {"tokens": document.ids, "factual": document.factual, "losses": document.losses}
    for name, kind in kinds.items():
        files[name].write(np.asarray(columns[name]).astype(kind).tobytes())


def _mapped(file: Any, dtype: np.dtype) -> np.ndarray:
    file.flush()
    return np.memmap(file, dtype=dtype, mode="r")


class PackedSource:
    """The windows of one split, in the order of the corpus.

    An item is {"tokens": int32[T + 1], "factual": bool[T + 1], "starts": int32[T + 1], "length": int}: `length` real
    tokens, then padding. `starts`: see `document_starts`. With `losses` there are "partner_losses", float32[T + 1].
    """

    def __init__(self, records: Sequence[Record], *, end_id: int, losses: bool = False) -> None:
        self._records, self._end_id, self._losses = records, end_id, losses

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record = self._records[index]
        losses = {LOSSES: record[LOSSES].astype(np.float32)} if self._losses else {}
        return losses | {
            "tokens": record["tokens"].astype(np.int32),
            "factual": record["factual"],
            "starts": document_starts(record["tokens"], end_id=self._end_id),
            "length": int(record["length"]),
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Packed:
    """An open packed dataset.

    fingerprint: what it was made from and how. tokenizer: the one it was packed with.
    statistics: for each split the numbers of documents, tokens (each `</s>` included), factual tokens and windows.
    """

    directory: Path
    fingerprint: Fingerprint
    statistics: Statistics
    train: Windows
    validation: Windows
    tokenizer: TextTokenizer


def open_packed(
    directory: str | Path,
    *,
    expected: Fingerprint | None = None,
    shuffle: Shuffle = "full",
    shards: str = "",
    partner_losses: PartnerLosses = "none",
) -> Packed:
    """Opens a packed dataset by its TFDS version folder, e.g. runs/data/packed/vital_articles-0123456789ab/1.0.0.

    Args:
        expected: entries that its fingerprint must have; entries not named are not compared.
        shuffle: the order in which training reads it (`config.data.shuffle`).
        shards: with a block shuffle, the address of the same folder in a bucket: the shards of `train` are fetched from
            there when they are read, and `directory` need not have them.
        partner_losses: whether windows come with the partner's losses.

    Raises:
        DataError: there is no packed dataset, it lacks the partner's losses, or its fingerprint differs; one line for
            each differing entry.
    """
    builder = datasets.open_dataset(Path(directory), "packed", without=TRAIN_SHARDS if shards else "")
    fingerprint, statistics = _metadata(builder.info.metadata, directory=directory)
    tokenizer = tokenizer_of_file(Path(directory) / TOKENIZER_FILE)
    differing = [
        *_differences(fingerprint, json.loads(json.dumps(expected or {}))),
        *_differences(tokenizer.fingerprint, fingerprint["tokenizer"], path=TOKENIZER_FILE),
    ]
    if differing:
        lines = "\n  ".join(differing)
        raise DataError(
            f"{directory} is another dataset than the config describes:\n  {lines}\n"
            "Change the config, or name another folder in config.data.packed or config.data.mixture (both empty: what "
            "is missing is prepared)."
        )
    if partner_losses == "stored" and LOSSES not in builder.info.features:
        raise DataError(
            f"config.objective.partner_losses=stored: {directory} has no losses of a partner; {WITH_LOSSES}"
        )
    windows_of = functools.partial(PackedSource, end_id=tokenizer.end_id, losses=partner_losses == "stored")
    return Packed(
        directory=Path(directory),
        fingerprint=fingerprint,
        statistics=statistics,
        train=_train(builder, windows_of, shuffle=shuffle, shards=shards),
        validation=windows_of(datasets.Records(builder, "validation")),
        tokenizer=tokenizer,
    )


def _train(builder: Any, windows_of: Callable[..., PackedSource], *, shuffle: Shuffle, shards: str) -> Windows:
    """The training windows, in the order of the corpus; those of a block shuffle know their shards."""
    sizes = builder.info.splits["train"].shard_lengths
    if shards:
        fetched = FetchedRecords(builder, "train", folder=shards)
        return Blocks(windows_of(fetched), sizes, hold=fetched.hold)
    windows = windows_of(datasets.Records(builder, "train"))
    return Blocks(windows, sizes) if shuffle == "block" else windows


def _metadata(metadata: Any, *, directory: str | Path) -> tuple[Fingerprint, Statistics]:
    """The two entries of a packed dataset's metadata. Raises `DataError` where they are not what we write."""
    try:
        fingerprint, statistics = metadata["fingerprint"], metadata["statistics"]
        found = {"window": 0, "rule": {}, "validation_share": 0.0} | fingerprint
        kinds = {"tokenizer": str, "window": int, "rule": dict, "validation_share": float}
        good = isinstance(statistics, dict) and all(isinstance(found[name], kind) for name, kind in kinds.items())
    except (KeyError, TypeError):
        good = False
    if not good:
        raise DataError(f"{directory}: its metadata.json is damaged; prepare the data anew, or copy it again")
    return fingerprint, statistics


def _differences(found: Any, expected: Any, *, path: str = "") -> Iterator[str]:
    if isinstance(found, dict) and isinstance(expected, dict):
        for key, value in expected.items():
            yield from _differences(found.get(key), value, path=f"{path}.{key}" if path else key)
    elif found != expected:
        yield f"{path}: expected {expected!r}, found {found!r}"
