"""Meshes: the same training on every one, arrays where the rules say, and refusals that propose a fix."""

import dataclasses
import importlib.util
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lacy_jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig, TrainingConfig
from lacy_jax.errors import MeshError
from lacy_jax.runtime import sharding
from lacy_jax.runtime.sharding import check_model, make_mesh
from lacy_jax.training.announce import describe_memory, describe_mesh
from lacy_jax.training.compiled import compile_train_step
from lacy_jax.training.state import TrainState, init_state, state_shardings
from tests.training.test_step import CALL, VOCAB, make_batch

MODEL = ModelConfig(layers=2, width=32, heads=8, kv_heads=2, context=16, compute_dtype="float32")
CONFIG = Config(
    model=MODEL,
    data=dataclasses.replace(Config().data, batch_size=16),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
    training=TrainingConfig(steps=20),
)
# (slice, data, fsdp, tensor)
MESHES = [(1, 8, 1, 1), (1, 1, 8, 1), (2, 1, 4, 1), (1, 4, 1, 2), (1, 2, 2, 2), (2, 1, 2, 2)]


def mesh_config(shape: tuple[int, ...], **more: Any) -> MeshConfig:
    return MeshConfig(**dict(zip(sharding.AXES, shape, strict=True)), **more)


def train(shape: tuple[int, ...], *, steps: int = 20) -> tuple[list[dict[str, float]], TrainState, jax.stages.Compiled]:
    """The sums of every step, the last state, and the program."""
    mesh = make_mesh(mesh_config(shape), batch_size=16, devices=jax.devices()[: math.prod(shape)])
    with jax.set_mesh(mesh):
        placed = state_shardings(CONFIG, vocab=VOCAB, mesh=mesh)
        state = jax.jit(lambda: init_state(CONFIG, vocab=VOCAB), out_shardings=placed)()
        step = compile_train_step(CONFIG, vocab=VOCAB, call_id=CALL, mesh=mesh)
        records = []
        for index in range(steps):
            batch = jax.device_put(make_batch(index), sharding.batch_sharding(mesh))
            state, sums = step(state, batch, None)
            records.append({name: float(value) for name, value in jax.device_get(sums).items() if value.ndim == 0})
    return records, state, step


@pytest.fixture(scope="module")
def alone() -> list[dict[str, float]]:
    return train((1, 1, 1, 1))[0]


@pytest.fixture
def uncached() -> Iterator[None]:
    """A program out of the cache is not compiled, and says nothing."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", before)


def slow_of_few_axes(shape: tuple[int, ...]) -> list[pytest.MarkDecorator]:
    """Meshes of three axes show what those of one and two do."""
    return [pytest.mark.slow] if sum(size > 1 for size in shape) < 3 else []


def split_of(path: str, shape: tuple[int, ...]) -> int:
    """Over how many devices of a mesh an array must be split, told by hand for each kind."""
    _, _, fsdp, tensor = shape
    if "norm" in path or path.endswith(("output/bias", "down/bias")):
        return 1
    if "positions" in path:
        return fsdp
    ways = tensor if "key" not in path and "value" not in path else math.gcd(tensor, 2)
    return ways if path.endswith("bias") else ways * fsdp


@pytest.mark.parametrize("shape", [pytest.param(each, marks=slow_of_few_axes(each)) for each in MESHES], ids=str)
@pytest.mark.usefixtures("uncached")
def test_six_meshes_train_as_one_device(
    shape: tuple[int, ...], alone: list[dict[str, float]], capfd: pytest.CaptureFixture[str]
) -> None:
    found, state, step = train(shape)
    for one, other in zip(alone, found, strict=True):
        assert (one["count/all"], one["count/taken"]) == (other["count/all"], other["count/taken"])
        assert other["loss"] == pytest.approx(one["loss"], rel=2e-6)  # 3.5e-7 seen: float32 sums in another order
    line = describe_memory(state, step, device=jax.devices()[0])
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state.params))
    assert f"parameters {held / 2**20:,.1f} MiB, optimizer {2 * held / 2**20:,.1f} MiB, activations" in line
    # Parameters and both moments, after twenty steps, each at its place.
    for tree in (state.params, state.optimizer[1].mu, state.optimizer[1].nu):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            assert leaf.size == leaf.addressable_shards[0].data.size * split_of(name, shape), name
    assert "Involuntary full rematerialization" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("shape", "rule", "named"),
    [
        ((1, 1, 8, 1), "embed", "params/blocks/mlp/up/kernel"),
        ((1, 1, 1, 8), "mlp", "params/blocks/mlp/down/kernel"),
        ((1, 1, 4, 2), "heads", "optimizer/1/mu/blocks/attention/query/kernel"),
        ((1, 1, 2, 4), "vocab", "optimizer/1/nu/embedding/embedding"),
    ],
    ids=str,
)
def test_a_broken_rule_stops_the_start(
    shape: tuple[int, ...], rule: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = dataclasses.replace(MODEL, width=1024, kv_heads=0)
    config = dataclasses.replace(CONFIG, model=model, mesh=mesh_config(shape, largest_replicated_mib=1))
    mesh = make_mesh(config.mesh, batch_size=16)
    state_shardings(config, vocab=8192, mesh=mesh)
    monkeypatch.setitem(sharding.RULES, rule, None)
    with pytest.raises(MeshError) as error:
        state_shardings(config, vocab=8192, mesh=mesh)
    assert f"{named}: " in str(error.value)
    assert " MiB, whole along " in str(error.value)
    largest = int(str(error.value).rsplit("largest_replicated_mib=", 1)[1])
    allowed = dataclasses.replace(config, mesh=mesh_config(shape, largest_replicated_mib=largest))
    state_shardings(allowed, vocab=8192, mesh=mesh)


def test_no_rule_is_idle_and_they_are_few() -> None:
    from lacy_jax.model.decoder import PARAMETER_AXES

    used = {name for axes in PARAMETER_AXES.values() for name in axes if name} | {"batch", "layers"}
    assert used == set(sharding.RULES)
    assert len(sharding.RULES) <= 10


@pytest.mark.parametrize(
    ("mesh", "batch", "microbatches", "words"),
    [
        ({"fsdp": 3}, 16, 1, "does not fit 8 devices: the product must be 8; try config.mesh.fsdp=2"),
        ({"slice": 3}, 16, 1, "config.mesh.slice=3"),
        ({"data": 2}, 16, 1, "the product must be 8; try config.mesh.data=-1"),
        ({"data": 3, "fsdp": -1, "tensor": 16}, 16, 1, "try config.mesh.tensor=8 config.mesh.data=1"),
        ({}, 12, 1, "try config.data.batch_size=8 or config.data.batch_size=16"),
        ({"slice": 2}, 20, 1, "slice 2 x data 4 x fsdp 1 = 8 devices"),
        ({}, 16, 4, "or config.training.microbatches=2"),
        ({"tensor": 8, "data": 1}, 5, 3, "try config.data.batch_size=3 or config.data.batch_size=6"),
    ],
    ids=str,
)
def test_a_mesh_that_does_not_fit_is_refused_with_a_fix(
    mesh: dict[str, int], batch: int, microbatches: int, words: str
) -> None:
    with pytest.raises(MeshError) as error:
        make_mesh(MeshConfig(**mesh), batch_size=batch, microbatches=microbatches)
    assert words in str(error.value)


def test_every_proposed_batch_fits() -> None:
    for batch in range(1, 40):
        try:
            make_mesh(MeshConfig(data=4, tensor=2), batch_size=batch, microbatches=3)
        except MeshError as error:
            for fix in str(error).split(": try ")[1].split(" or "):
                name, _, value = fix.rpartition("=")
                changed = {"config.data.batch_size": "batch_size", "config.training.microbatches": "microbatches"}[name]
                make_mesh(MeshConfig(data=4, tensor=2), **{"batch_size": batch, "microbatches": 3, changed: int(value)})


def test_every_proposed_mesh_fits() -> None:
    refused = 0
    for sizes in itertools.product((-1, 1, 2, 3, 16), repeat=4):
        config = mesh_config(sizes)
        if sizes.count(-1) > 1:
            continue  # refused by lacy_jax/config.py
        try:
            make_mesh(config, batch_size=16)
        except MeshError as error:
            refused += 1
            fixes = (fix.rpartition("=") for fix in str(error).split("; try ")[1].split())
            changes = {name.rpartition(".")[2]: int(value) for name, _, value in fixes}
            make_mesh(dataclasses.replace(config, **changes), batch_size=16)
    assert refused > 300


@pytest.mark.parametrize(
    ("mesh", "model", "words"),
    [
        ({"tensor": 8, "data": 1}, {"width": 48, "heads": 12}, "config.model.heads (12)"),
        ({"tensor": 8, "data": 1}, {"mlp_width": 100}, "config.model.mlp_width (100)"),
        ({"tensor": 8, "data": 1}, {"heads": 16, "mlp_width": 100}, "can be split 1, 2, 4 ways"),
        ({"fsdp": 8, "data": 1}, {"width": 36, "heads": 12}, "can be split 1, 2, 3, 4, 6 ways"),
    ],
    ids=str,
)
def test_a_model_that_the_mesh_cannot_split_is_refused(mesh: dict[str, int], model: dict[str, int], words: str) -> None:
    changed = dataclasses.replace(MODEL, **{"kv_heads": 0, **model})
    with pytest.raises(MeshError) as error:
        check_model(make_mesh(MeshConfig(**mesh), batch_size=16), changed, vocab=1000)
    assert words in str(error.value)


@pytest.mark.parametrize("shape", [(1, 8, 1, 1), (2, 1, 2, 2), (1, 1, 1, 8), (1, 2, 4, 1)], ids=str)
def test_rows_come_to_the_devices_that_hold_them(shape: tuple[int, ...]) -> None:
    """With the devices in any order: on a torus a host's rows are not neighbours."""
    order = np.random.default_rng(0).permutation(8)
    mesh = make_mesh(mesh_config(shape), batch_size=16, devices=[jax.devices()[i] for i in order])
    rows = sharding.process_rows(mesh, 16)
    np.testing.assert_array_equal(rows, np.arange(16))
    placed = sharding.place_rows(mesh, np.arange(32).reshape(16, 2)[rows], batch_size=16)
    np.testing.assert_array_equal(placed, np.arange(32).reshape(16, 2))
    assert placed.sharding == sharding.batch_sharding(mesh)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks of a device."""

    id: int
    process_index: int
    slice_index: int
    platform: str
    device_kind: str
    coords: tuple[int, int, int]
    core_on_chip: int = 0


def chips(platform: str, *, slices: int) -> list[Any]:
    """`slices` groups of four devices."""
    kind = "TPU v4" if platform == "tpu" else "NVIDIA H100"
    return [
        Chip(4 * group + i, group, group, platform, kind, (i // 2, i % 2, 0))
        for group in range(slices)
        for i in range(4)
    ]


@pytest.mark.parametrize(
    ("platform", "slices", "mesh", "words"),
    [
        ("tpu", 2, {}, "config.mesh.slice=1, but the 8 devices are of 2 slices: set config.mesh.slice=2"),
        ("tpu", 1, {"slice": 2}, "config.mesh.slice=2, but the 4 devices are of 1 slice: set config.mesh.slice=1"),
        ("gpu", 3, {"slice": 2}, "config.mesh.slice=2, but the 12 devices are of 3 nodes: set config.mesh.slice=3"),
        ("tpu", 2, {"slice": 2, "data": 1, "fsdp": -1}, ""),
        ("tpu", 2, {"slice": -1, "data": 1, "fsdp": 4}, ""),
        ("gpu", 2, {"slice": 2, "data": 1, "fsdp": 4}, ""),
        ("gpu", 2, {"data": 1, "fsdp": 8}, ""),  # over nodes, if that is wanted
    ],
    ids=str,
)
def test_slices_are_those_of_the_devices(platform: str, slices: int, mesh: dict[str, int], words: str) -> None:
    devices = chips(platform, slices=slices)
    config, size = MeshConfig(**mesh), 24
    sizes = {axis: getattr(config, axis) for axis in sharding.AXES}
    free = len(devices) // math.prod(size for size in sizes.values() if size != -1)
    shape = {axis: free if size == -1 else size for axis, size in sizes.items()}
    if words:
        with pytest.raises(MeshError) as error:
            make_mesh(config, batch_size=size, devices=devices)
        assert words in str(error.value)
        return
    placed = sharding._placed(shape, devices)  # a Mesh takes no invented devices
    assert placed.shape == tuple(shape.values())
    if shape["slice"] > 1:
        assert [{chip.slice_index for chip in part.flat} for part in placed] == [{0}, {1}]


@pytest.mark.tpu_compile
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_meshes_of_tpu_slices() -> None:
    """Neighbours along the innermost axis are neighbours on the torus, and slices are kept apart."""
    program = """
from jax.experimental import topologies
from lacy_jax.config import MeshConfig
from lacy_jax.runtime.sharding import MeshError, make_mesh
def devices(name, **more):
    return topologies.get_topology_desc(platform="tpu", topology_name=name, **more).devices
def far(a, b):
    return sum(min(abs(x - y), 16 - abs(x - y)) for x, y in zip(a.coords, b.coords))
for sizes in ({"fsdp": 256}, {"fsdp": 64}, {"fsdp": 16, "tensor": 4}):
    mesh = make_mesh(MeshConfig(**sizes), batch_size=256, devices=devices("v5e:16x16"))
    inner = mesh.devices.reshape(-1, sizes.get("tensor", sizes["fsdp"]))
    print(sizes, max(far(a, b) for row in inner for a, b in zip(row, row[1:])))
two = devices("v5e:4x4", num_slices=2)
mesh = make_mesh(MeshConfig(slice=2, data=1, fsdp=-1), batch_size=32, devices=two)
print([{chip.slice_index for chip in part.flat} for part in mesh.devices], dict(mesh.shape))
try:
    make_mesh(MeshConfig(fsdp=8), batch_size=32, devices=two)
except MeshError as error:
    print(error)
"""
    environment = os.environ | {"TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    command = [sys.executable, "-c", program]
    root = Path(__file__).parents[2]
    result = subprocess.run(
        command, env=environment, cwd=root, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.stdout.splitlines()[-5:] == [
        "{'fsdp': 256} 2",
        "{'fsdp': 64} 4",
        "{'fsdp': 16, 'tensor': 4} 1",
        "[{0}, {1}] {'slice': 2, 'data': 1, 'fsdp': 16, 'tensor': 1}",
        "config.mesh.slice=1, but the 32 devices are of 2 slices: set config.mesh.slice=2",
    ], result.stderr[-3000:]


def test_the_start_tells_the_mesh() -> None:
    mesh = make_mesh(mesh_config((2, 1, 4, 1)), batch_size=16)
    assert describe_mesh(mesh) == "8 x cpu, mesh slice 2 x data 1 x fsdp 4 x tensor 1"
