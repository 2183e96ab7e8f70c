"""Checkpoints of a run in s3://: Orbax makes each in a folder on this machine, and from there it is copied.

A step's FINISHED_FILE is copied last, so a step in the bucket that has none was cut off. What lies in the bucket is
what counts: a step here is taken for the one there if their descriptions are the same. Unless `training.checksums` is
off, these hold the checksums of the arrays.
"""

import errno
import hashlib
import shutil
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor

from etils import epath

from lacy_jax.checkpoints.format import FINISHED_FILE, META_FILE, check_savable
from lacy_jax.folders import cache_folder, children_of, copy_here, copy_there, reading, remove_folder
from lacy_jax.paths import absolute


class Uploads:
    """The steps in `target` and their copies in `local`, one process alone.

    local: the folder where Orbax makes steps. It has every step that is whole in `target`: those that were made or
        fetched here, and of the others what Orbax reads to decide which ones are kept.
    """

    def __init__(self, target: epath.Path, *, arrays: tuple[str, ...]):
        """arrays: the folders in a step's folder that hold most of it."""
        name = f"{target.parent.name}-{hashlib.sha256(str(target).encode()).hexdigest()[:12]}"
        self.local = cache_folder("runs") / name / target.name
        check_savable(str(self.local), name="$LACY_CACHE")
        self.local.mkdir(parents=True, exist_ok=True)
        self._target, self._arrays = target, arrays
        self._there: set[str] = set()  # steps that are whole there
        self._fetched: set[str] = set()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="upload")
        self._copying: Future[None] | None = None

    def pull(self) -> None:
        """Removes steps that were never finished there, and those here that are not there; then `local` has all others.

        Raises:
            StorageError: a step cannot be copied.
        """
        for cut_off in self.local.glob("*.partial"):  # of `copy_here`
            shutil.rmtree(cut_off)
        there, here = _steps(self._target), _steps(absolute(self.local))
        self._there = {name for name, known in there.items() if known}
        for name in there.keys() - self._there:
            remove_folder(self._target / name, first=FINISHED_FILE)
        same = {name for name in self._there if there[name] == here.get(name)}
        for name in here.keys() - same:
            shutil.rmtree(self.local / name)
        for name in self._there - same:
            copy_here(str(self._target / name), to=self.local / name, without=self._arrays)

    def fetch(self, name: str) -> epath.Path:
        """The folder here of a step, with its arrays."""
        if not (self.local / name / self._arrays[0]).exists():
            self._fetch(name)
        return absolute(self.local / name)

    def refetch(self, name: str) -> bool:
        """Copies a step again that was made or fetched before this start; whether there was one."""
        if name in self._fetched:
            return False
        self._fetch(name)
        return True

    def start(self, saved: Callable[[], Collection[str]]) -> None:
        """Copies and removes in the background until the steps there are those that `saved` returns."""
        self._copying = self._pool.submit(self._push, saved)

    def wait(self) -> None:
        """Until that is done.

        Raises:
            OSError: it cannot be done; or what `saved` raised.
        """
        copying, self._copying = self._copying, None
        if copying is not None:
            copying.result()

    def close(self) -> None:
        self._pool.shutdown()

    def _fetch(self, name: str) -> None:
        copy_here(str(self._target / name), to=self.local / name)
        self._fetched.add(name)

    def _push(self, saved: Callable[[], Collection[str]]) -> None:
        kept = set(saved())  # not what is left in `local`: somebody may have emptied a cache folder
        try:
            for name in sorted(kept - self._there, key=int):
                (self.local / name / FINISHED_FILE).touch()
                copy_there(self.local / name, to=str(self._target / name), last=FINISHED_FILE)
            for name in self._there - kept:
                remove_folder(self._target / name, first=FINISHED_FILE)
            self._there = kept
        except Exception as error:  # of s3fs, aiohttp and botocore, which have no class in common
            raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


def _names(folder: epath.Path) -> list[str]:
    return [child.name for child in children_of(folder) if child.name.isdecimal()]


def _steps(folder: epath.Path) -> dict[str, bytes]:
    """The description of every step in a folder; b"" of one that is not finished."""
    with reading(folder):
        finished = {name: (folder / name / FINISHED_FILE).exists() for name in _names(folder)}
        return {name: (folder / name / META_FILE).read_bytes() if finished[name] else b"" for name in finished}
