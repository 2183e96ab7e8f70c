"""The training step: (state, batch) -> (state, sums), one pure function, compiled once.

A batch is split into microbatches when memory asks for it. Selection is over the whole batch (`scope: batch`): with
several microbatches that takes a forward pass for the losses first. Gradients of sums are added up and divided once
by the weight of the global batch, so unequal masks in microbatches change nothing.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lacy_jax import objective
from lacy_jax.config import Config, ModelConfig
from lacy_jax.model import decoder, fused
from lacy_jax.runtime import sharding
from lacy_jax.training.metrics import class_sums
from lacy_jax.training.optimizer import learning_rate, make_optimizer
from lacy_jax.training.state import LIMB, TrainState, add_count, state_shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """tokens: int32 [B, T+1]; factual: bool [B, T+1], of the token itself; lengths: int32 [B], real tokens."""

    tokens: jax.Array
    factual: jax.Array
    lengths: jax.Array

    @property
    def inputs(self) -> jax.Array:
        return self.tokens[:, :-1]

    @property
    def targets(self) -> jax.Array:
        return self.tokens[:, 1:]

    @property
    def target_factual(self) -> jax.Array:
        return self.factual[:, 1:]

    @property
    def valid(self) -> jax.Array:
        """bool [B, T]: targets that are real tokens."""
        return jnp.arange(1, self.tokens.shape[1]) < self.lengths[:, None]


@dataclasses.dataclass(frozen=True)
class Reference:
    """Rho-1's frozen reference model (rule excess_loss)."""

    params: decoder.Params
    model: ModelConfig


def token_scalars(
    params: decoder.Params, batch: Batch, *, model: ModelConfig, call_id: int, vocab_chunks: int
) -> objective.HeadScalars:
    """Forward pass to the three scalars a token, float32 [B, T] each."""
    hidden_BTD = decoder.forward(params, batch.inputs, config=model)
    return objective.head_scalars(
        hidden_BTD, decoder.output_matrix(params), batch.targets, call_id, vocab_chunks=vocab_chunks
    )


def take_targets(
    losses: jax.Array,
    batch: Batch,
    *,
    config: Config,
    step: jax.Array,
    reference_losses: jax.Array | None,
    microbatch: int | jax.Array = 0,
) -> jax.Array:
    """The configured rule on a batch; bool, shaped as the losses. The random rules draw anew in each `microbatch`."""
    settings = config.objective
    key = jax.random.fold_in(jax.random.key(config.training.seed + 1), step)
    return objective.select_targets(
        jax.lax.stop_gradient(losses),
        batch.target_factual,
        batch.valid,
        rule=settings.rule,
        rate=objective.rate_at(step, rate=settings.rate, warmup_steps=settings.rate_warmup_steps),
        rate_of=settings.rate_of,
        reference_losses=reference_losses,
        key=jax.random.fold_in(key, microbatch),
    )


def _progress(state: TrainState, config: Config) -> jax.Array:
    """Share of the budget used up, in its own unit; float32."""
    training = config.training
    if training.steps:
        return state.step / jnp.float32(training.steps)
    counter = state.tokens if training.tokens else state.ground_truth_tokens
    done = counter[0].astype(jnp.float32) * 2.0**LIMB + counter[1]
    return done / jnp.float32(training.tokens or training.ground_truth_tokens)


def _gradients(
    params: decoder.Params, batch: Batch, step: jax.Array, *, config: Config, call_id: int, reference: Any
) -> tuple[decoder.Params, objective.ObjectiveSums, dict[str, jax.Array]]:
    """Gradient of the loss SUM over the batch, its sums and the class sums, over all microbatches."""
    settings, count = config.objective, config.training.microbatches

    def scalars_of(params: decoder.Params, micro: Batch, model: ModelConfig) -> objective.HeadScalars:
        return token_scalars(params, micro, model=model, call_id=call_id, vocab_chunks=settings.vocab_chunks)

    def reference_losses(micro: Batch) -> jax.Array | None:
        if reference is None:
            return None
        return objective.nll_without_call(scalars_of(reference.params, micro, reference.model))

    def loss_sum(
        params: decoder.Params, micro: Batch, index: jax.Array, taken: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        scalars = scalars_of(params, micro, config.model)
        if taken is None:
            losses, theirs = objective.nll_without_call(scalars), reference_losses(micro)
            taken = take_targets(losses, micro, config=config, step=step, reference_losses=theirs, microbatch=index)
        sums = objective.objective_sums(
            scalars,
            taken,
            micro.valid,
            treatment=settings.treatment,
            normalizer=settings.normalizer,
            joint_weight=settings.joint_weight,
        )
        return sums.loss, (sums, class_sums(scalars, factual=micro.target_factual, taken=taken, valid=micro.valid))

    gradient = jax.grad(loss_sum, has_aux=True)
    if count == 1:
        grads, (sums, classes) = gradient(params, batch, jnp.int32(0), None)
        return grads, sums, classes

    micros = jax.tree.map(lambda x: split_rows(x, count), batch)
    taken = None
    if settings.scope == "batch" and settings.rule != "none":
        losses = jax.lax.map(lambda m: objective.nll_without_call(scalars_of(params, m, config.model)), micros)
        excess = None if reference is None else join_rows(jax.lax.map(reference_losses, micros))
        whole = take_targets(join_rows(losses), batch, config=config, step=step, reference_losses=excess)
        taken = split_rows(whole, count)

    def add(total: Any, xs: tuple[Batch, jax.Array, jax.Array | None]) -> tuple[Any, None]:
        grads, aux = gradient(params, *xs)
        return jax.tree.map(jnp.add, total, (grads, *aux)), None

    xs = (micros, jnp.arange(count), taken)
    shapes = jax.eval_shape(gradient, params, *jax.tree.map(lambda x: x[0], xs))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], *shapes[1]))
    (grads, sums, classes), _ = jax.lax.scan(add, zeros, xs)
    return grads, sums, classes


def split_rows(x: jax.Array, count: int) -> jax.Array:
    """[B, ...] -> [count, B / count, ...], rows dealt out in turn so that every device keeps its share of each."""
    return x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)


def join_rows(x: jax.Array) -> jax.Array:
    """The inverse of `split_rows`."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def train_step(
    state: TrainState,
    batch: Batch,
    reference_params: decoder.Params | None,
    *,
    config: Config,
    call_id: int,
    reference_model: ModelConfig | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update. The sums are float32 scalars of this batch, before the update (training/metrics.py)."""
    reference = None
    if reference_params is not None and reference_model is not None:
        reference = Reference(params=reference_params, model=reference_model)
    grads, sums, classes = _gradients(
        state.params, batch, state.step, config=config, call_id=call_id, reference=reference
    )
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
    counters = {"tokens": new_state.tokens, "ground_truth_tokens": new_state.ground_truth_tokens}
    objective_rate = objective.rate_at(
        state.step, rate=config.objective.rate, warmup_steps=config.objective.rate_warmup_steps
    )
    scalars = {"learning_rate": rate, "gradient_norm": optax.tree.norm(grads), "rate": objective_rate}
    return new_state, {**classes, "loss": sums.loss, "weight": sums.weight, **counters, **scalars}


def with_attention(config: Config, mesh: Mesh) -> Config:
    """The config with the attention that the mesh's devices will run (`model.fused.resolve`)."""
    return dataclasses.replace(config, model=fused.resolve(config.model, platform=mesh.devices.flat[0].platform))


def jit_train_step(
    config: Config, *, vocab: int, call_id: int, mesh: Mesh, reference_model: ModelConfig | None = None
) -> jax.stages.Wrapped:
    """`train_step` compiled for a mesh: state donated, rows of the batch split, sums replicated."""
    placed = state_shardings(config, vocab=vocab, mesh=mesh)
    config = with_attention(config, mesh)
    rows, whole = sharding.batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())

    def step(state: TrainState, batch: Batch, reference: decoder.Params | None) -> Any:
        return train_step(state, batch, reference, config=config, call_id=call_id, reference_model=reference_model)

    # The reference model keeps the placement that it was loaded with.
    return jax.jit(step, donate_argnums=0, in_shardings=(placed, rows, None), out_shardings=(placed, whole))
