"""Times the real training step of every method beside plain next-token prediction, and shows its peak memory.

    python -m benchmarks.training_step                                        # slm_tiny on whatever device there is
    python -m benchmarks.training_step --config configs/slm_150m.py --set model.layers=4 --set data.batch_size=16

What is timed is what `lacy_jax.main` runs: forward, backward, selection, metrics and optimizer, one jitted
function, on one device and a random batch whose targets are factual one time in seven. Methods are timed in pairs with
`ntp`, which is cross-entropy through the same head: ntp, a, ntp, b, ... A ratio is the median over rounds of a
pair's ratio, so a machine that is busy for a while disturbs both alike; the line `ntp` is that of ntp to itself,
the noise. Beside the figures: the floor, 6N + 6LDT FLOPs per token at the rate of a plain matrix product measured in
the same rounds, and the peer, a step as libraries write it (optax cross-entropy on float32 logits, no metrics).
`documents apart` is ntp with model.attention_within=document. `unchecked` is ntp without the check that its loss and
gradient are finite; the last line is the ratio with / without.
Peak is the compiler's own account of the step: its arguments and what it needs besides.
"""

import argparse
import ast
import dataclasses
import runpy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.door import answered
from benchmarks.objective import matmul_rate
from lacy_jax.checks import parse
from lacy_jax.config import Config, MeshConfig
from lacy_jax.data.batch import Batch, document_starts
from lacy_jax.errors import ConfigError
from lacy_jax.model import decoder
from lacy_jax.presets import METHODS, apply_variant
from lacy_jax.runtime import sharding
from lacy_jax.training.flops import flops_per_token, parameter_count
from lacy_jax.training.optimizer import learning_rate, make_optimizer
from lacy_jax.training.reference import Reference
from lacy_jax.training.state import TrainState, init_state
from lacy_jax.training.step import for_devices, jit_train_step, update

Step = Callable[[TrainState, Batch, Any], tuple[TrainState, Any]]
UNCHECKED = "unchecked"
APART = "documents apart"
DEFAULT_METHODS = "lacy,lacy_full,loss,ignore,ignore_facts,random_factual,joint,rho"


def method_config(path: str, method: str, settings: list[str]) -> Config:
    """A config file's settings with a method and single fields changed, as on the command line of a run."""
    config = apply_variant(runpy.run_path(path)["get_config"](), f"method={method}")
    with config.unlocked():
        config.objective.reference = "the same model" if method == "rho" else ""
        # Warm-up would time a step that takes nothing.
        config.objective.rate_warmup_steps = 0
        for setting in settings:
            name, _, value = setting.partition("=")
            section, _, field = name.rpartition(".")
            try:
                config[section][field] = value if isinstance(config[section][field], str) else ast.literal_eval(value)
            except (KeyError, SyntaxError, TypeError, ValueError) as error:
                raise ConfigError(f"--set {setting}: give SECTION.SETTING=VALUE, such as model.layers=5") from error
    return parse(config)


def random_batch(config: Config, *, call_id: int) -> Batch:
    """Whole windows of random tokens, one in seven factual, in documents of 128 tokens on average."""
    rng = np.random.default_rng(0)
    shape = (config.data.batch_size, config.model.context + 1)
    tokens, factual, ends = rng.integers(0, call_id, shape), rng.random(shape) < 1 / 7, rng.random(shape) < 1 / 128
    return Batch(
        tokens=jnp.asarray(tokens, jnp.int32),
        factual=jnp.asarray(factual),
        starts=jnp.asarray([document_starts(row, end_id=True) for row in ends]),
        lengths=jnp.full(shape[0], shape[1], jnp.int32),
        partner_losses=jnp.full(shape, 2.0) if config.objective.partner_losses == "stored" else None,
    )


def peer_step(config: Config) -> Step:
    """The same model and optimizer under the cross-entropy of a library, and nothing measured but the loss."""

    def loss(params: decoder.Params, batch: Batch) -> jax.Array:
        hidden_BTD = decoder.forward(params, batch.inputs, config=config.model)
        matrix_VD = decoder.output_matrix(params).astype(hidden_BTD.dtype)
        logits_BTV = jnp.einsum("btd,vd->btv", hidden_BTD, matrix_VD).astype(jnp.float32)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch.targets))

    def step(state: TrainState, batch: Batch, _reference: None) -> tuple[TrainState, jax.Array]:
        value, grads = jax.value_and_grad(loss)(state.params, batch)
        updates, moments = make_optimizer(config.optimizer).update(grads, state.optimizer, state.params)
        rate = learning_rate(config.optimizer, step=state.step, progress=jnp.float32(0))
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        return dataclasses.replace(state, step=state.step + 1, params=params, optimizer=moments), value

    return jax.jit(step, donate_argnums=0)


def unchecked_step(config: Config, *, call_id: int) -> Step:
    """`train_step` without its check."""

    def step(state: TrainState, batch: Batch, reference: Any) -> tuple[TrainState, Any]:
        return update(state, batch, reference=reference, config=config, call_id=call_id)

    return jax.jit(step, donate_argnums=0)


def compile_steps(options: argparse.Namespace, *, vocab: int, call_id: int) -> dict[str, Any]:
    """Compiled steps by name; all take and give the same state."""
    compiled: dict[str, Any] = {}
    for name in ("ntp", *options.methods.split(","), APART, UNCHECKED, "optax peer"):
        within = ["model.attention_within=document"] if name == APART else []
        method = name if name in METHODS else "ntp"
        config = method_config(options.config, method, [*options.set, *within])
        mesh = sharding.make_mesh(MeshConfig(), batch_size=config.data.batch_size, devices=jax.devices()[:1])
        with jax.set_mesh(mesh):
            state = jax.eval_shape(lambda config=config: init_state(config, vocab=vocab))
            batch = jax.eval_shape(lambda config=config: random_batch(config, call_id=call_id))
            if name == "optax peer":
                step, reference = peer_step(config), None
            elif name == UNCHECKED:
                step, reference = unchecked_step(for_devices(config, mesh), call_id=call_id), None
            else:
                step = jit_train_step(config, vocab=vocab, call_id=call_id, mesh=mesh)
                reference = Reference(state.params, config.model) if name == "rho" else None
            compiled[name] = step.lower(state, batch, reference).compile()  # type: ignore[attr-defined]
    return compiled


def measure(options: argparse.Namespace, compiled: dict[str, Any], config: Config, *, vocab: int, call_id: int) -> Any:
    """Seconds of (ntp, method) in every round, by method, and the matrix product's FLOP/s in each round."""
    device = jax.devices()[0]
    batch = jax.device_put(random_batch(config, call_id=call_id), device)
    state = jax.device_put(jax.jit(lambda: init_state(config, vocab=vocab))(), device)
    params = jax.jit(lambda: init_state(config, vocab=vocab).params)() if "rho" in compiled else None
    reference = Reference(params, config.model) if params else None

    def timed(name: str) -> float:
        nonlocal state
        start = time.perf_counter()
        for _ in range(options.repeat):
            state, _ = compiled[name](state, batch, reference if name == "rho" else None)
        jax.block_until_ready(state)
        return (time.perf_counter() - start) / options.repeat

    for name in compiled:
        timed(name)
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in compiled}
    rates = []
    for _ in range(options.rounds):
        rates.append(matmul_rate(config.model.compute_dtype))
        for name in compiled:
            pairs[name].append((timed("ntp"), timed(name)))
    return pairs, statistics.median(rates)


def report(pairs: Any, compiled: dict[str, Any], config: Config, *, vocab: int, rate: float) -> None:
    """Prints device, floor and one line per method."""
    device, tokens = jax.devices()[0], config.data.batch_size * config.model.context
    size = parameter_count(config.model, vocab=vocab)
    floor = tokens * flops_per_token(config.model, vocab=vocab) / rate
    print(f"{device.device_kind} ({device.platform}); {config.name}: {size / 1e6:.1f}M parameters, {tokens:,} tokens")
    print(
        f"{config.model.compute_dtype}; matrix products at {rate / 1e9:,.0f} GFLOP/s: floor {1e3 * floor:.1f} ms a step"
    )
    print(f"{'':16}{'ms':>9}{'ratio to ntp':>14}{'(quartiles)':>18}{'of floor':>10}{'peak MB':>9}")
    for name, program in compiled.items():
        ratios = [own / ntp for ntp, own in pairs[name]]
        low, middle, high = statistics.quantiles(ratios, n=4)
        seconds = statistics.median(own for _, own in pairs[name])
        memory = program.memory_analysis()
        peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes
        quartiles = f"({low:.3f} .. {high:.3f})"
        line = f"{name:16}{1e3 * seconds:9.1f}{middle:14.3f}{quartiles:>18}{floor / seconds:10.0%}"
        print(line + (f"{peak / 1e6:9.1f}" if peak else f"{'-':>9}"))
    checked = statistics.quantiles([ntp / own for ntp, own in pairs[UNCHECKED]], n=4)
    print(f"the check that a step is finite, with / without: {checked[1]:.3f} ({checked[0]:.3f} .. {checked[2]:.3f})")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compiles, times, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/slm_tiny.py")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--methods", default=DEFAULT_METHODS)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--repeat", type=int, default=2, help="steps in a row that are timed as one")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.methods.split(",") if name not in METHODS]:
        parser.error(f"unknown methods {', '.join(unknown)}; allowed are {', '.join(METHODS)}")
    config = method_config(options.config, "ntp", options.set)
    vocab = decoder.padded_vocab(config.tokenizer.vocab_size + 1)
    sizes = {"vocab": vocab, "call_id": config.tokenizer.vocab_size}
    compiled = compile_steps(options, **sizes)
    pairs, rate = measure(options, compiled, config, **sizes)
    report(pairs, compiled, config, vocab=vocab, rate=rate)


if __name__ == "__main__":
    answered(main)
