"""The shards of a dataset in a bucket: each is on this machine only for as long as it is read.

A shard that is fetched is a file without a name (`tempfile.TemporaryFile`) in the cache folder. It is gone when no lane
reads it any more, or when the process ends, however it ends. So the processes of a machine have nothing to agree on,
and nothing is left to be removed.
"""

import bisect
import contextlib
import itertools
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from array_record.python import array_record_module

from lacy_jax.data.checksums import stored_size
from lacy_jax.data.datasets import Record, damaged
from lacy_jax.data.opening import open_bytes
from lacy_jax.data.order import LaneShards
from lacy_jax.errors import StorageError
from lacy_jax.folders import cache_folder

_PAUSES = (1.0, 4.0, 16.0)  # seconds between the tries to fetch a shard; the clients of buckets try again themselves
_FETCHES = 8  # at once, of shards that are needed now; of those that come next, one
_NO_LANE = -1  # of a shard that is read outside the order


class FetchedRecords(Sequence[Record]):
    """The records of one split of a dataset in a bucket, by number.

    Any record can be read. `hold` says ahead what will be: those shards are fetched side by side, and stay open.
    """

    def __init__(self, builder: Any, split: str, *, folder: str) -> None:
        """builder: of a copy of the dataset that need not have the split's files. folder: its address."""
        own = builder.info.splits[split]
        self._features, self._directory, self._folder = builder.info.features, Path(builder.data_path), folder
        self._names, self._firsts = own.filenames, [0, *itertools.accumulate(own.shard_lengths)]
        self._lanes: dict[int, Sequence[int]] = {}
        self._open: dict[int, Future[Any]] = {}  # shard -> its reader
        self._lock = threading.RLock()
        self._pool = ThreadPoolExecutor(_FETCHES, thread_name_prefix="shards")

    def __len__(self) -> int:
        return self._firsts[-1]

    def __getitem__(self, index: Any) -> Any:
        """Raises `StorageError` where its shard cannot be fetched, `DataError` where it is damaged."""
        shard = bisect.bisect_right(self._firsts, index) - 1
        with self._lock:
            if shard not in self._open:
                self.hold({_NO_LANE: (shard, shard)})
            opened = self._begin(shard)
        try:
            reader = opened.result()
        except CancelledError:
            raise StorageError(f"{self._where(shard)} is not fetched, as another shard could not be") from None
        except Exception:
            self._cancel()
            raise
        try:
            return self._features.deserialize_example_np(reader.read([index - self._firsts[shard]])[0])
        except (OSError, RuntimeError, ValueError) as error:
            raise damaged(self._where(shard), error) from None

    def hold(self, lanes: LaneShards) -> None:
        """Begins to fetch the shards that these lanes read now; closes those that no lane reads any more.

        Of the shards that lanes read next, one is fetched at a time, when nothing else is.
        """
        with self._lock:
            self._lanes |= lanes
            for shard in self._open.keys() - set(itertools.chain.from_iterable(self._lanes.values())):
                del self._open[shard]
            for *now, _ in lanes.values():
                for shard in now:
                    self._begin(shard)
            following = [each[-1] for each in self._lanes.values() if each[-1] not in self._open]
            if following and all(each.done() for each in self._open.values()):
                self._begin(following[0])

    def _begin(self, shard: int) -> Future[Any]:
        """Its reader, which a thread makes; once more where that failed before."""
        opened = self._open.get(shard)
        if opened is None or (opened.done() and (opened.cancelled() or opened.exception())):
            opened = self._open[shard] = self._pool.submit(self._fetch, shard)
        return opened

    def _cancel(self) -> None:
        """Gives up what is not yet being fetched: else the end of the program would wait for it."""
        with self._lock:
            for opened in self._open.values():
                opened.cancel()

    def _where(self, shard: int) -> str:
        return f"{self._folder}/{self._names[shard]}"

    def _fetch(self, shard: int) -> Any:
        """A reader of a shard; tries again where it cannot be copied."""
        for pause in _PAUSES:
            with contextlib.suppress(StorageError):
                return self._copy(shard)
            time.sleep(pause)
        try:
            return self._copy(shard)
        except StorageError as error:
            said = " ".join(str(error).split())
            raise StorageError(f"{said}; tried {len(_PAUSES) + 1} times, repeat the command later") from error

    def _copy(self, shard: int) -> Any:
        where, cache = self._where(shard), cache_folder("shards")
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=cache) as file:
                with open_bytes(where) as source:
                    shutil.copyfileobj(source, file, 2**20)
                return self._reader(file, shard)
        except OSError as error:
            said = f"{where} cannot be copied to {cache} ({error.strerror})"
            raise StorageError(f"{said}; $LACY_CACHE names another folder") from error

    def _reader(self, file: IO[bytes], shard: int) -> Any:
        """A reader that keeps the file open. Raises `DataError` where it is not the file that was written."""
        found, expected = file.tell(), stored_size(self._directory, self._names[shard])
        file.flush()
        if expected not in (None, found):
            raise damaged(self._where(shard), ValueError(f"expected {expected} bytes, found {found}"))
        try:
            reader = array_record_module.ArrayRecordReader(
                f"/dev/fd/{file.fileno()}", options="readahead_buffer_size:0", file_reader_buffer_size=2**15
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise damaged(self._where(shard), error) from None
        if (count := reader.num_records()) != self._firsts[shard + 1] - self._firsts[shard]:
            raise damaged(self._where(shard), ValueError(f"it has {count} records"))
        return reader
