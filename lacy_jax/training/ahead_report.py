"""What compiling a step ahead (ahead.py) shows, in lines: memory, collectives, cycles, and settings that fit better."""

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence

import jax

from lacy_jax.config import Config, Remat
from lacy_jax.errors import MeshError
from lacy_jax.model import decoder
from lacy_jax.runtime.platforms import describe_options
from lacy_jax.runtime.sharding import BATCH_AXES
from lacy_jax.training.ahead import MEMORY_GIB, Plan, make_mesh, plan_step
from lacy_jax.training.announce import describe_mesh
from lacy_jax.training.compiled import OutOfMemory
from lacy_jax.training.flops import expected_step
from lacy_jax.training.step import for_devices

MOST_TRIES = 4


def report(config: Config, devices: Sequence[jax.Device]) -> bool:
    """Compiles and prints; whether it fits."""
    mesh, vocab = make_mesh(config, devices), decoder.padded_vocab(config.tokenizer.vocab_size + 1)
    print(f"{config.name}, method {config.method}, {describe(config, devices)}; {describe_mesh(mesh)}", flush=True)
    print(f"attention: {for_devices(config, mesh).model.attention}; {describe_options('tpu')}", flush=True)
    memory = MEMORY_GIB.get(devices[0].device_kind)
    of = f" of {memory} GiB" if memory else ""
    began = time.monotonic()
    try:
        plan = plan_step(config, devices)
    except OutOfMemory as error:
        print(f"does not fit into a chip's memory{of}: {error.compiler}")
        return False
    for line in describe_plan(plan):
        print(line)
    expected = expected_step(config, vocab=vocab, mesh=mesh)
    if expected:
        print(f"expected step: {expected.seconds:.3g} s ({expected.basis})")
    print(f"fits: {gib(plan.total)}{of} a chip (compiled in {time.monotonic() - began:.0f} s)", flush=True)
    return True


def describe_plan(plan: Plan) -> Iterator[str]:
    """Memory a chip, collectives, and the compiler's cycles where it estimates them."""
    yield f"memory per chip: state and batch {gib(plan.arguments)}, activations and gradients {gib(plan.temporaries)}"
    if not plan.collectives:
        yield "collectives: none"
    for kind, one in plan.collectives.items():
        yield f"collectives: {one.count:5} {kind} a step, {one.bytes / 2**20:,.0f} MiB"
    if plan.cycles:
        millions = f"{plan.cycles / 1e6:,.0f} million cycles a step"
        yield f"computation: {millions} by the compiler's estimate, without attention's kernel and collectives"


def suggest(config: Config, devices: Sequence[jax.Device], *, fits: bool) -> None:
    """Compiles further settings until one fits (or, where the asked one did, until one no longer does)."""
    best: Config | None = None
    for other in list(alternatives(config, devices, fits=fits))[:MOST_TRIES]:
        try:
            plan = plan_step(other, devices)
        except OutOfMemory:
            print(f"  tried: {describe(other, devices)}: does not fit", flush=True)
        except MeshError:
            continue  # a model or a batch that cannot be split so
        else:
            print(f"  tried: {describe(other, devices)}: fits, {gib(plan.total)}", flush=True)
            best = other
            if not fits:
                break
    if best is not None:
        print(f"suggestion: {' '.join(changes(config, best))}")
    elif not fits:
        print("suggestion: more chips, or a smaller config.data.batch_size: none of these fits")


def alternatives(config: Config, devices: Sequence[jax.Device], *, fits: bool) -> Iterator[Config]:
    """Settings to try, each with the same result of training but for the batch, the best last where `fits`.

    Where the asked setting does not fit: parameters split over all chips, everything recomputed, the batch in parts.
    Where it fits: twice the batch, and less recomputed.
    """
    if fits:
        doubled = dataclasses.replace(
            config, data=dataclasses.replace(config.data, batch_size=2 * config.data.batch_size)
        )
        less: dict[Remat, tuple[Remat, ...]] = {"full": ("dots", "none"), "dots": ("none",), "none": ()}
        yield doubled
        yield from (_with(config, remat=remat) for remat in less[config.model.remat])
        return
    if config.model.remat != "full":
        config = _with(config, remat="full")
        yield config
    rows = _rows(config, devices)
    split = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, data=1, fsdp=-1))
    if config.mesh.fsdp == 1:
        yield split
    parts = 2 * config.training.microbatches
    while parts <= rows:
        if rows % parts == 0:
            yield dataclasses.replace(split, training=dataclasses.replace(config.training, microbatches=parts))
        parts *= 2


def _rows(config: Config, devices: Sequence[jax.Device]) -> int:
    """Rows of the batch on a chip; the chips of a `tensor` group share theirs."""
    shape = make_mesh(config, devices).shape
    return config.data.batch_size // math.prod(shape[axis] for axis in BATCH_AXES)


def _with(config: Config, *, remat: Remat) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, remat=remat))


def changes(config: Config, other: Config) -> list[str]:
    """The flags that turn one config into the other."""
    flags_of = []
    for section in ("data", "model", "mesh", "training"):
        before, after = getattr(config, section), getattr(other, section)
        for field in dataclasses.fields(before):
            value = getattr(after, field.name)
            if getattr(before, field.name) != value:
                flags_of.append(f"--config.{section}.{field.name}={value}")
    return flags_of


def describe(config: Config, devices: Sequence[jax.Device]) -> str:
    """`batch 1024 x 1024 (4 rows per chip), remat full`."""
    parts = f" in {config.training.microbatches} parts" if config.training.microbatches > 1 else ""
    ways = {axis: getattr(config.mesh, axis) for axis in ("fsdp", "tensor")}
    mesh = ", ".join(f"{axis} {size}" for axis, size in ways.items() if size != 1)
    return (
        f"batch {config.data.batch_size} x {config.model.context} ({_rows(config, devices)} rows per chip{parts}), "
        f"remat {config.model.remat}" + (f", {mesh}" if mesh else "")
    )


def gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
