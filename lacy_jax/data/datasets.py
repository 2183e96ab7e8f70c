"""Datasets on disk: TensorFlow Datasets in ArrayRecord files, written and read without TensorFlow.

Shards are written one after the other, in the order of the input, so the same input gives the same records whatever
its size; only one shard is held in memory. A dataset appears under its name when it is complete, by a rename. What it
was made from is stored in it as its fingerprint. See docs/data_format.md.
"""

import dataclasses
import hashlib
import itertools
import json
import math
import tempfile
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.dataset_info import read_from_json
from tensorflow_datasets.core.read_only_builder import ReadOnlyBuilder
from tensorflow_datasets.core.writer import ExampleWriter
from tensorflow_datasets.proto import tf_example_pb2

from lacy_jax.config import MOST_CONTEXT
from lacy_jax.data.checksums import check_files, write_checksums
from lacy_jax.data.documents import Document, Losses, Spans
from lacy_jax.data.files import parse_json
from lacy_jax.errors import DataError, StorageError
from lacy_jax.folders import of_storage

Fingerprint = dict[str, Any]
"""What a dataset was made from and how, as nested plain JSON values."""

Record = dict[str, Any]
Statistics = dict[str, dict[str, int]]
Shard = Callable[[], Iterator[tuple[int, Record]]]
Kind = Literal["annotated", "packed"]

VERSION = "1.0.0"
FEATURES_FILE = "features.json"
LOSSES = "partner_losses"  # a feature of data whose marks were made by a model
_LOSS_ENDS = "partner_ends"
BYTES = tfds.features.Encoding.BYTES  # arrays as they lie in memory: small, and quick to read

_SHARD_CHARACTERS = 2**25


def fingerprint_name(prefix: str, fingerprint: Fingerprint) -> str:
    """A folder name for what `fingerprint` describes: the prefix and 12 hex digits of its hash."""
    text = json.dumps(fingerprint, sort_keys=True)
    return f"{prefix}-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}"


def dataset_directory(directory: Path, kind: Kind, *, name: str) -> Path:
    """The version folder of a dataset under the data directory, there or not."""
    return directory / kind / name / VERSION


def version_folder(folder: Path) -> Path:
    """The version folder that is meant: the folder itself, or the one within it."""
    return folder / VERSION if (folder / VERSION).is_dir() else folder


def kind_of(directory: Path) -> Kind | None:
    """What a version folder says that it holds; None where it holds no dataset of ours."""
    try:
        found = parse_json((directory / "dataset_info.json").read_bytes())
    except (OSError, ValueError):
        return None
    name = found.get("name") if isinstance(found, dict) else None
    return name if name in typing.get_args(Kind) else None


@dataclasses.dataclass
class Settings(tfds.core.BuilderConfig):
    """What is written, as a TFDS builder configuration.

    shards: called with the folder that is being written; gives the shards of each split, which are made in that order.
    statistics: counts of each split, complete when the last shard is made.
    """

    fingerprint: Fingerprint = dataclasses.field(default_factory=dict)
    statistics: Statistics = dataclasses.field(default_factory=dict)
    features: dict[str, Any] = dataclasses.field(default_factory=dict)
    shards: Callable[[Path], dict[str, list[Shard]]] = lambda _: {}


class _Info(tfds.core.DatasetInfo):
    """What TFDS writes last, before it gives the folder its name; the checksums follow."""

    def write_to_directory(self, dataset_info_dir: Any, all_metadata: bool = True) -> None:
        super().write_to_directory(dataset_info_dir, all_metadata=all_metadata)
        write_checksums(dataset_info_dir)


class _Writer(ExampleWriter):
    """Writes the features of each record in the order of their names: protobuf's own order differs by process."""

    def write(self, path: Any, examples: Iterable[tuple[Any, bytes]]) -> Any:
        return super().write(path, ((key, _in_order_of_names(record)) for key, record in examples))


def _in_order_of_names(record: bytes) -> bytes:
    ordered: bytes = tf_example_pb2.Example.FromString(record).SerializeToString(deterministic=True)
    return ordered


class _Builder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Shard by shard: `GeneratorBasedBuilder` would sort all records in memory, and above 1 GB ask for TensorFlow."""

    VERSION = tfds.core.Version(VERSION)
    code_path = None  # TFDS would look for checksums beside this file, by a package that it does not declare

    def _info(self) -> tfds.core.DatasetInfo:
        settings = self.builder_config
        return _Info(
            builder=self,
            features=tfds.features.FeaturesDict(settings.features),
            disable_shuffling=True,
            # Kept by reference: TFDS writes it after the records, when the statistics are complete.
            metadata=tfds.core.MetadataDict(fingerprint=settings.fingerprint, statistics=settings.statistics),
        )

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Shard]]:
        del dl_manager  # nothing is downloaded
        shards: dict[str, list[Shard]] = self.builder_config.shards(Path(self.data_path))
        return shards

    def _example_writer(self) -> ExampleWriter:
        return _Writer(file_format=self.info.file_format)

    def _log_download_bytes(self) -> None:
        """TFDS prints here; progress is the caller's to show."""

    def _log_download_done(self) -> None:
        """TFDS prints here; progress is the caller's to show."""


class Annotated(_Builder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS "annotated": documents with character spans, one split "documents"."""

    name = "annotated"


class Packed(_Builder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS "packed": windows of tokens with factual bits, splits "train" and "validation"."""

    name = "packed"


def write_dataset(settings: Settings, kind: Kind, *, directory: Path) -> None:
    """Writes one dataset under the data directory; on any failure, even a kill, nothing is under its name."""
    builder_class = {"annotated": Annotated, "packed": Packed}[kind]
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # TFDS warns of every configuration that is not listed in the class
    try:
        builder = builder_class(data_dir=directory, config=settings)
    finally:
        logging.set_verbosity(verbosity)
    with tempfile.TemporaryDirectory() as downloads:  # TFDS wants one, though nothing is downloaded
        builder.download_and_prepare(file_format="array_record", download_dir=downloads)


def open_dataset(directory: Path, kind: Kind, *, without: str = "") -> Any:
    """A TFDS builder to read from a version folder.

    Its files are compared with their checksums (checksums.py). Its records are read by features made here: TFDS would
    import whatever classes the folder's files name. `without`: what the names of files begin with that are not there.

    Raises:
        DataError: there is no such dataset, it is damaged, or it has other features than ours.
    """
    check_files(directory, without=without)
    none = DataError(f"{directory} is no complete {kind} dataset: name the version folder of one, or prepare it")
    try:
        info = read_from_json(directory / "dataset_info.json")
        stored = parse_json((directory / FEATURES_FILE).read_bytes())
    except Exception as error:  # protobuf's and TFDS' own kinds, too
        raise none from error
    if info.name in ("annotated", "packed") and info.name != kind:
        raise DataError(
            f"{directory} is a dataset of the kind {info.name}; name one of the kind {kind}, {kind}/NAME/{VERSION}"
        )
    if info.name != kind:
        raise none
    features = tfds.features.FeaturesDict(_own_features(stored, kind, path=directory / FEATURES_FILE))
    info.features.CopyFrom(features.to_proto())
    info.module_name = ""
    try:
        builder = ReadOnlyBuilder(directory, info_proto=info)
        complete = "fingerprint" in (builder.info.metadata or {})
    except Exception as error:
        raise none from error
    if not complete:
        raise none
    return builder


class Records(Sequence[Record]):
    """The records of one split of an open dataset, by number.

    A record that is damaged raises `DataError` when it is read, one on a disk that does not answer `StorageError`.
    """

    def __init__(self, builder: Any, split: str) -> None:
        """Raises `DataError` where the dataset has no such split, or its files are damaged."""
        self._where = f"{builder.data_path}, split {split}"
        try:
            self._source = builder.as_data_source(split=split)
        except (OSError, RuntimeError, ValueError) as error:
            raise damaged(self._where, error) from None

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:
        try:
            return self._source[index]
        except (OSError, RuntimeError, ValueError) as error:
            raise damaged(self._where, error) from None


def damaged(where: str, error: Exception) -> DataError | StorageError:
    """What to raise for records that cannot be read: a disk that does not answer is no reason to delete them."""
    said = str(error).partition("\n")[0][:300]
    if of_storage(error):
        return StorageError(f"{where} cannot be read ({said})")
    return DataError(f"{where} is damaged ({said}); delete that folder and prepare it anew, or copy it again")


def _own_features(stored: Any, kind: Kind, *, path: Path) -> dict[str, Any]:
    """The features that we write for `kind`; `stored` (features.json) says only how long and wide tokens are.

    Raises:
        DataError: it describes other features than these.
    """
    try:
        losses = LOSSES in stored["featuresDict"]["features"]
        own = annotated_features(losses=losses)
        if kind == "packed":
            tokens = stored["featuresDict"]["features"]["tokens"]["tensor"]
            (length,) = tokens["shape"]["dimensions"]
            if not 1 < int(length) <= MOST_CONTEXT + 1:
                raise ValueError(f"windows of {length} tokens")
            dtype = {"uint16": np.uint16, "int32": np.int32}[tokens["dtype"]]
            own = packed_features(int(length) - 1, dtype=dtype, losses=losses)
        found = {name: each["pythonClassName"] for name, each in stored["featuresDict"]["features"].items()}
        found["the record"] = stored["pythonClassName"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} describes no {kind} dataset of lacy_jax ({error!r}); prepare the data anew") from None
    classes = {**{name: type(each) for name, each in own.items()}, "the record": tfds.features.FeaturesDict}
    known = {name: f"{each.__module__}.{each.__name__}" for name, each in classes.items()}
    other = [name for name in {**found, **known} if found.get(name) != known.get(name)]
    if other:
        raise DataError(
            f"{path}: {other[0]} is of class {found.get(other[0])}, and lacy_jax writes {known.get(other[0])}; "
            "classes that a file names are never imported; prepare the data anew"
        )
    return own


def annotated_features(*, losses: bool) -> dict[str, Any]:
    """The features of a document with its spans, and with a partner's losses (`Losses`) where there are any."""
    ends = tfds.features.Tensor(shape=(None,), dtype=np.int32, encoding=BYTES)
    nats = tfds.features.Tensor(shape=(None,), dtype=np.float32, encoding=BYTES)
    further = {_LOSS_ENDS: ends, LOSSES: nats} if losses else {}
    return further | {
        "id": tfds.features.Text(),
        "title": tfds.features.Text(),
        "text": tfds.features.Text(),
        "starts": tfds.features.Tensor(shape=(None,), dtype=np.int32, encoding=BYTES),
        "ends": tfds.features.Tensor(shape=(None,), dtype=np.int32, encoding=BYTES),
        "kinds": tfds.features.Sequence(tfds.features.Text()),
        "subject": tfds.features.Tensor(shape=(None,), dtype=np.bool_, encoding=BYTES),
        "repeated": tfds.features.Tensor(shape=(None,), dtype=np.bool_, encoding=BYTES),
    }


def packed_features(window: int, *, dtype: Any, losses: bool) -> dict[str, Any]:
    """The features of a window: `window` targets and the token before them, ids of `dtype`."""
    nats = tfds.features.Tensor(shape=(window + 1,), dtype=np.float16, encoding=BYTES)
    return ({LOSSES: nats} if losses else {}) | {
        "tokens": tfds.features.Tensor(shape=(window + 1,), dtype=dtype, encoding=BYTES),
        "factual": tfds.features.Tensor(shape=(window + 1,), dtype=np.bool_, encoding=BYTES),
        "length": tfds.features.Scalar(np.int32),
    }


def even_sizes(count: int, parts: int) -> list[int]:
    """`count` cut into `parts` sizes that differ by at most one."""
    return [(part + 1) * count // parts - part * count // parts for part in range(parts)]


def shards_of(source: Iterator[Record], sizes: list[int]) -> list[Shard]:
    """Shards that take the next records of one source, when each is made; the last takes all that are left."""

    def shard(size: int) -> Shard:
        return lambda: iter(zip(range(size), source, strict=False))

    return [*(shard(size) for size in sizes[:-1]), lambda: enumerate(source)]


def write_annotated(
    documents: Iterable[tuple[Document, Spans]],
    *,
    directory: Path,
    name: str,
    fingerprint: Fingerprint,
    count: int,
    characters: int,
) -> None:
    """Writes `count` documents, about `characters` long together, in their order, under directory/annotated/name.

    The first says whether there are a partner's losses: all have them, or none.
    """
    shards = max(1, min(count, math.ceil(characters / _SHARD_CHARACTERS)))
    first = list(itertools.islice(source := iter(documents), 1))
    records = map(_annotated_record, itertools.chain(first, source))
    settings = Settings(
        name=name,
        fingerprint=fingerprint,
        statistics={"documents": {"documents": count, "characters": characters}},
        shards=lambda _: {"documents": shards_of(records, even_sizes(count, shards))},
        features=annotated_features(losses=any(spans.losses is not None for _, spans in first)),
    )
    write_dataset(settings, "annotated", directory=directory)


class AnnotatedSource:
    """The documents of an annotated dataset with their marks, in the order of the corpus.

    statistics: the numbers of "documents" and their "characters". has_losses: whether marks come with `Losses`.
    """

    def __init__(self, directory: Path) -> None:
        """Opens a version folder; raises `DataError` where there is no annotated dataset."""
        builder = open_dataset(directory, "annotated")
        self.fingerprint: Fingerprint = builder.info.metadata["fingerprint"]
        self.statistics: dict[str, int] = builder.info.metadata["statistics"]["documents"]
        self.has_losses = LOSSES in builder.info.features
        self._records = Records(builder, "documents")

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> tuple[Document, Spans]:
        record = self._records[index]
        document = Document(*(record[key].decode() for key in ("id", "title", "text")))
        spans = Spans(
            starts=record["starts"],
            ends=record["ends"],
            kinds=tuple(kind.decode() for kind in record["kinds"]),
            subject=record["subject"],
            repeated=record["repeated"],
            losses=Losses(record[_LOSS_ENDS], record[LOSSES]) if self.has_losses else None,
        )
        return document, spans

    def __iter__(self) -> Iterator[tuple[Document, Spans]]:
        return (self[index] for index in range(len(self)))

    def evenly(self, most: int) -> Iterator[tuple[Document, Spans]]:
        """At most so many of them, from all over the corpus."""
        count = min(len(self), most)
        return (self[nth * len(self) // count] for nth in range(count))


def _annotated_record(item: tuple[Document, Spans]) -> Record:
    document, spans = item
    losses = {} if spans.losses is None else {_LOSS_ENDS: spans.losses.ends, LOSSES: spans.losses.nats}
    return losses | {
        "id": document.id,
        "title": document.title,
        "text": document.text,
        "starts": np.asarray(spans.starts, np.int32),
        "ends": np.asarray(spans.ends, np.int32),
        "kinds": list(spans.kinds),
        "subject": np.asarray(spans.subject, np.bool_),
        "repeated": np.asarray(spans.repeated, np.bool_),
    }
