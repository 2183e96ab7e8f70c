"""Compiles the three configs for TPU slices that are not there, and writes the table of docs/tpu.md.

    python -m benchmarks.compile_table                     # prints it; needs libtpu, two to six minutes per line
    python -m benchmarks.compile_table --write docs/tpu.md # and puts it between the file's two marks

Every line is the real training step (method lacy, attention as a run would choose it) with the rows per chip and the
mesh that the line names. Memory is the compiler's plan: state, batch, activations and gradients of a chip. The
expected step is arithmetic, not a measurement (training/flops.py). Cycles are the compiler's estimate for all but
attention's kernel and collectives (training/hlo.py), of `ntp` from a second compilation.
"""

import argparse
import dataclasses
import runpy
import sys
import time
from pathlib import Path

import jax

from benchmarks.door import answered
from lacy_jax.checks import parse
from lacy_jax.config import Config, MeshConfig
from lacy_jax.model import decoder
from lacy_jax.presets import apply_variant
from lacy_jax.training.ahead import MEMORY_GIB, make_mesh, plan_step, topology_devices
from lacy_jax.training.compiled import OutOfMemory
from lacy_jax.training.flops import expected_step

BEGIN, END = "<!-- compile_table: begin -->", "<!-- compile_table: end -->"
TOPOLOGIES = ("v5e:4x4", "v5e:16x16", "v5p:4x4x4", "v6e:16x16")
# Rows a chip, and how many chips share the parameters: what fits with room to spare, no search for the best.
LINES: dict[str, dict[str, tuple[int, int]]] = {
    "slm_150m": {"v5e:4x4": (16, 1), "v5e:16x16": (4, 1), "v5p:4x4x4": (16, 1), "v6e:16x16": (4, 1)},
    "slm_334m": {"v5e:4x4": (8, 1), "v5e:16x16": (4, 1), "v5p:4x4x4": (16, 1), "v6e:16x16": (4, 1)},
    "slm_1b": {"v5e:4x4": (8, 16), "v5e:16x16": (4, 16), "v5p:4x4x4": (16, 1), "v6e:16x16": (4, 16)},
}
TITLE = (
    "| config | slice | rows per chip | batch | mesh | memory per chip, GiB "
    "| collectives a step, MiB per chip | expected step, s | cycles, millions | over `ntp` |"
)


def line_config(name: str, *, method: str = "lacy", rows: int, fsdp: int, chips: int) -> Config:
    """A config file's settings with a method, and the batch and mesh of a line."""
    settings = runpy.run_path(f"configs/{name}.py")["get_config"]()
    config = parse(apply_variant(settings, f"method={method}"))
    data = dataclasses.replace(config.data, batch_size=rows * chips)
    return dataclasses.replace(config, data=data, mesh=MeshConfig(data=-1, fsdp=fsdp))


def line(name: str, topology: str) -> str:
    """One line of the table."""
    devices = topology_devices(topology)
    rows, fsdp = LINES[name][topology]
    config = line_config(name, rows=rows, fsdp=fsdp, chips=len(devices))
    mesh = make_mesh(config, devices)
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    memory = MEMORY_GIB[devices[0].device_kind]
    expected = expected_step(config, vocab=decoder.padded_vocab(config.tokenizer.vocab_size + 1), mesh=mesh)
    assert expected is not None
    start = f"| `{name}` | {topology} | {rows} | {config.data.batch_size} | {axes}"
    try:
        plan = plan_step(config, devices)
        plain = plan_step(line_config(name, method="ntp", rows=rows, fsdp=fsdp, chips=len(devices)), devices)
    except OutOfMemory:
        return f"{start} | does not fit into {memory} | | | | |"
    sent = ", ".join(f"{one.count} {kind} {one.bytes / 2**20:,.0f}" for kind, one in plan.collectives.items())
    cycles = f"{plan.cycles / 1e6:,.1f} | {plan.cycles / plain.cycles:.4f}"
    return f"{start} | {plan.total / 2**30:.1f} of {memory} | {sent} | {expected.seconds:.3g} | {cycles} |"


def main() -> None:
    """Prints the table line by line, and writes it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="a file with the two marks")
    parser.add_argument("--configs", default=",".join(LINES))
    parser.add_argument("--topologies", default=",".join(TOPOLOGIES))
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    table = [TITLE, "|" + "---|" * (TITLE.count("|") - 1)]
    for name in options.configs.split(","):
        for topology in options.topologies.split(","):
            began = time.monotonic()
            table.append(line(name, topology))
            print(table[-1], f"({time.monotonic() - began:.0f} s)", flush=True)
    if options.write:
        text = options.write.read_text(encoding="utf-8")
        if BEGIN not in text or END not in text:
            sys.exit(f"{options.write}: there are no marks {BEGIN} and {END} in it")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        options.write.write_text(f"{before}{BEGIN}\n" + "\n".join(table) + f"\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    answered(main)
