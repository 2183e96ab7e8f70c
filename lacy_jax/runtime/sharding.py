"""The mesh, and the one table from logical axis names to mesh axes (docs/distributed.md).

Arrays name their axes by meaning ("embed", "heads", "batch"); RULES says which mesh axis each meaning is split over.
The same step then runs on one device and on a pod: a single device is a mesh of one.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lacy_jax.config import MeshConfig, ModelConfig
from lacy_jax.errors import MeshError

# From the slowest network to the fastest: `slice` crosses a data centre's, `tensor` talks in every layer.
AXES = ("slice", "data", "fsdp", "tensor")
BATCH_AXES = ("slice", "data", "fsdp")

RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": BATCH_AXES,  # activations and data: rows of the batch
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "layers": None,
}


def make_mesh(
    config: MeshConfig, *, batch_size: int, microbatches: int = 1, devices: list[jax.Device] | None = None
) -> Mesh:
    """The mesh (slice, data, fsdp, tensor) over `devices` (default: all); -1 takes what the other axes leave.

    Neighbours along `tensor`, then `fsdp`, are physical neighbours where the devices say where they are
    (`jax.experimental.mesh_utils`).

    Raises:
        MeshError: the axes do not multiply to the number of devices, do not divide the batch or a microbatch of it,
            or `slice` is not what joins the devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(config, axis) for axis in AXES]
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % fixed == 0:
        sizes[sizes.index(-1)] = len(devices) // fixed
    if -1 in sizes or math.prod(sizes) != len(devices):
        named = ", ".join(f"config.mesh.{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
        raise MeshError(
            f"{named} does not fit {len(devices)} devices: the product must be {len(devices)}; "
            f"try {' '.join(_fitting(config, len(devices)))}"
        )
    shape = dict(zip(AXES, sizes, strict=True))
    _check_batch(shape, batch_size=batch_size, microbatches=microbatches)
    return Mesh(_placed(shape, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _fitting(config: MeshConfig, count: int) -> list[str]:
    """Changes of the axes that fit `count` devices: each as near below what was asked as it can be, one the rest."""
    rest = next((axis for axis in AXES if getattr(config, axis) == -1), "data")
    changes, left = [], count
    for axis in ("slice", "tensor", "fsdp", "data"):
        if axis == rest:
            continue
        asked = getattr(config, axis)
        size = max(ways for ways in range(1, min(asked, left) + 1) if left % ways == 0)
        left //= size
        changes += [f"config.mesh.{axis}={size}"] if size != asked else []
    return changes if getattr(config, rest) == -1 else [*changes, f"config.mesh.{rest}=-1"]


def _check_batch(shape: dict[str, int], *, batch_size: int, microbatches: int) -> None:
    rows = math.prod(shape[axis] for axis in BATCH_AXES)
    if batch_size % (rows * microbatches) == 0:
        return
    unit = rows * microbatches
    near = sorted({max(batch_size // unit, 1) * unit, -(-batch_size // unit) * unit})
    fixes = [f"config.data.batch_size={size}" for size in near]
    if batch_size % rows == 0:
        most = batch_size // rows
        divisors = [count for count in range(1, most + 1) if most % count == 0]
        fixes.append(
            f"config.training.microbatches={min(divisors, key=lambda count: (abs(count - microbatches), count))}"
        )
    parts = f" in config.training.microbatches={microbatches} parts" if microbatches > 1 else ""
    over = " x ".join(f"{axis} {shape[axis]}" for axis in BATCH_AXES)
    raise MeshError(
        f"config.data.batch_size={batch_size}{parts} cannot be split over {over} = {rows} devices: "
        f"try {' or '.join(fixes)}"
    )


def _placed(shape: dict[str, int], devices: list[jax.Device]) -> np.ndarray:
    """The devices, each at its place in the mesh."""
    slices = {getattr(device, "slice_index", 0) for device in devices}
    asked, sizes = shape["slice"], tuple(shape.values())
    # A slice of a TPU cannot be cut or joined. Nodes of GPUs, and machines whose devices say nothing, can.
    on_tpu = devices[0].platform == "tpu"
    if (on_tpu and asked != len(slices)) or (len(slices) > 1 and len(slices) % asked):
        raise MeshError(
            f"config.mesh.slice={asked}, but the {len(devices)} devices are of {len(slices)} "
            f"{'slice' if on_tpu else 'node'}{'s' if len(slices) > 1 else ''}: set config.mesh.slice={len(slices)}"
        )
    if asked == len(slices) > 1:
        return mesh_utils.create_hybrid_device_mesh(
            (1, *sizes[1:]), (asked, 1, 1, 1), devices, allow_split_physical_axes=True
        )
    return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)


def check_model(mesh: Mesh, model: ModelConfig, *, vocab: int) -> None:
    """Refuses a mesh whose axes cannot split what they are there to split.

    Key-value heads may be fewer than `tensor` has devices: they then lie whole on each, which is small.

    Raises:
        MeshError: tensor does not divide the heads, the feed-forward width or the padded vocabulary `vocab`, or fsdp
            does not divide the model's width.
    """
    mlp = model.mlp_width or 4 * model.width
    wanted = {
        "tensor": {"config.model.heads": model.heads, "config.model.mlp_width": mlp, "the padded vocabulary": vocab},
        "fsdp": {"config.model.width": model.width},
    }
    for axis, sizes in wanted.items():
        ways = mesh.shape[axis]
        failing = [f"{name} ({size})" for name, size in sizes.items() if size % ways]
        if failing:
            common = math.gcd(*sizes.values())
            fits = [str(count) for count in range(1, min(common, mesh.devices.size) + 1) if common % count == 0]
            raise MeshError(
                f"config.mesh.{axis}={ways} does not divide {' and '.join(failing)}, so those weights would lie whole "
                f"on every device: this model can be split {', '.join(fits)} ways"
            )


def check_replication(shapes: Any, shardings: Any, *, mesh: Mesh, largest_mib: int) -> None:
    """Refuses a state of which a device would hold a large array that an axis of the mesh is there to split.

    An array counts by the bytes that one device holds of it, and only where it is whole along `fsdp` or `tensor`
    and that axis has several devices.

    Raises:
        MeshError: such arrays above `largest_mib`, each by name and size, and what can be done.
    """
    found = []
    for (path, shape), placed in zip(
        jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(shardings), strict=True
    ):
        used = {name for entry in placed.spec for name in _names(entry)}
        whole = [axis for axis in ("fsdp", "tensor") if mesh.shape[axis] > 1 and axis not in used]
        mib = math.prod(placed.shard_shape(shape.shape)) * shape.dtype.itemsize / 2**20
        if whole and mib > largest_mib:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found.append((mib, f"{name}: {mib:,.0f} MiB, whole along {' and '.join(whole)}"))
    if found:
        lines = [line for _, line in sorted(found, reverse=True)[:10]]
        more = [f"and {len(found) - len(lines)} more"] if len(found) > len(lines) else []
        raise MeshError(
            f"every device would hold, though the mesh could split it (more than {largest_mib} MiB an array):\n  "
            + "\n  ".join(lines + more)
            + "\nChoose config.mesh.fsdp and config.mesh.tensor that divide these arrays' axes, give a new parameter "
            "its axes (PARAMETER_AXES in lacy_jax/model/decoder.py, RULES in lacy_jax/runtime/sharding.py), "
            f"or allow it: config.mesh.largest_replicated_mib={math.ceil(max(found)[0])}"
        )


def partition_spec(names: tuple[str | None, ...]) -> PartitionSpec:
    """Mesh axes for logical names; None and unsplit names stay whole."""
    return PartitionSpec(*(None if name is None else RULES[name] for name in names))


def tree_shardings(axes: Any, shapes: Any, *, mesh: Mesh) -> Any:
    """A NamedSharding for every leaf of `shapes`, from the matching tree of logical axis names.

    A dimension that a mesh axis does not divide (two key-value heads on four devices) stays whole rather than
    failing; `check_replication` says where that costs memory.
    """

    def one(shape: jax.ShapeDtypeStruct, names: tuple[str | None, ...]) -> NamedSharding:
        spec = partition_spec(names)
        fitted = [
            entry if size % math.prod(mesh.shape[name] for name in _names(entry)) == 0 else None
            for size, entry in zip(shape.shape, spec, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*fitted))

    return jax.tree.map(one, shapes, axes)


def constrain(x: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
    """Pins an activation's axes to the mesh in use; does nothing where there is none (decoding, tests)."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(names))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch split over slice, data and fsdp; the sharding of tokens, masks and per-token scalars."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def process_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Numbers of the batch's rows that this process' devices hold, ascending; int [b].

    They need not be neighbours: on a 16x16 torus a host has a square of chips, and of the mesh's order two pieces.
    Processes that share a `tensor` group hold the same rows.
    """
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in held]))


def place_rows(mesh: Mesh, local: np.ndarray, *, batch_size: int) -> jax.Array:
    """The global array [batch_size, ...] of which this process has the rows `process_rows`, in that order."""
    rows = process_rows(mesh, batch_size)

    def shard(index: Any) -> np.ndarray:
        return local[np.searchsorted(rows, np.arange(batch_size)[index[0]])]

    return jax.make_array_from_callback((batch_size, *local.shape[1:]), batch_sharding(mesh), shard)


def _names(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else entry
