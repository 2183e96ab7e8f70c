"""How long a save holds training: the first of a process and those after it, beside Orbax' own way of writing.

    python -m benchmarks.first_save [--config=configs/slm_tiny.py] [--devices=8] [--rounds=3]

The state lies on all devices alike, as in data parallelism. Orbax by itself has every device write a part of every
array, and compiles a program for each part of each shape; where one process has all devices, `lacy_jax` has one write
an array whole, unless a part has 16 MiB (training/checkpoints.py). Each figure comes from a process of its own, with no
compiled programs kept, in alternation. Held is the time until `save` returns: files are written while training goes on.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Literal

from benchmarks.door import answered
from lacy_jax.config_file import read_config

Way = Literal["lacy_jax", "Orbax alone"]
WAYS: tuple[Way, ...] = ("lacy_jax", "Orbax alone")


def held(config_file: str, way: Way, *, saves: int) -> list[float]:
    """Seconds until each of some saves returns, of a new state of this config on all devices of this process."""
    import jax
    import orbax.checkpoint as ocp

    from lacy_jax.model import decoder
    from lacy_jax.runtime import sharding
    from lacy_jax.training import checkpoints
    from lacy_jax.training.state import new_state

    config = read_config(config_file)
    vocab = decoder.padded_vocab(config.tokenizer.vocab_size + 1)
    items = {"params": ocp.PyTreeCheckpointHandler(), "train": ocp.PyTreeCheckpointHandler()}
    handlers = checkpoints._handlers() if way == "lacy_jax" else {**items, "meta": ocp.JsonCheckpointHandler()}
    mesh = sharding.make_mesh(config.mesh, batch_size=config.data.batch_size)
    with jax.set_mesh(mesh), tempfile.TemporaryDirectory() as folder:
        trees = checkpoints._items(jax.block_until_ready(new_state(config, vocab=vocab, mesh=mesh)))
        manager = ocp.CheckpointManager(folder, item_handlers=handlers)
        seconds = []
        for step in range(saves):
            args = {name: ocp.args.PyTreeSave(tree) for name, tree in trees.items()}
            began = time.perf_counter()
            manager.save(step, args=ocp.args.Composite(**args, meta=ocp.args.JsonSave({})))
            seconds.append(time.perf_counter() - began)
            manager.wait_until_finished()
        manager.close()
    return seconds


def in_a_process(config_file: str, way: Way, *, devices: int) -> list[float]:
    """`held` of three saves, in a process that has compiled nothing, on virtual devices where there are CPUs only."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    call = f"held({config_file!r}, {way!r}, saves=3)"
    program = f"import json; from benchmarks.first_save import held; print(json.dumps({call}))"
    kept = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**kept, "XLA_FLAGS": flags}, stdout=subprocess.PIPE, text=True, check=True
    )
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Parses options, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/slm_tiny.py")
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    read_config(options.config)  # wrong input is answered here, not in each process
    found: dict[Way, list[list[float]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way in WAYS:
            found[way].append(in_a_process(options.config, way, devices=options.devices))
    print("| written by | first save, s | later saves, s |\n|---|---|---|")
    for way, rounds in found.items():
        first = [each[0] for each in rounds]
        later = [seconds for each in rounds for seconds in each[1:]]
        cells = (f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})" for each in (first, later))
        print(f"| {way} | {' | '.join(cells)} |")
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(*found.values(), strict=True)]
    print(
        f"first save, lacy_jax / Orbax alone: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    answered(main)
