"""Folders on disks and in buckets: whether they can be written or read, and what that needs (docs/buckets.md).

Objects are read and written by fsspec (gcsfs, s3fs) and arrays by TensorStore, which Orbax lets write to gs:// alone.
"""

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import filelock

from lacy_jax.errors import LacyError, StorageError
from lacy_jax.paths import absolute, is_bucket

_PROBE_BYTES = 2**16
_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ESTALE}
_CLIENTS = ("gcsfs", "google", "aiohttp", "requests")  # packages whose errors are those of a bucket
# Words of the errors that TensorStore, ArrayRecord and SQLite make of those of the system and of a bucket.
_OF_STORAGE = re.compile(
    r"No space left|disk is full|File too large|quota|Read-only|Permission denied|Input/output error|gs://"
)
_SAID = 300  # characters that are shown of such an error: its end, where the cause stands
_COPIES = 8  # at once
PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}  # scheme -> what fsspec needs for it; the extras have the schemes' names

Progress = Callable[[str, int, int | None], None]  # called as progress(stage, done, total)


def unwritable(folder: str, *, buckets: Literal["allowed", "refused"] = "refused") -> str:
    """What keeps us from writing below `folder`, in one line; "" if nothing does. A little is written, and removed."""
    if is_bucket(folder) and buckets == "refused":
        return "must be a folder on a disk of this machine"
    if is_bucket(folder):
        return _bucket_problem(folder, to="write")
    path = Path(folder).absolute()
    there = next(each for each in (path, *path.parents) if each.exists())
    if not there.is_dir():
        return f"{there} is a file, not a folder"
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(_PROBE_BYTES))
    except OSError as error:
        return f"cannot write to {there} ({error.strerror})"
    return ""


def unreadable(folder: str) -> str:
    """What keeps us from reading a bucket, in one line; "" if nothing does, or for a folder on a disk."""
    return _bucket_problem(folder, to="read") if is_bucket(folder) else ""


def _bucket_problem(path: str, *, to: Literal["read", "write"]) -> str:
    scheme, _, rest = path.partition("://")
    if scheme not in PACKAGES:
        return f"{scheme}:// is not known; buckets are gs://... and s3://..."
    if scheme == "s3" and to == "write":
        return "s3:// is only read; write to gs://... or to a local folder, and copy that (aws s3 sync)"
    if importlib.util.find_spec(PACKAGES[scheme]) is None:
        return f'{scheme}:// needs the package {PACKAGES[scheme]}: pip install "lacy_jax[{scheme}]"'
    bucket = rest.partition("/")[0]
    try:
        if not bucket or not absolute(f"{scheme}://{bucket}").exists():
            return f"there is no bucket {scheme}://{bucket}"
        if to == "write":
            probe = absolute(path) / f".probe-{socket.gethostname()}-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
    except Exception as error:  # of gcsfs, s3fs, aiohttp and google.auth, which have no class in common
        return f"cannot {to} {scheme}://{bucket} ({type(error).__name__}: {error})"
    return ""


@contextlib.contextmanager
def writing(where: object, *, kept: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Raises `StorageError` in place of what libraries raise where a disk is full, or a bucket is out of reach.

    where: what is written. kept: says what is still good.
    """
    try:
        yield
    except LacyError:
        raise
    except Exception as error:
        why = " ".join(str(error).split())
        package = type(error).__module__.partition(".")[0]
        if getattr(error, "errno", None) not in _ERRORS and package not in _CLIENTS and not _OF_STORAGE.search(why):
            raise
        why = why if len(why) < _SAID else f"... {why[-_SAID:]}"
        raise StorageError(f"{where} cannot be written ({why}){kept()}") from error


def local_copy(folder: str, *, progress: Progress = lambda _stage, _done, _total: None) -> Path:
    """A folder on this machine with the files of `folder`: itself, or a copy, made once, if it lies in a bucket.

    Copies lie in $LACY_CACHE (default: ~/.cache/lacy_jax), under a name made of the address and of the objects' names,
    sizes and checksums. A copy that was cut off is continued. The processes of a machine share it.

    Raises:
        StorageError: it cannot be read, or there is no room for it.
    """
    if not is_bucket(folder):
        return Path(folder)
    cache = Path(os.environ.get("LACY_CACHE") or Path.home() / ".cache" / "lacy_jax") / "buckets"
    try:
        return _copied(folder.rstrip("/"), cache=cache, progress=progress)
    except Exception as error:  # of gcsfs, s3fs, aiohttp and google.auth, which have no class in common
        raise StorageError(
            f"{folder} cannot be copied to {cache} ({error}); $LACY_CACHE names another folder"
        ) from error


def _copied(folder: str, *, cache: Path, progress: Progress) -> Path:
    import fsspec

    absolute(folder)  # settings of fsspec
    files, root = fsspec.url_to_fs(folder)
    found: dict[str, Any] = files.find(root, detail=True)
    objects = {name.removeprefix(f"{root}/"): info for name, info in found.items()}
    if not objects or any(".." in name.split("/") for name in objects):
        raise OSError("it holds no files" if not objects else "an object's name has .. in it")
    target = cache / f"{root.split('/')[-2]}-{_digest(folder, objects)}" / root.split("/")[-1]
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target.with_name(".lock")):
        if not target.exists():
            partial = target.with_name(f"{target.name}.partial")
            missing = {name: int(info["size"]) for name, info in objects.items() if not (partial / name).exists()}
            done, total = 0, sum(missing.values())
            if total > (free := shutil.disk_usage(target.parent).free):
                raise OSError(f"{total / 1e9:.1f} GB are to be copied, {free / 1e9:.1f} GB are free")
            with ThreadPoolExecutor(_COPIES) as pool:
                for size in pool.map(lambda name: _fetch(files, f"{root}/{name}", into=partial / name), missing):
                    progress("copy data", done := done + size, total)
            partial.rename(target)
    return target


def _digest(folder: str, objects: dict[str, Any]) -> str:
    sums = ("crc32c", "md5Hash", "ETag", "etag")
    known = [[name, info["size"], *(str(info.get(each, "")) for each in sums)] for name, info in objects.items()]
    return hashlib.sha256(json.dumps([folder, sorted(known)]).encode()).hexdigest()[:12]


def _fetch(files: Any, source: str, *, into: Path) -> int:
    """Copies one object; returns its size in bytes."""
    into.parent.mkdir(parents=True, exist_ok=True)
    part = into.with_name(f"{into.name}.part")
    files.get_file(source, str(part))
    part.rename(into)
    return into.stat().st_size
