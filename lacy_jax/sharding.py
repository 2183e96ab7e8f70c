"""The mesh, and the one table from logical axis names to mesh axes.

Arrays name their axes by meaning ("embed", "heads", "batch"); RULES says which mesh axis each meaning is split over.
The same step then runs on one device and on a pod: a single device is a mesh of one.
"""

import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lacy_jax.config import MeshConfig

AXES = ("data", "fsdp", "tensor")

RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),  # activations and data: rows of the batch
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "layers": None,
}


class MeshError(ValueError):
    """A mesh that the devices, or the batch, do not fit."""


def make_mesh(config: MeshConfig, *, batch_size: int, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh (data, fsdp, tensor) over `devices` (default: all); -1 takes what the other axes leave.

    Raises:
        MeshError: the axes do not multiply to the number of devices, or do not divide the batch.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    fixed = math.prod(size for size in sizes if size != -1)
    if -1 in sizes and len(devices) % fixed == 0:
        sizes[sizes.index(-1)] = len(devices) // fixed
    named = ", ".join(f"config.mesh.{axis}={size}" for axis, size in zip(AXES, sizes, strict=True))
    if -1 in sizes or math.prod(sizes) != len(devices):
        raise MeshError(f"{named} does not fit {len(devices)} devices: the product must be {len(devices)}")
    rows = sizes[0] * sizes[1]
    if batch_size % rows:
        fit = max(batch_size // rows, 1) * rows
        raise MeshError(
            f"config.data.batch_size={batch_size} cannot be split over data x fsdp = {rows} devices: try {fit}"
        )
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def partition_spec(names: tuple[str | None, ...]) -> PartitionSpec:
    """Mesh axes for logical names; None and unsplit names stay whole."""
    return PartitionSpec(*(None if name is None else RULES[name] for name in names))


def tree_shardings(mesh: Mesh, axes: Any, shapes: Any) -> Any:
    """A NamedSharding for every leaf of `shapes`, from the matching tree of logical axis names.

    A dimension that a mesh axis does not divide (three heads on four devices) stays whole rather than failing;
    `replicated_large` tells when that costs memory.
    """

    def one(shape: jax.ShapeDtypeStruct, names: tuple[str | None, ...]) -> NamedSharding:
        spec = partition_spec(names)
        fitted = [
            entry if size % _ways(mesh, entry) == 0 else None for size, entry in zip(shape.shape, spec, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*fitted))

    return jax.tree.map(one, shapes, axes)


def constrain(x: jax.Array, names: tuple[str | None, ...]) -> jax.Array:
    """Pins an activation's axes to the mesh in use; does nothing where there is none (decoding, tests)."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(names))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch split over data and fsdp; the sharding of tokens, masks and per-token scalars."""
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def replicated_large(mesh: Mesh, shapes: Any, shardings: Any, *, above_bytes: int) -> list[str]:
    """Paths of arrays above a size that every device of a mesh of several would hold whole."""
    if mesh.devices.size == 1 or mesh.shape["fsdp"] * mesh.shape["tensor"] == 1:
        return []
    found = []
    for (path, shape), sharding in zip(
        jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(shardings), strict=True
    ):
        if sharding.is_fully_replicated and shape.size * shape.dtype.itemsize > above_bytes:
            found.append(jax.tree_util.keystr(path, simple=True, separator="/"))
    return found


def _ways(mesh: Mesh, entry: str | tuple[str, ...] | None) -> int:
    names = () if entry is None else (entry,) if isinstance(entry, str) else entry
    return math.prod(mesh.shape[name] for name in names)
