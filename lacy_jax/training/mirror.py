"""Files of a run that lies in a bucket: they grow here, and whole copies of them go to the bucket now and then."""

import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from absl import logging
from etils import epath

from lacy_jax.errors import StorageError

SECONDS = 60.0  # between two copies, at least


class Mirror:
    """A folder on this machine whose files are copied to a bucket, since objects cannot be appended to.

    local: the folder. What is copied is every file that has grown since the last copy, whole.
    """

    def __init__(self, target: epath.Path):
        self._target = target
        self._folder = tempfile.TemporaryDirectory(prefix="lacy_jax-")
        self.local = Path(self._folder.name)
        self._sizes: dict[Path, int] = {}
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mirror")
        self._copying: Future[None] | None = None
        self._started = time.monotonic()

    def tick(self) -> None:
        """Starts a copy in the background if the last one is long enough ago. If one fails, a later one catches up."""
        if time.monotonic() - self._started < SECONDS or (self._copying and not self._copying.done()):
            return
        if self._copying and (error := self._copying.exception()):
            logging.warning("%s: files could not be copied there: %s", self._target, error)
        self._started, self._copying = time.monotonic(), self._pool.submit(self._copy)

    def sync(self) -> None:
        """Copies what is new, and waits for it.

        Raises:
            StorageError: it cannot be copied.
        """
        try:
            self._pool.submit(self._copy).result()
        except Exception as error:  # of gcsfs, aiohttp and google.auth
            raise StorageError(f"{self._target} cannot be written to ({type(error).__name__}: {error})") from error

    def close(self) -> None:
        """As `sync`; then the folder here is removed."""
        try:
            self.sync()
        finally:
            self._pool.shutdown()
            self._folder.cleanup()

    def _copy(self) -> None:
        for path in sorted(path for path in self.local.rglob("*") if path.is_file()):
            if self._sizes.get(path) == path.stat().st_size:
                continue
            content = path.read_bytes()
            (self._target / path.relative_to(self.local).as_posix()).write_bytes(content)
            self._sizes[path] = len(content)
