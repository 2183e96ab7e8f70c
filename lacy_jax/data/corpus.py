"""Reading a corpus: a stream of documents in a fixed order, and the fingerprint of what they depend on.

A corpus is a module, or any object, with two functions of `CorpusConfig`:

    documents(settings) -> Iterator[tuple[str, Document | LeftOut]]    where each stands, for messages, and what it is
    fingerprint(settings) -> dict                                      what they depend on, as plain JSON values

and optionally `problems(settings) -> Iterator[str]`: lines about missing files and the like, said before the start.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

from lacy_jax.config import CorpusConfig
from lacy_jax.data.documents import BEGINNING, Document, LeftOut, clean_text
from lacy_jax.data.files import remembered_hashes
from lacy_jax.errors import DataError
from lacy_jax.paths import is_bucket
from lacy_jax.presets import CLOSED_WORLD
from lacy_jax.registry import Registry

CORPORA = Registry(
    kind="corpus",
    group="lacy_jax.corpora",
    built_in={
        "vital_articles": "lacy_jax.data.corpora.vital_articles",
        "jsonl": "lacy_jax.data.corpora.jsonl",
        "parquet": "lacy_jax.data.corpora.parquet",
        "text": "lacy_jax.data.corpora.text",
        "tfds": "lacy_jax.data.corpora.tfds",
        "biographies": "lacy_jax.evidence.closed_world.world.corpus",
        "biographies_told": "lacy_jax.evidence.closed_world.world.told",
    },
    error=DataError,
    functions=("documents", "fingerprint"),
)

# These read only what is installed here.
EMBEDDED = ("vital_articles", *CLOSED_WORLD)
# These read config.corpus.files, and run no code of others.
OF_FILES = ("jsonl", "parquet", "text")

_ENOUGH = 10_000  # records that show whether a setting is wrong
_USABLE = 20


def read_documents(
    corpus: CorpusConfig, *, left_out: Callable[[str, LeftOut], None] | None = None
) -> Iterator[Document]:
    """Streams a corpus in a fixed order; white space and line ends are kept, lone surrogates become U+FFFD.

    Records that cannot be documents, and further documents of an id that was there, are left out.

    Args:
        left_out: called with the place of each such record. By default their number is logged.

    Raises:
        DataError: missing data, or fewer than one record of `_USABLE` can be used.
    """
    found = CORPORA.load(corpus.name).documents(corpus)
    seen: set[int] = set()
    records, first = 0, ""
    for where, raw in found:
        records += 1
        record = _checked(raw, seen)
        if isinstance(record, LeftOut):
            first = first or f"{where}: {record.reason}"
            if left_out is not None:
                left_out(where, record)
        else:
            yield record
        if records == _ENOUGH:
            _refuse_unusable(corpus, records, usable=len(seen), first=first)
        if len(seen) == corpus.max_documents > 0:
            break
    _refuse_unusable(corpus, records, usable=len(seen), first=first)
    if left_out is None and records > len(seen):
        logging.warning("corpus %s: %d records left out; the first: %s", corpus.name, records - len(seen), first)


def _checked(raw: Document | LeftOut, seen: set[int]) -> Document | LeftOut:
    """The record without lone surrogates; left out if its id is in `seen`, to which it is added."""
    if isinstance(raw, LeftOut):
        return raw
    document = Document(id=clean_text(raw.id), title=clean_text(raw.title), text=clean_text(raw.text))
    key = hash(document.id)  # 64 bits: a set of the strings would take gigabytes for a large corpus
    if key in seen:
        reason = (
            f"the document id {document.id!r} occurs twice, and ids must be unique; config.corpus.id_field names the "
            "field that holds them"
        )
        return LeftOut(reason, document.text[:BEGINNING])
    seen.add(key)
    return document


def _refuse_unusable(corpus: CorpusConfig, records: int, *, usable: int, first: str) -> None:
    """Raises `DataError` where so few records can be used that a setting is wrong, or all files are broken."""
    if not records:
        raise DataError(f"corpus {corpus.name}: there are no documents in it")
    if usable * _USABLE < records:
        raise DataError(
            f"corpus {corpus.name}: only {usable:,} of {records:,} records can be used; the first that cannot: {first}"
        )


def corpus_fingerprint(corpus: CorpusConfig) -> dict[str, Any]:
    """What `read_documents` depends on, as plain JSON values: equal fingerprints stand for equal documents and splits.

    Files stand in it by name and sha256, wherever they lie; a TFDS dataset by name, version and sizes of its shards.

    Raises:
        DataError: there is no such data.
    """
    own: dict[str, Any] = CORPORA.load(corpus.name).fingerprint(corpus)
    whole = {
        "name": corpus.name,
        "max_documents": corpus.max_documents,
        "validation_share": corpus.validation_share,
    }
    return whole | own


def corpus_of_checkpoint(corpus: CorpusConfig, *, data: dict[str, Any], directory: str) -> CorpusConfig:
    """The corpus that a checkpoint's settings name, if it may be read without asking the user.

    A checkpoint may come from anybody and name any file. Its files are read only if they are those that it was trained
    on, by sha256, which only somebody who has them can know. Nothing is downloaded, and no bucket is asked.

    Args:
        data: the fingerprint of the data that the checkpoint was trained on.
        directory: where hashes of files are remembered.

    Raises:
        DataError: its files are other files, or are not there, or lie in a bucket.
    """
    if corpus.name in OF_FILES:
        agree = "it is read only if you agree: make JSON lines of it, and name them as the partner: documents:FILE"
        if corpus.name == "jsonl":
            agree = f"if you agree, name it as the partner: documents:{corpus.files}"
        if is_bucket(corpus.files):
            raise DataError(f"the checkpoint names {corpus.files!r} as its corpus, and buckets are not asked; {agree}")
        with remembered_hashes(directory):
            here = corpus_fingerprint(corpus)
        trained = {"validation_share": here["validation_share"]} | dict(data.get("corpus") or {})
        if here != trained:
            raise DataError(
                f"the checkpoint names {corpus.files!r} as its corpus, which is not what it was trained on, so it is "
                f"not read; {agree}"
            )
    return dataclasses.replace(corpus, tfds_download=False)
