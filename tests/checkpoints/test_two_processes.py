"""Arrays of two processes: their checksums are those of one process, and both see what only one cannot read."""

from pathlib import Path

from tests.processes import run_two

PROGRAM = """
import sys
from pathlib import Path

import jax, jax.numpy as jnp, numpy as np, orbax.checkpoint as ocp
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from orbax.checkpoint._src.serialization import serialization

from lacy_jax.checkpoints.checksums import array_checksums
from lacy_jax.checkpoints.loading import restore_arrays
from lacy_jax.errors import DamagedError, StorageError
from lacy_jax.runtime import distributed

out, folder = open(sys.argv[1], "w"), epath.Path(sys.argv[2])
distributed.initialize("auto")
mesh = jax.make_mesh((4,), ("fsdp",))
placed = NamedSharding(mesh, PartitionSpec("fsdp"))
whole = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
array = jax.make_array_from_callback(whole.shape, placed, lambda index: whole[index])
own = array_checksums({"a": array})
print(own == array_checksums({"a": jnp.asarray(whole)}), file=out)
with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder, {"a": array})
target = {"a": jax.ShapeDtypeStruct(whole.shape, np.float32, sharding=placed)}
halves = {"a": jax.ShapeDtypeStruct(whole.shape, np.float32, sharding=NamedSharding(mesh, PartitionSpec(None, "fsdp")))}
print(array_checksums(restore_arrays(folder, target, checksums=own)) == own, file=out)
print(array_checksums(restore_arrays(folder, halves, checksums=own)) == own, file=out)
distributed.wait_for_all("read")
if jax.process_index() == 1:  # the other waits for it, as for data that only one process prepares
    mine = {"a": jax.ShapeDtypeStruct(whole.shape, np.float32, sharding=SingleDeviceSharding(jax.local_devices()[0]))}
    alone = restore_arrays(folder, mine, checksums=own)["a"]
    print((np.asarray(alone) == whole).all(), file=out)
distributed.wait_for_all("read alone")
if jax.process_index() == 0:
    file = max(Path(folder / "ocdbt.process_1").rglob("*"), key=lambda file: file.stat().st_size * file.is_file())
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
distributed.wait_for_all("cut")
try:
    restore_arrays(folder, target, checksums=own)
except DamagedError as error:
    print(error, file=out)
if jax.process_index() == 1:
    async def fails(**_):
        raise ValueError("UNAVAILABLE: no way to the bucket")
    serialization._read_shard = fails
try:
    restore_arrays(folder, target, checksums=own)
except StorageError as error:
    print(error, file=out)
print(distributed.anywhere(jax.process_index() == 1), distributed.anywhere(False), file=out)
"""


def test_one_process_that_cannot_read_its_part_ends_no_other(tmp_path: Path) -> None:
    for index, lines in enumerate(run_two(PROGRAM, [tmp_path / "arrays"], out=tmp_path)):
        assert lines[: 3 + index] == ["True"] * (3 + index)
        lines = lines[index:]
        assert lines[5] == "True False"
        assert f"{tmp_path / 'arrays'} is damaged: " in lines[3]
        assert ("another process cannot read it" in lines[3]) == (index == 0)
        assert lines[4].startswith(f"{tmp_path / 'arrays'} cannot be read (")
        assert ("by another process" in lines[4]) == (index == 0)
