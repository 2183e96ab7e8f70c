"""Opening files: on a disk or in a bucket, plain or compressed, read from their beginning and never held whole."""

import contextlib
import gzip
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import zstandard

from lacy_jax.errors import StorageError
from lacy_jax.folders import bucket_files
from lacy_jax.paths import is_bucket

_CHUNK = 2**14  # bytes that are decompressed at once; 4 bytes can stand for 128 KiB
_SUMS = ("crc32c", "md5Hash", "ETag", "etag")  # what a listing of gs:// or s3:// says of an object's content

Stamp = tuple[int, int]
"""A file's size in bytes, and when it was changed, in ns; of an object, a number made of its checksum."""


@contextlib.contextmanager
def open_bytes(path: str | Path) -> Iterator[IO[bytes]]:
    """A file to read and to seek in, as it is.

    Raises:
        OSError: it is on a disk and cannot be read.
        StorageError: it is in a bucket and cannot be read, now or later.
    """
    with _object(str(path)) if is_bucket(path) else open(path, "rb") as file:
        yield file


@contextlib.contextmanager
def open_decompressed(path: str | Path) -> Iterator[IO[bytes]]:
    """What a file holds, decompressed where its name ends in .gz or .zst.

    Raises:
        OSError, StorageError: as `open_bytes`.
        gzip.BadGzipFile, EOFError, zlib.error, zstandard.ZstdError: the archive is damaged or cut, perhaps only later.
    """
    suffix = Path(path).suffix
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(open_bytes(path))
        if suffix in (".gz", ".zst") and not file.peek(1):
            raise EOFError(f"the file is cut: it is empty, and a {suffix} file never is")
        if suffix == ".gz":
            file = stack.enter_context(gzip.open(file))
        elif suffix == ".zst":
            file = stack.enter_context(io.BufferedReader(_ZstdFrames(file)))
        yield file


def stamp_of(path: str | Path, file: IO[bytes]) -> Stamp:
    """What changes when the file does, without reading it. `file` is the file at `path`, opened."""
    if not is_bucket(path):
        status = os.fstat(file.fileno())
        return status.st_size, status.st_mtime_ns
    files, name = bucket_files(str(path))
    info = files.info(name)
    sums = json.dumps([str(info.get(each, "")) for each in _SUMS])
    return int(info["size"]), int.from_bytes(hashlib.sha256(sums.encode()).digest()[:6], "big")


def _object(path: str) -> IO[bytes]:
    return io.BufferedReader(_Object(path), 2**20)


class _Object(io.RawIOBase):
    """An object of a bucket. Whatever its client raises is a `StorageError`, which nobody takes for a damaged file."""

    def __init__(self, path: str) -> None:
        self._path = path
        with self._reached():
            files, name = bucket_files(path)
            self._file = files.open(name, "rb")

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of gcsfs, s3fs, aiohttp and google.auth, which have no class in common
            raise StorageError(f"{self._path} cannot be read ({type(error).__name__}: {error})") from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        with self._reached():
            return int(self._file.seek(offset, whence))

    def readinto(self, buffer: Any, /) -> int:
        with self._reached():
            found = self._file.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


class _ZstdFrames(io.RawIOBase):
    """What a zstd file of one or more frames holds; raises `EOFError` where it ends inside a frame.

    zstandard's own reader takes the end of a file for the end of its frame.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._chunks = _decompressed(file)
        self._chunk = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._chunk:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._chunk = memoryview(chunk)
        count = min(len(buffer), len(self._chunk))
        buffer[:count] = self._chunk[:count]
        self._chunk = self._chunk[count:]
        return count


def _decompressed(file: IO[bytes]) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**31)  # what zstd --long=31 writes
    frame, rest = None, b""
    while chunk := rest or file.read(_CHUNK):
        frame = frame or decompressor.decompressobj()
        yield frame.decompress(chunk)
        rest = frame.unused_data
        frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the file is cut: it ends inside a zstd frame")
