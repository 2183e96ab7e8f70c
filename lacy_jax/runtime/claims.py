"""A work folder belongs to one run at a time: `<folder>/.lock` says which, and a second run is refused.

In a folder on a disk the file is held by a POSIX record lock: it ends with the process that holds it, however that
ends, is not handed on to processes that it starts, and is seen over NFS. A holder that ends in good order removes it.

In a bucket the file is a lease. Its holder writes it again every `BEAT_SECONDS`, each time only if it is as the holder
left it (`objects.ConditionalObject`). Whoever finds a lease watches it: if it changes, its holder lives; if it has not
changed for `EXPIRY_SECONDS`, it is taken over. Only one can, by the same condition, and no clocks are compared. A
holder that was stopped for longer finds its lease changed, and does not save any more.
"""

import contextlib
import datetime
import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import logging

from lacy_jax.errors import FolderError, StorageError
from lacy_jax.paths import is_bucket
from lacy_jax.runtime.objects import conditional_object

LOCK_FILE = ".lock"
BEAT_SECONDS = 20.0
EXPIRY_SECONDS = 120.0

_held: dict[str, Callable[[], str]] = {}  # folders of this process -> who else has it now, "" where that is nobody

Say = Callable[[str], None]


def claimed(workdir: str, *, say: Say = lambda _line: None) -> contextlib.AbstractContextManager[None]:
    """Holds a work folder while a block runs; of several processes of a run one does it (`distributed.claimed_by_all`).

    say: gets a line where this takes long, or cannot be done.

    Raises:
        FolderError: another run holds it; says which.
        StorageError: the bucket cannot be reached.
    """
    return _leased(workdir, say=say) if is_bucket(workdir) else _locked(workdir, say=say)


def check_claim(workdir: str) -> None:
    """Returns if a folder that this process claimed is still its own; to be called before anything is written over.

    Raises:
        FolderError: its lease was taken over.
    """
    if other := _held.get(workdir, lambda: "")():
        raise FolderError(
            f"{workdir}: this run did not renew its lease for {EXPIRY_SECONDS:.0f} s, and another run took the folder "
            f"over ({other}); this one ends without saving"
        )


def _holder() -> dict[str, Any]:
    now = datetime.datetime.now(datetime.UTC)
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": f"{now:%Y-%m-%d %H:%M:%S} UTC"}


def _described(content: bytes) -> str:
    try:
        found = json.loads(content)
        host, since = ("".join(filter(str.isprintable, str(found[key])[:64])) for key in ("host", "since"))
        return f"process {int(found['pid'])} on {host}, since {since}"
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):  # whatever somebody has put there
        return "it does not say which"


def _refused(workdir: str, content: bytes) -> FolderError:
    return FolderError(
        f"{workdir}: another run works there ({_described(content)}); wait for it or stop it, or give this run "
        "another workdir"
    )


@contextlib.contextmanager
def _locked(workdir: str, *, say: Say) -> Iterator[None]:
    path = Path(workdir).absolute() / LOCK_FILE
    key = str(path.resolve())
    if key in _held:  # a record lock belongs to a process: it would be given twice
        raise _refused(workdir, json.dumps(_holder()).encode())
    new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(path, workdir=workdir, say=say)
    _held[key] = lambda: ""
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(_holder()).encode())
        yield
    finally:
        del _held[key]
        with contextlib.suppress(OSError):
            path.unlink()
            if new:
                path.parent.rmdir()  # of a run that ended before it wrote anything
        os.close(descriptor)


def _lock(path: Path, *, workdir: str, say: Say) -> int:
    """An open file descriptor of the file at `path`, locked."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, lockf
    except ImportError:  # on Windows
        return os.open(path, os.O_RDWR | os.O_CREAT)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            lockf(descriptor, LOCK_EX | LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                content = os.read(descriptor, 4096)
                os.close(descriptor)
                raise _refused(workdir, content) from None
            say(f"{path} cannot be locked ({error.strerror}): a second run in this folder is not refused")
            return descriptor
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # its last holder has removed it meanwhile


@contextlib.contextmanager
def _leased(workdir: str, *, say: Say) -> Iterator[None]:
    try:
        lease = _Lease(f"{workdir.rstrip('/')}/{LOCK_FILE}")
        _take(lease, workdir=workdir, say=say)
        if not lease.is_safe():
            say(f"{lease.path}: the server heeds no conditions (If-None-Match): a second run is not surely refused")
    except FolderError:
        raise
    except Exception as error:  # of google.auth, google.api_core, requests, s3fs and botocore
        raise StorageError(f"{workdir} cannot be claimed ({type(error).__name__}: {error})") from error
    ended = threading.Event()
    beats = threading.Thread(target=_beat, args=(lease, ended), name="lease", daemon=True)
    beats.start()
    _held[workdir] = lambda: lease.lost
    try:
        yield
    finally:
        del _held[workdir]
        ended.set()
        beats.join()
        lease.release()


def _take(lease: "_Lease", *, workdir: str, say: Say) -> None:
    """Writes the lease where there is none, or one whose holder is gone."""
    version, content = lease.read()
    if version:
        say(f"{workdir} was claimed by {_described(content)}: waiting to see whether that run is still alive")
    deadline = time.monotonic() + EXPIRY_SECONDS
    while not lease.write(version if time.monotonic() >= deadline else ""):
        now, content = lease.read()
        if version and now and now != version:
            raise _refused(workdir, content)
        version = now
        time.sleep(min(BEAT_SECONDS / 4, EXPIRY_SECONDS))


def _beat(lease: "_Lease", ended: threading.Event) -> None:
    while not lease.lost and not ended.wait(BEAT_SECONDS):
        try:
            _renew(lease)
        except Exception:  # the network's; the next beat may come through
            logging.warning("%s could not be renewed", lease.path, exc_info=True)


def _renew(lease: "_Lease") -> None:
    if not lease.write(lease.version):
        lease.lost = _described(lease.read()[1])


class _Lease:
    """The object of a lease. version: of what this process wrote last. lost: who took it over."""

    def __init__(self, path: str):
        self.path, self.version, self.lost = path, "", ""
        self._object, self._run, self._beats = conditional_object(path), uuid.uuid4().hex, 0
        self._said = {**_holder(), "run": self._run}

    def read(self) -> tuple[str, bytes]:
        """Version and content of what is there; "" where nothing is."""
        return self._object.read()

    def write(self, over: str) -> bool:
        """Writes it in place of the version `over`, "" for nothing; whether that was there."""
        version = self._object.write(self._content(), over=over)
        if not version:
            version, content = self.read()
            if self._run.encode() not in content:
                return False  # if it is ours, an answer got lost
        self.version = version
        return True

    def is_safe(self) -> bool:
        """Whether the server heeds conditions: it must refuse to make an object that is there."""
        version = self._object.write(self._content(), over="")
        self.version = version or self.version
        return not version

    def _content(self) -> bytes:
        self._beats += 1  # no two are alike
        return json.dumps({**self._said, "beat": self._beats}).encode()

    def release(self) -> None:
        try:
            self._object.remove(self.version)
        except Exception as error:  # gone, another's by now, or the network: it expires
            logging.warning("%s was not removed: %s", self.path, error)
