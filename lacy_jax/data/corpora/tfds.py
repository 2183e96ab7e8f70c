"""The corpus tfds: any dataset of TensorFlow Datasets with a text feature."""

from collections.abc import Iterator
from typing import Any

from lacy_jax.config import CorpusConfig
from lacy_jax.data.documents import BEGINNING, Document, LeftOut
from lacy_jax.errors import DataError, StorageError
from lacy_jax.folders import of_storage

_SPLIT = "train"


def documents(corpus: CorpusConfig) -> Iterator[tuple[str, Document | LeftOut]]:
    """The train split. Without an id feature, a document's id is "train:<index>"; title_field "" means no titles.

    Records that are damaged or not in UTF-8 are left out.

    Raises:
        DataError: the dataset is not there, or lacks a feature.
    """
    builder = _builder(corpus)
    features = builder.info.features
    has_id = corpus.id_field in features
    for field in filter(None, (corpus.title_field, corpus.text_field)):
        if field not in features:
            raise DataError(
                f"{builder.info.full_name}: has no feature {field!r} but {', '.join(map(repr, sorted(features)))}; "
                "set config.corpus.title_field and config.corpus.text_field"
            )
    source = builder.as_data_source(split=_SPLIT)
    for index in range(len(source)):
        found: Document | LeftOut
        try:
            record = source[index]
            identity = record[corpus.id_field] if has_id else f"{_SPLIT}:{index}"
            strings = (identity, record.get(corpus.title_field, ""), record[corpus.text_field])
            found = Document(*(each.decode() if isinstance(each, bytes) else str(each) for each in strings))
        except (OSError, RuntimeError, ValueError) as error:  # what array_record raises; the last also of bad UTF-8
            if of_storage(error):
                raise StorageError(f"{builder.info.full_name} cannot be read ({error})") from error
            found = LeftOut(f"cannot be read ({str(error)[:BEGINNING]})")
        yield f"{builder.info.full_name}, record {index}", found


def fingerprint(corpus: CorpusConfig) -> dict[str, Any]:
    """The fields that are read, the dataset's name and version, and the sizes of its shards."""
    builder = _builder(corpus)
    split = builder.info.splits[_SPLIT]
    return {
        "fields": [corpus.id_field, corpus.title_field, corpus.text_field],
        "dataset": builder.info.full_name,
        "split": _SPLIT,
        "shards": [int(length) for length in split.shard_lengths],
        "bytes": int(split.num_bytes),
    }


def _builder(corpus: CorpusConfig) -> Any:
    # Slow to import, and only this corpus needs them; the second registers wikipedia, which TFDS itself leaves out
    # where TensorFlow is missing.
    import tensorflow_datasets as tfds
    import tensorflow_datasets.text

    name, directory = corpus.tfds_name, corpus.tfds_dir or None
    try:
        builder = tfds.builder(name, data_dir=directory, file_format="array_record")
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise DataError(
            f"config.corpus.tfds_name={name!r}: {str(error).splitlines()[0]} (in config.corpus.tfds_dir="
            f"{corpus.tfds_dir!r}, which must hold it in array_record files)"
        ) from None
    prepared = builder.is_prepared()
    if not prepared and corpus.tfds_download:
        try:
            builder.download_and_prepare(file_format="array_record")
        except Exception as error:  # whatever the dataset's own code raises
            raise DataError(f"{name}: TFDS could not prepare it: {type(error).__name__}: {error}") from error
    elif not prepared:
        raise DataError(
            f"{name}: not prepared in {builder.data_path}; set config.corpus.tfds_dir to where it is, or "
            f"config.corpus.tfds_download=true to fetch it, or run: tfds build {name} --file_format=array_record"
        )
    if _SPLIT not in builder.info.splits:
        raise DataError(f"{name}: has no split {_SPLIT!r} but {', '.join(map(repr, builder.info.splits))}")
    return builder
