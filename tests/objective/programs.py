"""The objective under a mesh, and what its compiled programs may not contain.

Run as a program it compiles for a TPU slice: `python -m tests.objective.programs`, with libtpu installed.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lacy_jax.objective import greedy_tokens, head_scalars, nll_without_call, objective_sums, select_targets

MESHES = [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 1, 8)]
BATCH_AXES = ("data", "fsdp")
# No product of a share of these is also a share of another, so a shape says what an array is.
BATCH, TIME, WIDTH, VOCAB, CALL_ID = 16, 24, 32, 640, 610
SPECS = {
    "hidden": P(BATCH_AXES),
    "embedding": P("tensor", "fsdp"),
    "targets": P(BATCH_AXES),
    "factual": P(BATCH_AXES),
    "valid": P(BATCH_AXES),
}


def mesh_of(devices: list[jax.Device], shape: tuple[int, int, int]) -> Mesh:
    axes = ("data", "fsdp", "tensor")
    return Mesh(np.array(devices[: int(np.prod(shape))]).reshape(shape), axes, axis_types=(AxisType.Auto,) * 3)


def value_and_gradients(
    hidden,
    embedding,
    targets,
    factual,
    valid,
    *,
    chunks,
    rule="factual_loss",
    treatment="call",
    normalizer="renormalized",
):
    """(loss, (taken, losses, greedy)), (d_hidden, d_embedding)"""

    def loss(hidden, embedding):
        scalars = head_scalars(hidden, embedding, targets, CALL_ID, vocab_chunks=chunks)
        losses = nll_without_call(scalars)
        key = jax.random.key(3)
        taken = select_targets(
            losses, factual, valid, rule=rule, rate=0.6, reference_losses=jnp.roll(losses, 1), key=key
        )
        sums = objective_sums(scalars, taken, valid, treatment=treatment, normalizer=normalizer)
        greedy = greedy_tokens(hidden, embedding, CALL_ID, vocab_chunks=chunks)
        return sums.loss / sums.weight, (taken, losses, greedy)

    return jax.value_and_grad(loss, (0, 1), has_aux=True)(hidden, embedding)


def compile_for(mesh: Mesh, *, dtype: str, chunks: int) -> jax.stages.Lowered:
    """Lowered for the mesh, hidden states and output matrix sharded as in training."""
    shapes = {
        "hidden": ((BATCH, TIME, WIDTH), dtype),
        "embedding": ((VOCAB, WIDTH), "float32"),
        "targets": ((BATCH, TIME), "int32"),
        "factual": ((BATCH, TIME), "bool"),
        "valid": ((BATCH, TIME), "bool"),
    }
    arguments = {
        name: jax.ShapeDtypeStruct(*shape, sharding=NamedSharding(mesh, SPECS[name])) for name, shape in shapes.items()
    }
    sharding = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
    per_token = (sharding["valid"],) * 3
    outputs = ((NamedSharding(mesh, P()), per_token), (sharding["hidden"], sharding["embedding"]))

    def program(hidden, embedding, targets, factual, valid):
        return value_and_gradients(hidden, embedding, targets, factual, valid, chunks=chunks)

    return jax.jit(program, out_shardings=outputs).lower(**arguments)


def operations(text: str) -> list[tuple[str, str, list[tuple[str, tuple[int, ...]]], str]]:
    """(computation, operation, [(dtype, shape) of each result], line) of every instruction of an HLO text."""
    found, computation = [], ""
    for line in text.splitlines():
        if header := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            computation = header[1]
        elif match := re.match(r"\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][\w\-]*)\(", line):
            shapes = re.findall(r"\b([a-z]+\d+|pred)\[([\d,]*)\]", match[1])
            results = [(kind, tuple(int(n) for n in dims.split(",") if n)) for kind, dims in shapes]
            found.append((computation, match[2], results, line))
    return found


def buffers(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """(dtype, shape) of everything an optimized HLO program may hold in memory: all but the insides of fusions."""
    every = operations(text)
    fused = {name for _, kind, _, line in every if kind == "fusion" for name in re.findall(r"calls=%?([\w.\-]+)", line)}
    return [result for computation, _, results, _ in every if computation not in fused for result in results]


def faults(text: str, mesh: Mesh, *, chunks: int, float32_logits: bool) -> list[str]:
    """What an optimized HLO program contains against the rules: sorts, gathered tokens, large float32 logits."""
    tokens, vocab = BATCH * TIME, VOCAB // mesh.shape["tensor"] // chunks
    local = tokens // (mesh.shape["data"] * mesh.shape["fsdp"])
    found = []
    for _, kind, results, line in operations(text):
        if kind == "sort" or "topk" in line.lower():
            found.append(f"sort: {line.strip()[:200]}")
        for _, shape in results:
            # Anything per token has a multiple of TIME in its shape; nothing else has.
            if kind.startswith(("all-gather", "all-to-all")) and any(n % TIME == 0 for n in shape):
                found.append(f"tokens gathered: {line.strip()[:200]}")
    for kind, shape in buffers(text):
        if not any(n % TIME == 0 for n in shape):
            continue
        of_logits = any(n % vocab == 0 for n in shape) and np.prod(shape) >= local * vocab
        if of_logits and kind == "f32" and not float32_logits:
            found.append(f"float32 logits held: {shape}")
        if np.prod(shape) > local * max(vocab, WIDTH):
            found.append(f"larger than a chunk of logits: {kind}{shape}")
    return found


def main() -> None:
    """Compile every mesh and both tiers for eight TPU v5e chips; print each fault, then how many programs."""
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
    programs = [(shape, chunks) for shape in [(1, 1, 1), *MESHES] for chunks in (1, 4)]
    for shape, chunks in programs:
        mesh = mesh_of(devices, shape)
        text = compile_for(mesh, dtype="bfloat16", chunks=chunks).compile().as_text()
        counts = text.count("s32[256]{0")
        for fault in faults(text, mesh, chunks=chunks, float32_logits=False):
            print(f"fault {shape} {chunks}: {fault}")
        if not counts:
            print(f"fault {shape} {chunks}: no radix counts found")
    print(f"compiled {len(programs)} programs")


if __name__ == "__main__":
    main()
