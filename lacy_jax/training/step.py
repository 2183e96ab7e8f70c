"""The training step: (state, batch) -> (state, sums), one pure function, compiled once. The loss: training/loss.py."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lacy_jax import objective
from lacy_jax.config import Config
from lacy_jax.data.batch import Batch
from lacy_jax.model import fused
from lacy_jax.model.precision import product_precision
from lacy_jax.runtime import sharding
from lacy_jax.training.loss import batch_gradient
from lacy_jax.training.optimizer import average, learning_rate, make_optimizer
from lacy_jax.training.reference import Reference
from lacy_jax.training.state import LIMB, TrainState, add_count, state_shardings


def _progress(state: TrainState, config: Config) -> jax.Array:
    """Share of the budget used up, in its own unit; float32."""
    training = config.training
    if training.steps:
        return state.step / jnp.float32(training.steps)
    counter = state.tokens if training.tokens else state.ground_truth_tokens
    done = counter[0].astype(jnp.float32) * 2.0**LIMB + counter[1]
    return done / jnp.float32(training.tokens or training.ground_truth_tokens)


def train_step(
    state: TrainState,
    batch: Batch[jax.Array],
    *,
    reference: Reference | None,
    config: Config,
    call_id: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One step: an update, or none where the batch's loss or gradient norm is not finite. See `update` for the sums.

    A batch that is skipped leaves parameters, moments and the count of ground-truth-gradient tokens as they are. It was
    read, so the step and the count of tokens go on: the next step reads the next batch. Loss and norm are of the global
    batch, so all devices skip it or none does.
    """
    new, sums = update(state, batch, reference=reference, config=config, call_id=call_id)
    finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(sums["gradient_norm"])
    skipped = dataclasses.replace(state, step=new.step, tokens=new.tokens)
    # Without a branch, XLA's CPU backend may start collectives of several groups of devices in different orders, and
    # wait for ever. Elsewhere a branch would keep the old state beside the new one.
    kept = jax.lax.platform_dependent(finite, new, skipped, cpu=_by_branch, default=_by_element)
    return kept, {**sums, "ground_truth_tokens": kept.ground_truth_tokens}


def _by_branch(finite: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    return jax.lax.cond(finite, lambda: new, lambda: old)


def _by_element(finite: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    return jax.tree.map(functools.partial(jnp.where, finite), new, old)


def update(
    state: TrainState,
    batch: Batch[jax.Array],
    *,
    reference: Reference | None,
    config: Config,
    call_id: int,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update, finite or not. The sums are of the batch, before the update, float32: scalars (training/metrics.py),
    and of a mixture one number per dataset (training/sources.py).
    """
    with product_precision(config.model):
        grads, found = batch_gradient(
            state.params, batch, config=config, call_id=call_id, step=state.step, reference=reference
        )
    sums = found.objective
    grads = jax.tree.map(lambda g: g / jnp.maximum(sums.weight, 1.0), grads)
    rate = learning_rate(config.optimizer, step=state.step, progress=_progress(state, config))
    updates, moments = make_optimizer(config.optimizer).update(grads, state.optimizer, state.params)
    new_state = TrainState(
        step=state.step + 1,
        tokens=add_count(state.tokens, sums.valid),
        ground_truth_tokens=add_count(state.ground_truth_tokens, sums.ground_truth),
        params=jax.tree.map(lambda p, u: p - rate * u, state.params, updates),
        optimizer=moments,
    )
    if state.average is not None:
        decay = config.optimizer.ema_decay
        averaged = average(state.average, new_state.params, step=new_state.step, decay=decay)
        new_state = dataclasses.replace(new_state, average=averaged)
    counters = {"tokens": new_state.tokens, "ground_truth_tokens": new_state.ground_truth_tokens}
    objective_rate = objective.rate_at(
        state.step, rate=config.objective.rate, warmup_steps=config.objective.rate_warmup_steps
    )
    scalars = {"learning_rate": rate, "gradient_norm": optax.tree.norm(grads), "rate": objective_rate}
    return new_state, {**found.classes, "loss": sums.loss, "weight": sums.weight, **counters, **scalars}


def for_devices(config: Config, mesh: Mesh) -> Config:
    """The config with the attention and the loop over layers that the mesh's devices will run (`fused.resolve`)."""
    return dataclasses.replace(config, model=fused.resolve(config.model, platform=mesh.devices.flat[0].platform))


def jit_train_step(config: Config, *, vocab: int, call_id: int, mesh: Mesh) -> jax.stages.Wrapped:
    """`train_step` of (state, batch, reference) for a mesh: state donated, batch's rows split, sums replicated."""
    placed = state_shardings(config, vocab=vocab, mesh=mesh)
    config = for_devices(config, mesh)
    rows, whole = sharding.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())

    def step(state: TrainState, batch: Batch[jax.Array], reference: Reference | None) -> Any:
        return train_step(state, batch, reference=reference, config=config, call_id=call_id)

    # The reference model keeps the placement that it was loaded with.
    return jax.jit(step, donate_argnums=0, in_shardings=(placed, rows, None), out_shardings=(placed, whole))
