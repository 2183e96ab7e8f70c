"""One run of several processes: finding each other at the start, and noticing at once where they disagree."""

import contextlib
import itertools
import json
import os
import time
import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils

from lacy_jax.errors import FolderError, LacyError, MeshError, StorageError
from lacy_jax.paths import absolute, is_s3
from lacy_jax.runtime.claims import claimed
from lacy_jax.runtime.programs import FOLDER, default_folder

if TYPE_CHECKING:
    from etils import epath

WORD_SECONDS = 600.0  # for process 0 to find out whether another run still holds the work folder
FOLDER_SECONDS = 40.0  # NFS clients look again after 30 at first (nfs(5), acdirmin)


def initialize(mode: Literal["auto", "on", "off"]) -> None:
    """Joins the other processes of this run, if there are any; before anything else of JAX.

    What jax.distributed.initialize recognises is recognised here: TPU pods, GKE (also several slices), slurm's srun,
    Open MPI and Kubernetes jobs; elsewhere JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say it.
    `auto` leaves a process alone that has no others: a TPU VM of one host, or slurm's only task, which
    jax.distributed.initialize would let see but one of its GPUs. `on` insists.

    Raises:
        MeshError: `on`, and nothing says who the others are; or they cannot be reached.
    """
    if mode == "off" or (mode == "auto" and not _several()):
        return
    if (kept := os.environ.get(FOLDER)) and kept == str(default_folder()):
        jax.config.update("jax_compilation_cache_dir", None)  # see `keep_programs`
    count, index = os.environ.get("JAX_NUM_PROCESSES"), os.environ.get("JAX_PROCESS_ID")
    try:
        jax.distributed.initialize(
            num_processes=int(count) if count else None, process_id=int(index) if index else None
        )
    except (ValueError, RuntimeError) as error:
        raise MeshError(
            f"--distributed={mode}: cannot find or reach the other processes of this run ({error}). Start it with "
            "srun, mpirun, on every worker of a TPU slice or in a JobSet, or set JAX_COORDINATOR_ADDRESS=host:port, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID; --distributed=off runs this process alone"
        ) from error


def _several() -> bool:
    """Whether the environment names more than this process."""
    if int(os.environ.get("JAX_NUM_PROCESSES") or 1) > 1:
        return True
    from jax._src.clusters import ClusterEnv  # not public: JAX's own detection, which jax.distributed.initialize uses

    found = (env for env in ClusterEnv._cluster_types if not env.opt_in_only_method and env.is_env_present())
    try:
        environment = next(found, None)
        return environment is not None and environment.get_process_count() > 1
    except OSError:
        return False  # libtpu is installed, but no metadata server of Google Cloud answers: no TPU is here


def check_agreement(what: str, value: Any) -> None:
    """Returns where every process has an equal `value` (JSON), which is named `what`; waits for all of them.

    Raises:
        MeshError: they differ, with the numbers of the processes that have another one than process 0.
    """
    if jax.process_count() == 1:
        return
    own = np.uint32(zlib.crc32(json.dumps(value, sort_keys=True).encode()))
    every = np.asarray(multihost_utils.process_allgather(own))
    others = np.flatnonzero(every != every[0]).tolist()
    if others:
        raise MeshError(
            f"the processes of this run have different {what}: {', '.join(map(str, others))} not those of process 0. "
            "Start all of them with the same flags and the same data (one folder that all see, or a copy)"
        )


def check_one_folder(workdir: str) -> None:
    """Returns where every process sees the `workdir` that process 0 sees; waits for all of them.

    A checkpoint is written by all processes together: on disks of their own it would never be finished.

    Raises:
        MeshError: they do not, with the numbers of those that have a folder of their own.
    """
    if jax.process_count() == 1:
        return
    mark = absolute(workdir) / "process_0_was_here"
    if jax.process_index() == 0:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text("")
    multihost_utils.sync_global_devices("the work folder is marked")
    seen = np.asarray(multihost_utils.process_allgather(np.bool(_appears(mark))))
    if jax.process_index() == 0:
        mark.unlink()
    others = np.flatnonzero(~seen).tolist()
    if others:
        raise MeshError(
            f"--workdir={workdir} is another folder for process {', '.join(map(str, others))} than for process 0: give "
            "one that all machines of this run share, or a bucket (gs://...)"
        )


@contextlib.contextmanager
def claimed_by_all(workdir: str, *, say: Callable[[str], None]) -> Iterator[None]:
    """Holds a work folder while the block runs, process 0 for all of a run (`claims.claimed`).

    Raises:
        FolderError: another run holds it, or this one has several processes and works in s3://; in every process.
        StorageError: the bucket cannot be reached (in other processes than 0 a `FolderError`).
    """
    if is_s3(workdir) and jax.process_count() > 1:
        raise FolderError(
            f"{workdir}: a run of {jax.process_count()} processes cannot work in s3://, since each one would make its "
            "part of a checkpoint on its own disk; give it a workdir in gs://, or on a disk that all of them share"
        )
    with contextlib.ExitStack() as stack:
        refused: LacyError | None = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(claimed(workdir, say=say))
            except (FolderError, StorageError) as error:
                refused = error
        if jax.process_count() > 1:
            said = _from_process_0("" if refused is None else str(refused))
            refused = refused or (FolderError(said) if said else None)
        if refused:
            raise refused
        yield


_words = itertools.count()


def _from_process_0(text: str) -> str:
    """What process 0 gives here, in every process. It may take minutes; on CPUs a collective would wait 30 seconds."""
    from jax._src.distributed import global_state  # not public: the store of the coordination service

    store: Any = global_state.client
    key = f"lacy_jax/{next(_words)}"
    if jax.process_index() == 0:
        store.key_value_set(key, text)
        return text
    return str(store.blocking_key_value_get(key, round(1000 * WORD_SECONDS)))


def wait_for_all(what: str) -> None:
    """Returns when every process has come here; `what` names the place."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def _appears(path: "epath.Path") -> bool:
    """Whether a file is there, now or soon: a network file system may show late what another machine wrote."""
    deadline = time.monotonic() + FOLDER_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(min(1.0, FOLDER_SECONDS))
    return True


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process of this run; waits for all of them."""
    if jax.process_count() == 1:
        return flag
    return bool(np.asarray(multihost_utils.process_allgather(np.bool(flag))).any())
