"""Several processes of one run: how they find each other, what they refuse, which rows each reads."""

import os
from pathlib import Path

import pytest

from lacy_jax.runtime import distributed
from lacy_jax.runtime.claims import claimed
from tests.processes import run_two

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"JAX_NUM_PROCESSES": "2"}, True),
        ({"JAX_NUM_PROCESSES": "1"}, False),
        ({**SLURM, "SLURM_NTASKS": "2"}, True),
        ({**SLURM, "SLURM_NTASKS": "1"}, False),
        # A batch script, outside srun: the whole allocation is not this process' doing.
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, False),
        ({"OMPI_MCA_orte_hnp_uri": "1;tcp://10.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "4"}, True),
    ],
    ids=str,
)
def test_auto_joins_only_where_there_are_others(
    environment: dict[str, str], several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "JAX_NUM", "OMPI_", "KUBERNETES")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    joined: list[bool] = []
    monkeypatch.setattr(distributed.jax.distributed, "initialize", lambda **_: joined.append(True))
    distributed.initialize("auto")
    distributed.initialize("off")
    assert joined == [True] * several


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "1"}, True),  # GKE, one slice of two hosts
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, True),  # GKE, two slices of one host
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "1"}, False),
        ({"GCE_METADATA_IP": "127.0.0.1:1"}, False),  # libtpu on a machine without a TPU
    ],
    ids=str,
)
def test_slices_on_gke_are_recognised(
    environment: dict[str, str], several: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jax._src.clusters import cloud_tpu_cluster

    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert distributed._several() is several


PROGRAM = """
import sys
import jax, numpy as np
from jax.experimental import multihost_utils
from lacy_jax.errors import FolderError, MeshError
from lacy_jax.runtime import distributed, sharding
from lacy_jax.config import MeshConfig

out = open(sys.argv[1], "w")
distributed.initialize("auto")
me = jax.process_index()
distributed.check_agreement("settings", {"a": 1})
try:
    distributed.check_agreement("settings", {"a": me})
except MeshError as error:
    print(error, file=out)
distributed.check_one_folder(sys.argv[2])
distributed.FOLDER_SECONDS = 0.1
try:
    distributed.check_one_folder(sys.argv[1] + "-own")
except MeshError as error:
    print(error, file=out)
try:
    with distributed.claimed_by_all(sys.argv[3], say=print):
        print("claimed", file=out)
except FolderError as error:
    print(error, file=out)
with distributed.claimed_by_all(sys.argv[2], say=print):
    distributed.check_agreement("holder", open(sys.argv[2] + "/.lock").read())
    distributed.wait_for_all("read")
distributed.wait_for_all("freed")
one, two = (sorted((d for d in jax.devices() if d.process_index == i), key=lambda d: d.id) for i in range(2))
for name, axes, devices in (
    ("in turn", {"fsdp": 4}, [one[0], two[0], one[1], two[1]]),
    ("shared", {"data": 1, "fsdp": 2, "tensor": 2}, [one[0], two[0], one[1], two[1]]),
    ("halves", {"data": 4}, one + two),
):
    mesh = sharding.make_mesh(MeshConfig(**axes), batch_size=8, devices=devices)
    rows = sharding.process_rows(mesh, 8)
    whole = np.arange(24).reshape(8, 3)
    placed = sharding.place_rows(mesh, whole[rows], batch_size=8)
    back = multihost_utils.process_allgather(placed, tiled=True)
    print(name, rows.tolist(), np.array_equal(back, whole), file=out)
"""


def test_two_processes_read_the_rows_that_their_devices_hold(tmp_path: Path) -> None:
    with claimed(str(tmp_path / "held")):
        written = run_two(PROGRAM, [tmp_path / "shared", tmp_path / "held"], out=tmp_path)
    for index, (rows, lines) in enumerate(zip(([0, 1, 4, 5], [2, 3, 6, 7]), written, strict=True)):
        half = [0, 1, 2, 3] if rows[0] == 0 else [4, 5, 6, 7]
        assert "different settings: 1 not those of process 0" in lines[0]
        assert f"{index}-own is another folder for process 1 than for process 0" in lines[1]
        assert f"{tmp_path}/held: another run works there (process {os.getpid()} on " in lines[2]
        # Devices in turn, a tensor group over both processes, and halves.
        assert lines[3:] == [f"in turn {rows} True", f"shared {list(range(8))} True", f"halves {half} True"]
    assert list((tmp_path / "shared").iterdir()) == []
