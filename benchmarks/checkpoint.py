"""What the checksums of a checkpoint cost: saving and loading with them, as ratios to the same without.

    python -m benchmarks.checkpoint [--width=512] [--layers=8] [--rounds=7] [--folder=FOLDER]

With and without take turns, and the median of the rounds is printed, in wall time and in time of the CPU's cores. The
second does not depend on who else uses the machine. "save, blocked" is what a step waits for; "save, done" also has
what is written in the background; "load" is of the parameters, "resume" of the whole state. The first checksums of a
process are compiled; the time of that is printed by itself.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
from etils import epath

from benchmarks.door import answered
from lacy_jax.checkpoints.checksums import array_checksums
from lacy_jax.checkpoints.format import model_meta, read_checksums, read_meta
from lacy_jax.checkpoints.loading import restore_params
from lacy_jax.config import Config, ModelConfig, TrainingConfig
from lacy_jax.data.tokenizer import Tokenizer, train_tokenizer
from lacy_jax.model import decoder
from lacy_jax.runtime import sharding
from lacy_jax.training.checkpoints import Checkpoints, restore_step
from lacy_jax.training.state import TrainState, init_state, state_shardings

KINDS = (False, True)  # without checksums, with them
Seconds = tuple[float, float]  # by the clock on the wall, and of the cores


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure")
    given = parser.parse_args(words)
    text = "\n".join(f"{number:x} is a number in base 16, and {number} in base 10." for number in range(2000))
    tokenizer = Tokenizer.from_bytes(train_tokenizer([text], vocab_size=300))
    model = ModelConfig(layers=given.layers, width=given.width, heads=4, context=256)
    config = Config(model=model, training=TrainingConfig(steps=1))
    vocab = decoder.padded_vocab(32_000)
    state = jax.jit(lambda: init_state(config, vocab=vocab))()
    mebibytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 2**20
    started = time.monotonic()
    array_checksums(state)
    compiled = time.monotonic() - started
    print(f"state of {mebibytes:,.0f} MiB; the first checksums took {compiled:.1f} s, mostly compiling")
    times: dict[tuple[str, bool], list[Seconds]] = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        for number in range(given.rounds + 1):
            measured = _round(Path(folder) / str(number), config, state, tokenizer=tokenizer)
            for key, seconds in measured.items() if number else ():  # the first round warms up
                times.setdefault(key, []).append(seconds)
    for name in dict.fromkeys(name for name, _ in times):
        for kind, clock in enumerate(("wall", "cores")):
            without, with_them = ([seconds[kind] for seconds in times[name, each]] for each in KINDS)
            ratios = [b / a for a, b in zip(without, with_them, strict=True)]
            print(
                f"{name:13} {clock:5} {statistics.median(without):.3f} s without, {statistics.median(with_them):.3f} s "
                f"with: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )


def _round(folder: Path, config: Config, state: TrainState, *, tokenizer: Tokenizer) -> dict[tuple[str, bool], Seconds]:
    """Seconds of each act, without and with checksums."""
    seconds: dict[tuple[str, bool], Seconds] = {}

    def timed(name: str, kind: bool, act: Callable[[], Any]) -> None:
        started, cores = time.monotonic(), time.process_time()
        jax.block_until_ready(act())
        seconds[name, kind] = time.monotonic() - started, time.process_time() - cores

    vocab = state.params["embedding"]["embedding"].shape[0]
    mesh = sharding.make_mesh(config.mesh, batch_size=config.data.batch_size)
    for kind in KINDS:
        own = replace(config, training=replace(config.training, checksums=kind))
        meta = model_meta(own, tokenizer=tokenizer, step=1, data={"tokenizer": tokenizer.fingerprint})
        checkpoints = Checkpoints(str(folder / str(kind)), own)
        timed("save, blocked", kind, partial(checkpoints.save, state, step=1, meta=meta))
        timed("save, done", kind, checkpoints.close)
        blocked, rest = seconds["save, blocked", kind], seconds["save, done", kind]
        seconds["save, done", kind] = blocked[0] + rest[0], blocked[1] + rest[1]
    for kind in KINDS:
        step = epath.Path(folder / str(kind) / "checkpoints" / "1")
        meta = read_meta(step)
        checksums = read_checksums(meta, item="params")
        timed("load", kind, partial(restore_params, step, config.model, vocab=vocab, checksums=checksums))
        with jax.set_mesh(mesh):
            placed = state_shardings(config, vocab=vocab, mesh=mesh)
            timed("resume", kind, partial(restore_step, step, meta, config, vocab=vocab, shardings=placed))
    shutil.rmtree(folder)
    return seconds


if __name__ == "__main__":
    answered(main)
