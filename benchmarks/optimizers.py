"""Trains a tiny model with each optimizer and schedule on the same batches; prints how well it predicts and its cost.

    python -m benchmarks.optimizers      # two seeds of 400 steps, ten minutes of CPU; docs/training.md has the table

The model is slm_tiny made smaller (2 layers x 96, 2,048 pieces), trained as plain next-token prediction on the first
1,500 articles of the embedded corpus. They are prepared first where they are not there. All arms of a seed take the
same batch, one after the other, so a machine that is busy for a while disturbs all alike, and CPU seconds are those
of the process, all threads together. `adamw, cosine` is the peer. All arms have its learning rate, which was chosen
for none of them.
"""

import argparse
import contextlib
import functools
import time
from typing import Any

import jax

from benchmarks.door import answered
from configs import slm_tiny
from lacy_jax.checks import parse
from lacy_jax.config import Config
from lacy_jax.data.loader import prefetch
from lacy_jax.data.prepare import prepare
from lacy_jax.data.prepared import Prepared
from lacy_jax.model import decoder
from lacy_jax.runtime import sharding
from lacy_jax.training.evaluate import Evaluator, place_batch
from lacy_jax.training.state import TrainState, init_state
from lacy_jax.training.step import jit_train_step

PEER = "adamw, cosine"
ARMS: dict[str, dict[str, Any]] = {
    PEER: {},
    "adamw, wsd": {"schedule": "wsd"},
    "muon, cosine": {"name": "muon"},
    "adamw, cosine, average": {"ema_decay": 0.98},
}


def arm_config(changes: dict[str, Any], *, steps: int, seed: int, directory: str) -> Config:
    """The settings of one run."""
    config = slm_tiny.get_config("method=ntp")
    config.corpus.max_documents = 1500
    config.tokenizer.vocab_size = 2048
    config.model.update(layers=2, width=96, heads=3, context=128)
    config.data.update(directory=directory, seed=seed)
    config.training.update(steps=steps, seed=seed)
    config.optimizer.update(warmup_steps=steps // 8, **changes)
    return parse(config)


class Arm:
    """A run, step by step. cpu: seconds of all threads in its steps."""

    def __init__(self, config: Config, prepared: Prepared, mesh: jax.sharding.Mesh):
        vocab, self._call_id = decoder.padded_vocab(prepared.tokenizer.vocab_size), prepared.tokenizer.call_id
        self._config, self._mesh, self.cpu = config, mesh, 0.0
        self._state: TrainState = jax.jit(lambda: init_state(config, vocab=vocab))()
        self._jitted = jit_train_step(config, vocab=vocab, call_id=self._call_id, mesh=mesh)
        self._program: jax.stages.Compiled | None = None

    def step(self, batch: Any) -> None:
        """Takes a step, compiled before the clock runs."""
        self._program = self._program or self._jitted.lower(self._state, batch, None).compile()
        start = time.process_time()
        self._state, _ = jax.block_until_ready(self._program(self._state, batch, None))
        self.cpu += time.process_time() - start

    def validate(self, prepared: Prepared) -> float:
        """Nats per held-out token."""
        evaluate = Evaluator(self._config, call_id=self._call_id, mesh=self._mesh)
        found = evaluate(self._state.inference_params, prepared.validation, step=self._state.step)
        return float(found["nll"].mean(dtype="float64"))


def run_seed(seed: int, options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Of every arm: nats per held-out token, CPU seconds per step."""
    of = functools.partial(arm_config, steps=options.steps, seed=seed, directory=options.directory)
    configs = {name: of(changes) for name, changes in ARMS.items()}
    config = configs[PEER]
    prepared, size = prepare(config), config.data.batch_size
    mesh = sharding.make_mesh(config.mesh, batch_size=size, devices=jax.devices()[:1])
    place = functools.partial(place_batch, mesh=mesh, batch_size=size)
    reading: Any = prefetch(prepared.train, 0, batch_size=size, seed=seed, place=place)
    with jax.set_mesh(mesh), contextlib.closing(reading) as batches:
        arms = {name: Arm(each, prepared, mesh) for name, each in configs.items()}
        for _ in range(options.steps):
            batch = next(batches)
            for arm in arms.values():
                arm.step(batch)
        return {name: (arm.validate(prepared), arm.cpu / options.steps) for name, arm in arms.items()}


def main(arguments: list[str] | None = None) -> None:
    """Prints the table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--directory", default="runs/optimizers/data", help="of the prepared data")
    options = parser.parse_args(arguments)
    seeds = [run_seed(seed, options) for seed in range(options.seeds)]
    titles = [f"validation loss, seed {seed}" for seed in range(options.seeds)]
    print(f"| optimizer | {' | '.join(titles)} | CPU seconds per step, as a ratio to {PEER} |")
    print("|---" * (len(seeds) + 2) + "|")
    for name in ARMS:
        losses = [f"{found[name][0]:.3f}" for found in seeds]
        ratio = sum(found[name][1] for found in seeds) / sum(found[PEER][1] for found in seeds)
        print(f"| {name} | {' | '.join(losses)} | {ratio:.2f} |")
    print(f"{PEER}: {seeds[0][PEER][1]:.3f} CPU seconds per step, {options.steps} steps")


if __name__ == "__main__":
    answered(main)
