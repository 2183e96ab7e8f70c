"""The corpus text: plain files, each one document, alone or in folders."""

from collections.abc import Iterator
from typing import Any

from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpora import file_names
from lacy_jax.data.corpora.file_names import Kind
from lacy_jax.data.documents import Document, LeftOut
from lacy_jax.data.files import LARGEST, beginning_of
from lacy_jax.data.opening import open_bytes
from lacy_jax.errors import DataError

_KIND = Kind((".txt", ".md"), folders="allowed")


def problems(corpus: CorpusConfig) -> Iterator[str]:
    """One line if a file does not exist; reads none."""
    return file_names.problems(corpus, _KIND)


def documents(corpus: CorpusConfig) -> Iterator[tuple[str, Document | LeftOut]]:
    """One document per file, without a title. Its id is its name, with enough folders to be unique.

    A file that is not UTF-8 is left out.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    for file in file_names.named_files(corpus, _KIND):
        try:
            with open_bytes(file.path) as opened:
                content = opened.read(LARGEST + 1)
        except OSError as error:
            raise DataError(f"cannot read {file.path} ({error.strerror})") from None
        yield file.path, _document(content, identity=file.name)


def fingerprint(corpus: CorpusConfig) -> dict[str, Any]:
    """Each file by its name (see `documents`) and sha256."""
    return {"files": file_names.fingerprint(file_names.named_files(corpus, _KIND))}


def _document(content: bytes, *, identity: str) -> Document | LeftOut:
    if len(content) > LARGEST:
        return LeftOut(f"longer than {LARGEST >> 20} MiB", beginning_of(content))
    try:
        return Document(id=identity, title="", text=content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return LeftOut(f"not UTF-8 (byte {error.start + 1}); save the file as UTF-8", beginning_of(content))
