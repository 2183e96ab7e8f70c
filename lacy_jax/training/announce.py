"""What a run says when it starts: the model, the mesh, the memory of a device, and how long a step should take."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lacy_jax.budget import Budget, decay_begins
from lacy_jax.config import Config
from lacy_jax.console import duration
from lacy_jax.model import decoder
from lacy_jax.runtime import sharding
from lacy_jax.runtime.platforms import describe_options
from lacy_jax.training.budget import BudgetMeter
from lacy_jax.training.flops import expected_step, flops_per_token, parameter_count
from lacy_jax.training.optimizer import learning_rate
from lacy_jax.training.state import TrainState
from lacy_jax.training.step import for_devices


def describe_run(config: Config, *, vocab: int, mesh: Mesh, state: TrainState, step: jax.stages.Compiled) -> list[str]:
    """The lines, in order; `step` is the compiled training step that the run will use."""
    flops = flops_per_token(config.model, vocab=vocab)
    count = parameter_count(config.model, vocab=vocab)
    return [
        f"{config.name}, method {config.method}: {count / 1e6:.1f}M parameters, {flops / 1e6:,.0f} MFLOP per token",
        describe_objective(config),
        *describe_optimizer(config),
        describe_mesh(mesh),
        f"attention: {for_devices(config, mesh).model.attention}",
        describe_options(mesh.local_devices[0].platform),
        describe_memory(state, step, device=mesh.local_devices[0]),
        describe_time(config, vocab=vocab, mesh=mesh, state=state),
    ]


def describe_long_run(config: Config) -> str:
    """The line about a run that takes more than an hour on this CPU, by arithmetic; "" for every other run.

    It is said before anything is prepared, so the size of the vocabulary is taken from the settings.

    Raises:
        MeshError: the devices, the batch or the model do not fit config.mesh.
    """
    mesh = sharding.make_mesh(config.mesh, batch_size=config.data.batch_size, microbatches=config.training.microbatches)
    if mesh.devices.flat[0].platform != "cpu":
        return ""
    expected = expected_step(config, vocab=decoder.padded_vocab(config.tokenizer.vocab_size + 1), mesh=mesh)
    budget = Budget.of(config)
    hours = budget.least_steps * expected.seconds / 3600 if expected else 0.0
    if expected is None or hours < 1:
        return ""
    long = f"{hours / 24:,.0f} days" if hours > 72 else f"{hours:.1f} hours"
    return (
        f"this run takes about {long} on this CPU: {budget.least_steps:,} steps of {expected.seconds:.3g} s "
        f"({expected.basis}); a CPU is for models as small as that of configs/slm_tiny.py, and a shorter run is "
        f"--config.training.{budget.unit}=..."
    )


def describe_jump(config: Config, earlier: Config, state: TrainState) -> str:
    """The line about a learning rate that jumps because its course is another than that of the run so far; "" if none.

    Args:
        earlier: the settings that made `state`.
    """
    now, before = _rate(config, state), _rate(earlier, state)
    if math.isclose(now, before, rel_tol=1e-4):
        return ""
    old, new = Budget.of(earlier), Budget.of(config)
    changed = f"the budget is {new.limit:,} {new.unit} and was {old.limit:,} {old.unit}"
    if old == new:
        share = earlier.optimizer.decay_share
        changed = f"config.optimizer.decay_share is {config.optimizer.decay_share:g} and was {share:g}"
    return (
        f"{changed}: the learning rate jumps from {before:.3g} to {now:.3g} at step {int(state.step) + 1:,}, because "
        f"{_course(config)}"
    )


def _course(config: Config) -> str:
    if config.optimizer.schedule == "cosine":
        return "its cosine runs over the whole budget"
    return f"it falls after {decay_begins(config):,} {Budget.of(config).unit}"


def _rate(config: Config, state: TrainState) -> float:
    """The learning rate of the next step, by the budget of `config`."""
    meter, step = BudgetMeter(config, state), int(state.step)
    progress = jnp.float32(meter.used(step) / meter.budget.limit)
    return float(learning_rate(config.optimizer, step=jnp.int32(step), progress=progress))


def describe_mesh(mesh: Mesh) -> str:
    """`8 x TPU v5 lite in 2 processes, mesh slice 1 x data 1 x fsdp 8 x tensor 1`."""
    processes = len({device.process_index for device in mesh.devices.flat})
    where = f" in {processes} processes" if processes > 1 else ""
    axes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    return f"{mesh.devices.size} x {mesh.devices.flat[0].device_kind}{where}, mesh {axes}"


def describe_memory(state: TrainState, step: jax.stages.Compiled, *, device: jax.Device) -> str:
    """Bytes that one device holds between steps, and what a step needs besides, from XLA's own plan of its memory."""
    parts = [f"parameters {_mib(state.params)}", f"optimizer {_mib(state.optimizer)}"]
    parts += [f"average {_mib(state.average)}"] if state.average is not None else []
    plan = step.memory_analysis()
    if plan is not None:
        parts.append(f"activations and gradients {plan.temp_size_in_bytes / 2**20:,.0f} MiB")
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return f"a device holds: {', '.join(parts)}" + (f"; it has {limit / 2**20:,.0f} MiB" if limit else "")


def describe_time(config: Config, *, vocab: int, mesh: Mesh, state: TrainState) -> str:
    """The expected step by arithmetic, and by it the time for what is left of the budget."""
    expected = expected_step(config, vocab=vocab, mesh=mesh)
    if expected is None:
        return f"expected step: the peak of {mesh.devices.flat[0].device_kind} is not known (training/flops.py)"
    meter = BudgetMeter(config, state)
    left = meter.steps_left(int(state.step))
    rest = f"about {duration(left * expected.seconds)} for what is left of the budget"
    return f"expected step: {expected.seconds:.3g} s ({expected.basis}), {rest}"


def describe_optimizer(config: Config) -> list[str]:
    """One line on what is not AdamW with a cosine; [] where all is."""
    optimizer, budget = config.optimizer, Budget.of(config)
    said = ["Muon for the matrices of the blocks, AdamW for all else"] if optimizer.name == "muon" else []
    if optimizer.schedule == "wsd":
        said.append(f"the learning rate falls after {decay_begins(config):,} of {budget.limit:,} {budget.unit}")
    if optimizer.ema_decay:
        said.append(f"validated and used is a moving average of the weights, decay {optimizer.ema_decay:g}")
    return [f"optimizer: {'; '.join(said)}"] if said else []


def describe_objective(config: Config) -> str:
    """The objective in one line: what is taken, of what, over which part of a batch, and what becomes of it."""
    settings, parts = config.objective, config.training.microbatches
    if settings.rule == "none":
        return "objective: plain next-token prediction, nothing is taken"
    rate = "all of them" if settings.rule == "factual" else f"rate {settings.rate:g} of the {settings.rate_of} targets"
    if settings.rule != "factual" and settings.rate_warmup_steps:
        rate += f" after {settings.rate_warmup_steps:,} warm-up steps"
    scope = "the whole batch"
    if parts > 1:
        scope = f"each of {parts} microbatches" if settings.scope == "microbatch" else f"{scope} ({parts} microbatches)"
    treatment = f"{settings.treatment}, normalizer {settings.normalizer}"
    if settings.partner_losses == "stored":
        treatment += ", by the partner's stored losses"
    return f"objective: rule {settings.rule}, {rate}, chosen over {scope}; treatment {treatment}"


def _mib(tree: Any) -> str:
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))
    return f"{held / 2**20:,.1f} MiB"
