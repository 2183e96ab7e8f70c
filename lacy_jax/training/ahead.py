"""What the compiler says of a training step before it runs: memory per device, what goes over the network, cycles."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from lacy_jax.config import Config
from lacy_jax.errors import MeshError
from lacy_jax.model import decoder
from lacy_jax.runtime import sharding
from lacy_jax.training.compiled import compile_train_step
from lacy_jax.training.hlo import Collectives, collectives, cycles
from lacy_jax.training.reference import reference_shapes
from lacy_jax.training.state import state_shardings

# GiB of memory per chip (cloud.google.com/tpu/docs, "System architecture" of each version).
MEMORY_GIB = {"TPU v4": 32, "TPU v5 lite": 16, "TPU v5": 95, "TPU v5p": 95, "TPU v6 lite": 32}


@dataclasses.dataclass(frozen=True)
class Plan:
    """The compiler's plan of a step, bytes per device. state and batch lie there between steps too."""

    arguments: int
    temporaries: int
    outputs: int  # that do not lie where an argument lay
    collectives: dict[str, Collectives]
    cycles: int  # `hlo.cycles`

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
    text = program.as_text() or ""
    return Plan(
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        collectives=collectives(text),
        cycles=cycles(text),
    )


def make_mesh(config: Config, devices: Sequence[jax.Device]) -> Mesh:
    """The mesh that a run of this config would make of these devices; see `sharding.make_mesh`."""
    return sharding.make_mesh(
        config.mesh,
        batch_size=config.data.batch_size,
        microbatches=config.training.microbatches,
        devices=list(devices),
    )
