"""Folders on disks and in buckets: whether they can be written or read, and what that needs (docs/buckets.md).

Objects are read and written by fsspec (gcsfs, s3fs). Arrays are read and written by TensorStore, which Orbax knows how
to lead to disks and to gs:// alone; in s3:// they go by a folder on this machine.
"""

import contextlib
import dataclasses
import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import filelock

from lacy_jax.errors import LacyError, StorageError
from lacy_jax.paths import absolute, is_bucket, is_s3

if TYPE_CHECKING:
    from etils import epath

_PROBE_BYTES = 2**16
# Numbers of errors that say nothing of what a file holds.
_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ESTALE),
    *(errno.EBUSY, errno.ENODEV, errno.ENXIO, errno.EREMOTEIO, errno.EMFILE, errno.ENFILE, errno.ENOTCONN),
    *(errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH),
}
# Packages whose errors are those of a bucket.
_CLIENTS = ("gcsfs", "google", "aiohttp", "requests", "urllib3", "botocore", "aiobotocore")
# TensorStore, ArrayRecord and SQLite say those errors in words: the system's, or their own.
_OF_STORAGE = re.compile(
    "|".join(re.escape(os.strerror(number)) for number in sorted(_ERRORS)) + r"|disk is full|disk I/O error|Read-only"
    r"|\bquota\b|(PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|ABORTED)\b"
)
_OF_BUCKET = re.compile("gs://|s3://")
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
    if importlib.util.find_spec(PACKAGES[scheme]) is None:
        return f'{scheme}:// needs the package {PACKAGES[scheme]}: pip install "lacy_jax[{scheme}]"'
    bucket = rest.partition("/")[0]
    try:
        if not bucket or not _bucket_exists(f"{scheme}://{bucket}"):
            return f"there is no bucket {scheme}://{bucket}"
        if to == "write":
            probe = absolute(path) / f".probe-{socket.gethostname()}-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
    except Exception as error:  # of gcsfs, s3fs, aiohttp and google.auth, which have no class in common
        return f"cannot {to} {scheme}://{bucket} ({type(error).__name__}: {error})"
    return ""


def _bucket_exists(address: str) -> bool:
    if not is_s3(address):
        return bool(absolute(address).exists())
    files, bucket = bucket_files(address)
    try:
        files.call_s3("head_bucket", Bucket=bucket)  # s3fs' own `exists` says no, too, where no server answers
    except FileNotFoundError:
        return False
    return True


def of_storage(error: Exception) -> bool:
    """Whether an error is a disk's or a bucket's, and says nothing of the content that lies there."""
    package = type(error).__module__.partition(".")[0]
    return (
        isinstance(error, TimeoutError | ConnectionError)
        or getattr(error, "errno", None) in _ERRORS
        or package in _CLIENTS
        or _OF_STORAGE.search(" ".join(str(error).split())) is not None
    )


@contextlib.contextmanager
def reading(where: object) -> Iterator[None]:
    """Raises `StorageError` in place of what libraries raise where a disk or a bucket does not give what lies there.

    What is not there raises what it always does. Content is read within, and understood after it.
    """
    try:
        yield
    except (LacyError, FileNotFoundError, NotADirectoryError):
        raise
    except Exception as error:  # of gcsfs, s3fs, aiohttp and google.auth, which have no class in common
        raise StorageError(f"{where} cannot be read ({type(error).__name__}: {error})") from error


def read_file(path: "Path | epath.Path") -> bytes | None:
    """What a file holds, None where there is no such file; raises `StorageError` where nobody can say."""
    try:
        with reading(path):
            return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def children_of(folder: "epath.Path") -> list["epath.Path"]:
    """What lies in a folder, nothing where there is no such folder.

    `is_dir` and `exists` also say no where a disk or a bucket does not answer (os.path, fsspec's `isdir`): a run would
    then begin anew beside its checkpoints.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        with reading(folder):
            return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def bytes_below(folder: "epath.Path") -> int:
    """The bytes of all files below a folder, 0 where there is none; raises `StorageError` where it cannot be read."""

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    with reading(folder):
        if is_bucket(folder):
            files, root = bucket_files(str(folder))
            return sum(int(info["size"]) for info in files.find(root, detail=True).values())
        walked = os.walk(folder, onerror=fail)
        return sum(os.stat(os.path.join(parent, name)).st_size for parent, _, names in walked for name in names)


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
        if not of_storage(error) and not _OF_BUCKET.search(str(error)):
            raise
        why = " ".join(str(error).split())
        why = why if len(why) < _SAID else f"... {why[-_SAID:]}"
        raise StorageError(f"{where} cannot be written ({why}){kept()}") from error


def cache_folder(name: str) -> Path:
    """$LACY_CACHE/NAME, where copies of what lies in buckets are kept (default: ~/.cache/lacy_jax/NAME)."""
    return Path(os.environ.get("LACY_CACHE") or Path.home() / ".cache" / "lacy_jax") / name


def local_copy(folder: str, *, progress: Progress = lambda _stage, _done, _total: None, without: str = "") -> Path:
    """A folder on this machine with the files of `folder`: itself, or a copy, made once, if it lies in a bucket.

    Copies lie in `cache_folder`, under a name made of the address and of the objects' names, sizes and checksums. A
    copy that was cut off is continued. The processes of a machine share it.

    without: what the names of objects begin with that are not copied; "" if all are.

    Raises:
        StorageError: it cannot be read, or there is no room for it.
    """
    if not is_bucket(folder):
        return Path(folder)
    folder, cache = folder.rstrip("/"), cache_folder("buckets")
    with _copying(folder, to=cache):
        objects = _objects(folder)
        if without:
            found = {name: info for name, info in objects.found.items() if not name.startswith(without)}
            objects = dataclasses.replace(objects, found=found)
        target = cache / f"{objects.root.split('/')[-2]}-{_digest(folder, objects.found)}" / objects.root.split("/")[-1]
        target.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(target.with_name(".lock")):
            if not target.exists():
                partial = target.with_name(f"{target.name}.partial")
                _fetch_all(objects, into=partial, progress=progress)
                partial.rename(target)
        return target


def copy_here(folder: str, *, to: Path, without: Sequence[str] = ()) -> None:
    """Copies a folder of a bucket, which appears only when it is complete, in the place of one that is there.

    without: names in it that are left out.

    Raises:
        StorageError: it cannot be read, or there is no room for it.
    """
    with _copying(folder, to=to):
        objects = _objects(folder)
        found = {name: info for name, info in objects.found.items() if name.partition("/")[0] not in without}
        partial = to.with_name(f"{to.name}.partial")
        for old in (partial, to):
            shutil.rmtree(old, ignore_errors=True)
        _fetch_all(dataclasses.replace(objects, found=found), into=partial)
        partial.rename(to)


def copy_there(folder: Path, *, to: str, last: str) -> None:
    """Copies the files of a folder on this machine to a bucket, and the one named `last` when all others are there."""
    files, root = bucket_files(to)
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    others = [name for name in names if name != last]
    with ThreadPoolExecutor(_COPIES) as pool:
        list(pool.map(lambda name: _send(files, folder / name, to=f"{root}/{name}"), others))
    _send(files, folder / last, to=f"{root}/{last}")


def rename_folder(folder: "epath.Path", to: "epath.Path", *, first: str) -> None:
    """Renames a folder. In a bucket its objects are copied and then removed, the one named `first` before all others.

    (fsspec's own renaming asks s3:// to copy folders too, which are no objects.)
    """
    if not is_bucket(folder):
        folder.rename(to)
        return
    objects, (_, target) = _objects(str(folder)), bucket_files(str(to))
    with ThreadPoolExecutor(_COPIES) as pool:
        list(pool.map(lambda name: objects.files.cp_file(f"{objects.root}/{name}", f"{target}/{name}"), objects.found))
    remove_folder(folder, first=first)


def remove_folder(folder: "epath.Path", *, first: str) -> None:
    """Removes a folder with all that it holds, the file named `first` before all others."""
    (folder / first).unlink(missing_ok=True)
    if folder.exists():
        folder.rmtree()


@dataclasses.dataclass(frozen=True)
class _Objects:
    """The objects below a folder. files: of fsspec. found: name below `root` -> what the listing says of it."""

    files: Any
    root: str
    found: dict[str, Any]


def bucket_files(address: str) -> tuple[Any, str]:
    """fsspec's file system of a bucket, and what an address in it is called there, which has no scheme."""
    import fsspec

    absolute(address)  # settings of fsspec
    files, root = fsspec.url_to_fs(address)
    return files, root


def _objects(folder: str) -> _Objects:
    files, root = bucket_files(folder)
    found = {name.removeprefix(f"{root}/"): info for name, info in files.find(root, detail=True).items()}
    if not found or any(".." in name.split("/") for name in found):
        raise OSError("it holds no files" if not found else "an object's name has .. in it")
    return _Objects(files, root, found)


@contextlib.contextmanager
def _copying(folder: str, *, to: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of gcsfs, s3fs, aiohttp and google.auth, which have no class in common
        raise StorageError(f"{folder} cannot be copied to {to} ({error}); $LACY_CACHE names another folder") from error


def _fetch_all(objects: _Objects, *, into: Path, progress: Progress = lambda _stage, _done, _total: None) -> None:
    """Copies the objects that `into` does not have; raises `OSError` where there is no room for them."""
    missing = {name: int(info["size"]) for name, info in objects.found.items() if not (into / name).exists()}
    done, total = 0, sum(missing.values())
    into.mkdir(parents=True, exist_ok=True)
    if total > (free := shutil.disk_usage(into).free):
        raise OSError(f"{total / 1e9:.1f} GB are to be copied, {free / 1e9:.1f} GB are free")
    with ThreadPoolExecutor(_COPIES) as pool:
        fetched = pool.map(lambda name: _fetch(objects.files, f"{objects.root}/{name}", into=into / name), missing)
        for size in fetched:
            progress("copy data", done := done + size, total)


def _digest(folder: str, objects: dict[str, Any]) -> str:
    sums = ("crc32c", "md5Hash", "ETag", "etag")
    known = [[name, info["size"], *(str(info.get(each, "")) for each in sums)] for name, info in objects.items()]
    return hashlib.sha256(json.dumps([folder, sorted(known)]).encode()).hexdigest()[:12]


def _send(files: Any, source: Path, *, to: str) -> None:
    """Copies one file to a bucket."""
    files.put_file(str(source), to)


def _fetch(files: Any, source: str, *, into: Path) -> int:
    """Copies one object; returns its size in bytes."""
    into.parent.mkdir(parents=True, exist_ok=True)
    part = into.with_name(f"{into.name}.part")
    files.get_file(source, str(part))
    part.rename(into)
    return into.stat().st_size
