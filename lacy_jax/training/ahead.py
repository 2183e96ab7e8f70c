"""What the compiler says of a training step before it runs: memory per device, and what goes over the network."""

import dataclasses
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from lacy_jax.config import Config
from lacy_jax.errors import MeshError
from lacy_jax.model import decoder
from lacy_jax.runtime import sharding
from lacy_jax.training.compiled import compile_train_step
from lacy_jax.training.reference import reference_shapes
from lacy_jax.training.state import state_shardings

# GiB of memory per chip (cloud.google.com/tpu/docs, "System architecture" of each version).
MEMORY_GIB = {"TPU v4": 32, "TPU v5 lite": 16, "TPU v5": 95, "TPU v5p": 95, "TPU v6 lite": 32}

_COLLECTIVE = re.compile(
    r" = (?P<shape>.*?) (?P<kind>all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|"
    r"collective-permute|collective-broadcast)(?:-start)?\("
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)[a-z0-9]*\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:(ENTRY) )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|called_computations|branch_computations)=\{?%?([\w.\-]+(?:, ?%[\w.\-]+)*)"
)
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_LIMIT = re.compile(r"= s(?:32|64)\[\]\S* constant\((\d+)\)")
_CHANNEL = re.compile(r"channel_id=\d+")
_GROUPS = re.compile(r"replica_groups=(?:\[\d+,(\d+)\]|\{\{([\d,]+)\})")


@dataclasses.dataclass(frozen=True)
class Collectives:
    """Of one kind: how many per step, and bytes of a device's larger side of them (what is gathered, or reduced)."""

    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """The compiler's plan of a step, bytes per device. state and batch lie there between steps too."""

    arguments: int
    temporaries: int
    outputs: int  # that do not lie where an argument lay
    collectives: dict[str, Collectives]

    @property
    def total(self) -> int:
        return self.arguments + self.temporaries + self.outputs


def topology_devices(name: str, *, slices: int = 1) -> Sequence[jax.Device]:
    """The devices of TPU slices that are not there, e.g. "v5e:16x16"; for compiling only, by the package libtpu.

    From here on this process keeps no compiled programs.

    Raises:
        MeshError: libtpu is not installed, or knows no such topology.
    """
    # Else libtpu asks a cloud's metadata server which slice this is, and says at length that there is none.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Nor does it take the machine's TPU: else a second compilation beside this one would be refused.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=name, num_slices=slices).devices
    except Exception as error:  # of several types, by version: the message is what helps
        said = str(error).splitlines()[0]
        if "libtpu" in said or "TPU backend" in said or "Unknown backend" in said:
            raise MeshError(f'compiling for a TPU needs libtpu ({said}): pip install "jax[tpu]"') from None
        raise MeshError(
            f"--topology={name}: {said}; known are for example v5e:2x2 .. v5e:16x16, v5p:2x2x1 .. v5p:8x8x8, v6e:16x16"
        ) from None
    # A kept program is read by a client of its devices: where they are not there, it would be written and never read.
    jax.config.update("jax_enable_compilation_cache", False)
    return devices


def plan_step(config: Config, devices: Sequence[jax.Device]) -> Plan:
    """Compiles the training step of a run for `devices`, with the vocabulary that the config asks for.

    Raises:
        MeshError: the mesh does not fit devices, batch or model, or, as `OutOfMemory`, the step does not fit.
        CheckpointError: config.objective.reference is no checkpoint; its settings say how large the reference model is.
    """
    vocab = decoder.padded_vocab(config.tokenizer.vocab_size + 1)
    mesh = make_mesh(config, devices)
    # The abstract mesh: of a concrete one, whose devices are not there, JAX would make small arrays on them.
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        state_shardings(config, vocab=vocab, mesh=mesh)  # its checks, before minutes of compiling
        reference = reference_shapes(config, vocab=vocab, mesh=mesh)
        call_id = config.tokenizer.vocab_size
        program = compile_train_step(config, vocab=vocab, call_id=call_id, mesh=mesh, reference=reference)
    memory: Any = program.memory_analysis()
    return Plan(
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        collectives=collectives(program.as_text() or ""),
    )


def make_mesh(config: Config, devices: Sequence[jax.Device]) -> Mesh:
    """The mesh that a run of this config would make of these devices; see `sharding.make_mesh`."""
    return sharding.make_mesh(
        config.mesh,
        batch_size=config.data.batch_size,
        microbatches=config.training.microbatches,
        devices=list(devices),
    )


def collectives(hlo: str) -> dict[str, Collectives]:
    """Collectives of one run of an optimized HLO module, by kind; those in a loop count once a turn.

    A TPU's compiler cuts a collective into pieces that run beside other work: they share a channel, and count as one.
    """
    computations, entry = _computations(hlo)
    seen: dict[tuple[str, str], tuple[int, int]] = {}  # (kind, channel) -> (times, bytes)
    pending: list[tuple[str, int]] = [(entry, 1)]
    while pending:
        name, times = pending.pop()
        for line in computations[name]:
            found = _COLLECTIVE.search(line)
            if found:
                channel = _CHANNEL.search(line)
                key = (found["kind"], channel[0] if channel else f"{name} {line}")
                before = seen.get(key, (0, 0))
                seen[key] = max(before[0], times), max(before[1], _bytes(found, line))
                continue  # what it calls adds two numbers
            turns = _turns(line, computations)
            pending += [(called, times * turns) for called in _called(line, computations)]
    totals: dict[str, Collectives] = {}
    for (kind, _), (times, size) in sorted(seen.items()):
        sofar = totals.get(kind, Collectives(0, 0))
        totals[kind] = Collectives(sofar.count + times, sofar.bytes + times * size)
    return totals


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Lines of each computation, and the name of the first to run."""
    computations: dict[str, list[str]] = defaultdict(list)
    name = entry = ""
    for line in hlo.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            name = header[2]
            entry = name if header[1] else entry
        elif line.startswith("  "):
            computations[name].append(line)
    return computations, entry


def _called(line: str, computations: dict[str, list[str]]) -> Iterator[str]:
    for match in _CALLED.finditer(line):
        yield from (name for name in re.split(r", ?%?", match[1]) if name in computations)


def _turns(line: str, computations: dict[str, list[str]]) -> int:
    """How often a loop's body runs: a loop over layers or microbatches counts from 0 to a constant. 1 for the rest."""
    condition = _CONDITION.search(line)
    if " while(" not in line or condition is None:
        return 1
    limits = [int(limit) for text in computations[condition[1]] for limit in _LIMIT.findall(text)]
    return max(limits, default=1)


def _bytes(found: re.Match[str], line: str) -> int:
    """Of the larger side: an asynchronous start names operand and result, a scatter only the small result."""
    sizes = [
        math.prod(int(size) for size in dims.split(",") if size) * _width(kind)
        for kind, dims in _ARRAY.findall(found["shape"])
    ]
    if "-start(" in found[0]:
        return max(sizes, default=0)
    groups = _GROUPS.search(line)
    if found["kind"] == "reduce-scatter" and groups:
        return sum(sizes) * (int(groups[1]) if groups[1] else groups[2].count(",") + 1)
    return sum(sizes)


def _width(kind: str) -> int:
    """Bytes of an element: bf16 2, f32 4, s8 1, pred 1."""
    bits = re.search(r"\d+", kind)
    return max(1, int(bits[0]) // 8) if bits else 1
