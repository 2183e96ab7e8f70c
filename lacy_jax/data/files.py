"""Files: hashes, remembered between runs; JSON lines, plain or compressed; what is written whole or not at all."""

import contextlib
import gzip
import hashlib
import itertools
import json
import os
import zlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import filelock
import zstandard
from etils import epath

from lacy_jax.data.documents import BEGINNING, LeftOut
from lacy_jax.data.opening import Stamp, open_bytes, open_decompressed, stamp_of
from lacy_jax.errors import DataError
from lacy_jax.folders import read_file
from lacy_jax.paths import is_bucket

HASHES_FILE = "files.json"
DEEPEST = 100  # levels of JSON
LARGEST = 2**26  # bytes of one record; packing takes some 130 times as much memory


@dataclass
class _Memory:
    """Hashes by absolute path. known: those of earlier runs; new: those computed in this run."""

    known: dict[str, tuple[Stamp, str]]
    new: dict[str, tuple[Stamp, str]] = field(default_factory=dict)


_memory: ContextVar[_Memory | None] = ContextVar("_memory", default=None)


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file's contents, in hex; raises `DataError` where it cannot be read.

    Inside `remembered_hashes` a file is read only where its size or its time of change is another than before.
    """
    memory, key = _memory.get(), str(path) if is_bucket(path) else os.path.abspath(path)
    try:
        with open_bytes(path) as file:
            stamp = stamp_of(path, file)
            if memory is not None and (found := memory.new.get(key) or memory.known.get(key)) and found[0] == stamp:
                return found[1]
            digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # it has readinto
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror})") from None
    if memory is not None:
        memory.new[key] = (stamp, digest)
    return digest


@contextlib.contextmanager
def remembered_hashes(folder: str | Path) -> Iterator[None]:
    """Lets `file_sha256` remember, in `folder`/files.json: path -> [size, time of change in ns, sha256, check].

    The check is of the path and the three; an entry that does not have it is not used.

    Where that cannot be read or written, or lies in a bucket, files are read again; nothing else follows from it.
    """
    on_disk = not is_bucket(folder)  # asked of the text: `Path` would make a local folder "gs:" of it
    path = Path(folder) / HASHES_FILE
    memory = _Memory(_read_hashes(path) if on_disk else {})
    token = _memory.set(memory)
    try:
        yield
    finally:
        _memory.reset(token)
    if not (memory.new and on_disk):
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.parent / ".lock"):  # of several processes none loses what another one found
            every = _read_hashes(path) | memory.new
            rows = {key: [*stamp, digest, _check(key, stamp, digest)] for key, (stamp, digest) in sorted(every.items())}
            write_whole(path, json.dumps(rows, indent=2).encode())


def _read_hashes(path: Path) -> dict[str, tuple[Stamp, str]]:
    try:
        return {
            key: ((size, changed), digest)
            for key, (size, changed, digest, check) in parse_json(path.read_bytes()).items()
            if check == _check(key, (size, changed), digest)
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _check(key: str, stamp: Stamp, digest: str) -> str:
    return f"{zlib.crc32(json.dumps([key, *stamp, digest]).encode()):08x}"


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text from anybody.

    Raises:
        ValueError: it is not JSON, has more than `DEEPEST` levels, or a number of thousands of digits.
    """
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError:  # Python's limit for whole numbers; its message names a function of Python
        raise ValueError("a number in it has thousands of digits") from None
    except RecursionError:
        raise ValueError(f"it has more than {DEEPEST} levels") from None
    level = [value]
    for _ in range(DEEPEST):  # what is read here can then be walked, compared and written without a thought of depth
        below = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = list(itertools.chain.from_iterable(below))
        if not level:
            return value
    raise ValueError(f"it has more than {DEEPEST} levels")


def read_json_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file as `json_lines` reads them.

    Raises:
        DataError: the file cannot be read, or a line is not a JSON object in UTF-8.
    """
    for where, found in json_lines(path):
        if isinstance(found, LeftOut):
            raise DataError(f"{where}: {found.reason}")
        yield where, found


def json_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any] | LeftOut]]:
    """The objects of a file of JSON lines, also .gz or .zst, each with "<path>, line <n>"; empty lines are skipped.

    A line that is no object is left out. So is, "after line <n>", the rest of an archive that is cut or damaged.

    Raises:
        DataError: the file cannot be read.
    """
    number = 0
    try:
        with open_decompressed(path) as file:
            for number, line in enumerate(_lines(file), start=1):
                if isinstance(line, LeftOut):
                    yield f"{path}, line {number}", line
                elif line.strip():
                    yield f"{path}, line {number}", _json_object(line)
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        yield f"{path}, after line {number}", LeftOut(f"cannot be read ({error})")
    except OSError as error:
        where = f"{path}, after line {number}" if number else path
        raise DataError(f"{where}: cannot be read ({error.strerror or error})") from None


def _lines(file: IO[bytes]) -> Iterator[bytes | LeftOut]:
    """The lines of a file; no more than `LARGEST` bytes of one are held."""
    while line := file.readline(LARGEST):
        if len(line) < LARGEST or line.endswith(b"\n"):
            yield line
            continue
        while (more := file.readline(LARGEST)) and not more.endswith(b"\n"):
            pass
        yield LeftOut(f"longer than {LARGEST >> 20} MiB", beginning_of(line))


def beginning_of(content: bytes) -> str:
    """How bytes begin, for people; those that are not UTF-8 become U+FFFD."""
    return content[: 4 * BEGINNING].decode("utf-8", "replace")[:BEGINNING]


def read_json_log(path: Path | epath.Path) -> list[dict[str, Any]]:
    """The objects of a file that a run appends to, one per line; [] where there is none.

    A last line that a crash cut off is left out. So is all that follows a line that is not JSON.

    Raises:
        StorageError: the disk or the bucket does not give it.
    """
    rows = []
    for line in (read_file(path) or b"").split(b"\n")[:-1]:
        try:
            rows.append(parse_json(line))
        except ValueError:
            break
    return rows


def _json_object(line: bytes) -> dict[str, Any] | LeftOut:
    try:
        value = parse_json(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8"
    except ValueError as error:
        reason = f"not JSON ({error}); every line must be one JSON object"
    else:
        if isinstance(value, dict):
            return value
        reason = f"a JSON {type(value).__name__}, not an object; every line must be one JSON object"
    return LeftOut(reason, beginning_of(line).rstrip())


@contextlib.contextmanager
def written_whole(path: Path | epath.Path) -> Iterator[Path | epath.Path]:
    """A path to write to; the file is moved to `path` when the block ends.

    A block that fails leaves nothing: a reader of `path` finds the old file or the whole new one. In a bucket, where
    an object is there only when it is whole, the path is `path` itself.
    """
    if is_bucket(path):
        yield path
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    unfinished.unlink(missing_ok=True)
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_whole(path: Path | epath.Path, content: bytes) -> None:
    """Puts `content` into a file at `path`, as `written_whole` does."""
    with written_whole(path) as unfinished:
        unfinished.write_bytes(content)
