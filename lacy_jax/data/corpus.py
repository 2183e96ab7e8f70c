"""Reading a corpus: a stream of documents in a fixed order, and the fingerprint of what they depend on.

A corpus is a module, or any object, with two functions of `CorpusConfig`:

    documents(settings) -> Iterator[tuple[str, Document]]    where each stands, for messages, and the document
    fingerprint(settings) -> dict                            what the documents depend on, as plain JSON values

and optionally `problems(settings) -> Iterator[str]`: lines about missing files and the like, said before the start.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from lacy_jax.config import CorpusConfig
from lacy_jax.data.documents import Document, clean_text
from lacy_jax.data.files import remembered_hashes
from lacy_jax.errors import DataError
from lacy_jax.paths import is_bucket
from lacy_jax.registry import Registry

CORPORA = Registry(
    kind="corpus",
    group="lacy_jax.corpora",
    built_in={
        "vital_articles": "lacy_jax.data.corpora.vital_articles",
        "jsonl": "lacy_jax.data.corpora.jsonl",
        "tfds": "lacy_jax.data.corpora.tfds",
        "biographies": "lacy_jax.evidence.closed_world.world.corpus",
    },
    error=DataError,
)

# These read only what is installed here.
EMBEDDED = ("vital_articles", "biographies")


def read_documents(corpus: CorpusConfig) -> Iterator[Document]:
    """Streams a corpus in a fixed order; white space and line ends are kept, lone surrogates become U+FFFD.

    Raises:
        DataError: missing or malformed data (naming file and line), an id that occurs twice, or no documents.
    """
    found = CORPORA.load(corpus.name).documents(corpus)
    seen = set()
    for where, raw in itertools.islice(found, corpus.max_documents or None):
        document = Document(id=clean_text(raw.id), title=clean_text(raw.title), text=clean_text(raw.text))
        key = hash(document.id)  # 64 bits: a set of the strings would take gigabytes for a large corpus
        if key in seen:
            raise DataError(
                f"{where}: the document id {document.id!r} occurs twice, and ids must be unique; "
                "config.corpus.id_field names the field that holds them"
            )
        seen.add(key)
        yield document
    if not seen:
        raise DataError(f"corpus {corpus.name}: there are no documents in it")


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

    A checkpoint may come from anybody and name any file. Its JSON-lines files are read only if they are those that it
    was trained on, by sha256, which only somebody who has them can know. Nothing is downloaded, and no bucket is asked.

    Args:
        data: the fingerprint of the data that the checkpoint was trained on.
        directory: where hashes of files are remembered.

    Raises:
        DataError: its files are other files, or are not there, or lie in a bucket.
    """
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
