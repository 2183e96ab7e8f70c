"""A corpus while it is marked: numbered parts, each with a file of documents and, once it is marked, a file of marks.

    00000.documents     the documents, zstd of JSON lines
    00000.marks         their marks, in the same order

They lie in one folder, on a disk or in a bucket. A file appears whole, by a rename, and begins with a checksum. A file
that is cut or changed counts as missing. Marks name the documents that they were made of, by their checksum.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard

from lacy_jax.data.documents import Document, LeftOut, Losses, Spans
from lacy_jax.data.files import write_whole
from lacy_jax.data.pool import Marks
from lacy_jax.errors import DataError
from lacy_jax.folders import children_of
from lacy_jax.paths import absolute

if TYPE_CHECKING:
    from etils import epath

_MARKS = ".marks"


@dataclass(frozen=True)
class Part:
    """What is known of a part before it is marked. sha256: of its documents. characters: with titles."""

    documents: int
    characters: int
    sha256: str


def write_documents(folder: str, number: int, documents: Sequence[Document]) -> str:
    """Writes the documents of a part; returns their sha256."""
    return _write(_file(folder, number, ".documents"), ([each.id, each.title, each.text] for each in documents))


def read_documents(folder: str, number: int, *, sha256: str) -> list[Document]:
    """The documents of a part.

    Raises:
        DataError: the file is missing, damaged, or not the one that was written.
    """
    path = _file(folder, number, ".documents")
    if (found := _content(path)) is None or found[0] != sha256:
        path.unlink(missing_ok=True)  # so that the corpus is read again
        raise DataError(f"{path} is missing or damaged; repeat the command: the corpus is read again, marks are kept")
    return [Document(*json.loads(line)) for line in found[1].splitlines()]


def has_documents(folder: str, number: int) -> bool:
    """Whether the file is there; it is not read."""
    return bool(_file(folder, number, ".documents").exists())


def write_marks(folder: str, number: int, marks: Sequence[Marks], *, sha256: str) -> None:
    """Writes the marks of a part, whose documents have that sha256."""
    left_out = sum(isinstance(each, LeftOut) for each in marks)
    _write(_file(folder, number, _MARKS), [[sha256, left_out], *map(_row, marks)])


def read_marks(folder: str, number: int, *, sha256: str) -> list[Marks] | None:
    """The marks of a part; None where they are missing, damaged, or of other documents than those of that sha256."""
    found = _content(_file(folder, number, _MARKS))
    rows = [json.loads(line) for line in found[1].splitlines()] if found else []
    return [_marks(row) for row in rows[1:]] if rows and rows[0][0] == sha256 else None


def count_left_out(folder: str, number: int, *, sha256: str) -> int | None:
    """How many documents of a part could not be marked; None where `read_marks` gives None."""
    found = _content(_file(folder, number, _MARKS))
    made_of, left_out = json.loads(found[1].partition(b"\n")[0]) if found else ("", 0)
    return int(left_out) if made_of == sha256 else None


def marked_parts(folder: str) -> set[int]:
    """The numbers of the parts that have a file of marks, good or not."""
    names = [path.name for path in children_of(absolute(folder))]
    return {int(name.removesuffix(_MARKS)) for name in names if name.endswith(_MARKS)}


def _file(folder: str, number: int, suffix: str) -> "epath.Path":
    return absolute(folder) / f"{number:05d}{suffix}"


def _write(path: "epath.Path", rows: Iterable[Any]) -> str:
    content = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows).encode()
    digest = hashlib.sha256(content).hexdigest()
    write_whole(path, digest.encode() + zstandard.compress(content))
    return digest


def _content(path: "epath.Path") -> tuple[str, bytes] | None:
    """What a file holds, after its sha256; None where it is missing or damaged."""
    try:
        sealed = path.read_bytes()
        # Not all at once: memory would be taken for as many bytes as the file says, and a damaged one says any number.
        content = zstandard.ZstdDecompressor().decompressobj().decompress(sealed[64:])
    except (FileNotFoundError, zstandard.ZstdError):
        return None
    digest = hashlib.sha256(content).hexdigest()
    return (digest, content) if digest.encode() == sealed[:64] else None


def _row(marks: Marks) -> Any:
    if isinstance(marks, LeftOut):
        return {"reason": marks.reason, "beginning": marks.beginning}
    arrays = (marks.starts, marks.ends, marks.subject.astype(int), marks.repeated.astype(int))
    losses = [] if marks.losses is None else [marks.losses.ends.tolist(), marks.losses.nats.tolist()]
    return [*(array.tolist() for array in arrays), list(marks.kinds), *losses]


def _marks(row: Any) -> Marks:
    if isinstance(row, dict):
        return LeftOut(**row)
    starts, ends, subject, repeated, kinds, *losses = row
    return Spans(
        starts=np.array(starts, np.int32),
        ends=np.array(ends, np.int32),
        kinds=tuple(kinds),
        subject=np.array(subject, bool),
        repeated=np.array(repeated, bool),
        losses=Losses(np.array(losses[0], np.int32), np.array(losses[1], np.float32)) if losses else None,
    )
