"""The loss of a batch, and its gradient.

    tokens -> three scalars per token -> taken targets -> sums

A batch is split into microbatches when memory asks for it. Selection is over the whole batch (`scope: batch`): with
several microbatches that takes a forward pass for the losses first. Gradients of sums are added up and divided once
by the weight of the global batch, so unequal masks in microbatches change nothing.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from lacy_jax import objective
from lacy_jax.config import Config, ModelConfig, ObjectiveConfig
from lacy_jax.data.batch import Batch
from lacy_jax.data.weights import trained_names
from lacy_jax.model import decoder
from lacy_jax.model.precision import product_precision
from lacy_jax.training.metrics import class_sums
from lacy_jax.training.reference import Reference
from lacy_jax.training.sources import source_sums


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossSums:
    """Sums over a (micro)batch; they add up. classes: what `class_sums` and `source_sums` give."""

    objective: objective.ObjectiveSums
    classes: dict[str, jax.Array]


def batch_loss(
    params: decoder.Params,
    batch: Batch[jax.Array],
    *,
    config: Config,
    call_id: int,
    step: jax.Array,
    reference: Reference | None = None,
    taken: jax.Array | None = None,
    microbatch: int | jax.Array = 0,
) -> tuple[jax.Array, LossSums]:
    """The loss SUM over one (micro)batch in nats, float32, and all its sums.

    Args:
        step: int32, completed updates: the rate may warm up with it, and the random rules draw by it.
        reference: Rho-1's, for the rule excess_loss.
        taken: bool [B, T], what the rule took where that was decided over a larger batch; None: it decides here.
        microbatch: its number; the random rules draw anew in each.
    """
    settings = config.objective
    scalars = token_scalars(params, batch, model=config.model, call_id=call_id, vocab_chunks=settings.vocab_chunks)
    if taken is None:
        losses = objective.nll_without_call(scalars)
        theirs = None if reference is None else reference_losses(reference, batch, config=config, call_id=call_id)
        taken = take_targets(losses, batch, config=config, step=step, reference_losses=theirs, microbatch=microbatch)
    sums = objective.objective_sums(
        scalars,
        taken,
        batch.valid,
        treatment=settings.treatment,
        normalizer=settings.normalizer,
        joint_weight=settings.joint_weight,
        partner_right=_partner_right(batch, settings),
        call_cost=call_cost(scalars, batch.valid, settings),
    )
    classes = class_sums(scalars, factual=batch.target_factual, taken=taken, valid=batch.valid)
    count = len(trained_names(config.data.mixture))
    return sums.loss, LossSums(sums, classes | source_sums(scalars, batch, taken=taken, count=count))


def _partner_right(batch: Batch[jax.Array], settings: ObjectiveConfig) -> float | jax.Array:
    """The partner's probability of each true token, float32 [B, T], where it is stored; else as configured."""
    losses = _partner_losses(batch, settings)
    return settings.partner_right if losses is None else jnp.where(jnp.isnan(losses), 0.0, jnp.exp(-losses))


def call_cost(scalars: objective.HeadScalars, valid: jax.Array, settings: ObjectiveConfig) -> float | jax.Array:
    """What p(`<CALL>`) = 1 costs at a target, in nats, a constant: as configured, or by what share of targets calls.

    That is the mean p(`<CALL>`) over the (micro)batch's valid targets; its square over that of `call_rate` is a
    factor. So the more calls there are, the dearer each is (docs/objective.md).
    """
    if not settings.call_rate:
        return settings.call_cost
    called = jnp.where(valid, jnp.exp(-objective.call_nll(scalars)), 0.0)
    share = jnp.sum(called) / jnp.maximum(jnp.sum(valid), 1)
    return settings.call_cost * jax.lax.stop_gradient(jnp.square(share / settings.call_rate))


def _partner_losses(batch: Batch[jax.Array], settings: ObjectiveConfig) -> jax.Array | None:
    """What the partner pays for each target, float32 [B, T], if the objective reads it."""
    if settings.partner_losses == "none":
        return None
    if batch.partner_losses is None:
        raise ValueError("config.objective.partner_losses=stored: the batch has no partner_losses")
    return batch.target_partner_losses


def hidden_states(params: decoder.Params, batch: Batch[jax.Array], *, model: ModelConfig) -> jax.Array:
    """Final hidden states before each target, [B, T, D]; what they have seen is as `model.attention_within` says."""
    starts_BT = batch.input_starts if model.attention_within == "document" else None
    return decoder.forward(params, batch.inputs, config=model, starts_BT=starts_BT)


def token_scalars(
    params: decoder.Params, batch: Batch[jax.Array], *, model: ModelConfig, call_id: int, vocab_chunks: int
) -> objective.HeadScalars:
    """Forward pass to the three scalars per token, float32 [B, T] each."""
    hidden_BTD = hidden_states(params, batch, model=model)
    return objective.head_scalars(
        hidden_BTD, decoder.output_matrix(params), batch.targets, call_id, vocab_chunks=vocab_chunks
    )


def reference_losses(reference: Reference, batch: Batch[jax.Array], *, config: Config, call_id: int) -> jax.Array:
    """NLL without `<CALL>` of the reference model, float32 [B, T]."""
    chunks = config.objective.vocab_chunks
    with product_precision(reference.model):
        return objective.nll_without_call(
            token_scalars(reference.params, batch, model=reference.model, call_id=call_id, vocab_chunks=chunks)
        )


def take_targets(
    losses: jax.Array,
    batch: Batch[jax.Array],
    *,
    config: Config,
    step: jax.Array,
    reference_losses: jax.Array | None,
    microbatch: int | jax.Array = 0,
) -> jax.Array:
    """The configured rule on a batch; bool, shaped as the losses. The random rules draw anew in each `microbatch`.

    Where the batch has a partner's losses, rules rank by what it saves: the losses less its own.
    """
    settings = config.objective
    if (theirs := _partner_losses(batch, settings)) is not None:
        losses = losses - theirs
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


def batch_gradient(
    params: decoder.Params,
    batch: Batch[jax.Array],
    *,
    config: Config,
    call_id: int,
    step: jax.Array,
    reference: Reference | None = None,
) -> tuple[decoder.Params, LossSums]:
    """Gradient of the loss SUM over the batch, and its sums, a microbatch after the other."""
    settings, count = config.objective, config.training.microbatches
    loss = functools.partial(batch_loss, config=config, call_id=call_id, step=step, reference=reference)
    gradient = jax.grad(loss, has_aux=True)
    if count == 1:
        found: tuple[decoder.Params, LossSums] = gradient(params, batch, microbatch=jnp.int32(0))
        return found

    def losses_of(micro: Batch[jax.Array]) -> jax.Array:
        chunks = settings.vocab_chunks
        scalars = token_scalars(params, micro, model=config.model, call_id=call_id, vocab_chunks=chunks)
        return objective.nll_without_call(scalars)

    def theirs_of(micro: Batch[jax.Array]) -> jax.Array:
        assert reference is not None
        return reference_losses(reference, micro, config=config, call_id=call_id)

    micros = jax.tree.map(lambda x: split_rows(x, count), batch)
    taken = None
    if settings.scope == "batch" and settings.rule != "none":
        losses = jax.lax.map(losses_of, micros)
        theirs = None if reference is None else join_rows(jax.lax.map(theirs_of, micros))
        whole = take_targets(join_rows(losses), batch, config=config, step=step, reference_losses=theirs)
        taken = split_rows(whole, count)

    def gradient_of(xs: tuple[Batch[jax.Array], jax.Array, jax.Array | None]) -> tuple[decoder.Params, LossSums]:
        micro, index, taken = xs
        return gradient(params, micro, microbatch=index, taken=taken)

    xs = (micros, jnp.arange(count), taken)
    shapes = jax.eval_shape(gradient_of, jax.tree.map(lambda x: x[0], xs))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(lambda total, xs: (jax.tree.map(jnp.add, total, gradient_of(xs)), None), zeros, xs)[0]


def split_rows(x: jax.Array, count: int) -> jax.Array:
    """[B, ...] -> [count, B / count, ...], rows dealt out in turn so that every device keeps its share of each."""
    return x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)


def join_rows(x: jax.Array) -> jax.Array:
    """The inverse of `split_rows`."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
