"""The output head: everything the objective needs to know of the logits, as three scalars per token.

The columns of the logits are the vocabulary, then `<CALL>` (column `call_id`), then padding. Logits are
held in the compute dtype; in bfloat16 mode the float32 arithmetic on them lives inside fused reductions.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

# Stands for "excluded": finite, so that no inf - inf can make a NaN, and below any real logit.
EXCLUDED = -1e30


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class HeadScalars:
    """What the logits say of each target, float32 [B, T] each."""

    lse: jax.Array  # log-sum-exp over the vocabulary without <CALL>
    target: jax.Array  # logit of the true next token
    call: jax.Array  # logit of <CALL>


def head_scalars(
    hidden: jax.Array, embedding: jax.Array, targets: jax.Array, call_id: int, *, vocab_chunks: int = 1
) -> HeadScalars:
    """Scalars of the logits `hidden @ embedding.T`, without keeping those logits in float32.

    B may be sharded over data axes, V over a tensor axis, D over an fsdp axis. `lse` and `target` come
    from the same rounded logits, so an NLL is never below 0.

    Args:
      hidden: [B, T, D], float32 or bfloat16; its dtype is the compute dtype of the logits.
      embedding: [V, D] output matrix of any float dtype, tied or not; cast once to the compute dtype.
      targets: int32 [B, T], each in [0, call_id).
      call_id: the last real id; columns above it are padding and get exactly no gradient.
      vocab_chunks: 1 keeps the logits for the backward pass. More takes the vocabulary in that many
        chunks and computes each again backwards: 8 instead of 6 N D V FLOPs. Must divide V.

    Raises:
      ValueError: call_id is not a column, or vocab_chunks does not divide V.
    """
    _check(embedding, call_id=call_id, vocab_chunks=vocab_chunks)
    return _scalars(hidden, embedding, targets, call_id, vocab_chunks)


def greedy_tokens(hidden: jax.Array, embedding: jax.Array, call_id: int, *, vocab_chunks: int = 1) -> jax.Array:
    """Most likely token but `<CALL>`, int32 [B, T]; of equal logits the lowest id. Arguments as in `head_scalars`."""
    _check(embedding, call_id=call_id, vocab_chunks=vocab_chunks)
    weights = _interleaved(embedding.astype(hidden.dtype), vocab_chunks)

    def step(best: tuple[jax.Array, jax.Array], chunk: jax.Array) -> tuple[Any, None]:
        ids = _ids(weights, chunk)
        logits = _logits(hidden, weights, chunk).astype(jnp.float32) + jnp.where(ids < call_id, 0.0, EXCLUDED)
        top = logits.max(axis=-1)
        # Two plain reductions rather than an argmax: these stay local to a shard of the vocabulary.
        token = jnp.where(logits == top[..., None], ids, jnp.iinfo(jnp.int32).max).min(axis=-1)
        better = (top > best[0]) | ((top == best[0]) & (token < best[1]))
        return (jnp.where(better, top, best[0]), jnp.where(better, token, best[1])), None

    start = (jnp.full(hidden.shape[:-1], -jnp.inf), jnp.full(hidden.shape[:-1], call_id, jnp.int32))
    (_, token), _ = jax.lax.scan(step, start, jnp.arange(vocab_chunks))
    return token


def _check(embedding: jax.Array, *, call_id: int, vocab_chunks: int) -> None:
    vocab = embedding.shape[0]
    if not 0 < call_id < vocab:
        raise ValueError(f"call_id {call_id} is not a column of an output matrix of {vocab} rows (0 < call_id < V)")
    if vocab_chunks < 1 or vocab % vocab_chunks:
        raise ValueError(f"vocab_chunks {vocab_chunks} does not divide the padded vocabulary of {vocab}")


def _interleaved(weights_VD: jax.Array, vocab_chunks: int) -> jax.Array:
    """[V / vocab_chunks, vocab_chunks, D]: chunk c, at [:, c], holds rows c, c + vocab_chunks, ..."""
    # So each chunk of a vocabulary sharded over devices lies on all of them, and nothing moves.
    return weights_VD.reshape(-1, vocab_chunks, weights_VD.shape[1])


def _logits(hidden: jax.Array, weights: jax.Array, chunk: jax.Array) -> jax.Array:
    """[B, T, V / vocab_chunks] in the compute dtype."""
    return jnp.einsum("btd,vd->btv", hidden, jax.lax.dynamic_index_in_dim(weights, chunk, axis=1, keepdims=False))


def _ids(weights: jax.Array, chunk: jax.Array) -> jax.Array:
    """Vocabulary id of each column of a chunk's logits, int32 [V / vocab_chunks]."""
    rows, vocab_chunks, _ = weights.shape
    return jnp.arange(rows, dtype=jnp.int32) * vocab_chunks + chunk


def _rows_gradient(hidden: jax.Array, dz: jax.Array) -> jax.Array:
    """Gradient of a chunk's rows, float32 [V / vocab_chunks, D]."""
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def product_on_cpu(hidden: jax.Array, dz: jax.Array) -> jax.Array:
        # XLA's CPU backend would transpose all of dz; this order transposes `hidden` and the result.
        return jax.lax.optimization_barrier(product("btd,btv->dv", hidden, dz)).T

    default = functools.partial(product, "btd,btv->vd")
    return jax.lax.platform_dependent(hidden, dz, cpu=product_on_cpu, default=default)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _scalars(
    hidden: jax.Array, embedding: jax.Array, targets: jax.Array, call_id: int, vocab_chunks: int
) -> HeadScalars:
    return _forward(hidden, embedding, targets, call_id, vocab_chunks)[0]


def _forward(hidden: jax.Array, embedding: jax.Array, targets: jax.Array, call_id: int, vocab_chunks: int) -> Any:
    """Online log-sum-exp over the chunks; a single chunk keeps its logits for the backward pass."""
    weights = _interleaved(embedding.astype(hidden.dtype), vocab_chunks)

    def step(carry: tuple[jax.Array, ...], chunk: jax.Array) -> tuple[Any, jax.Array | None]:
        top, total, target = carry
        logits = _logits(hidden, weights, chunk)
        values = logits.astype(jnp.float32) + jnp.where(_ids(weights, chunk) < call_id, 0.0, EXCLUDED)
        new_top = jnp.maximum(top, values.max(axis=-1))
        total = total * jnp.exp(top - new_top) + jnp.exp(values - new_top[..., None]).sum(axis=-1)
        own = jnp.take_along_axis(logits, targets[..., None] // vocab_chunks, axis=-1)[..., 0]
        target += jnp.where(targets % vocab_chunks == chunk, own.astype(jnp.float32), 0.0)
        return (new_top, total, target), logits if vocab_chunks == 1 else None

    zeros = jnp.zeros(targets.shape, jnp.float32)
    (top, total, target), kept = jax.lax.scan(step, (zeros + EXCLUDED, zeros, zeros), jnp.arange(vocab_chunks))
    # Its own product: taking the column out of the logits makes XLA write them in float32.
    call = jnp.einsum("btd,d->bt", hidden, embedding[call_id].astype(hidden.dtype), preferred_element_type=jnp.float32)
    scalars = HeadScalars(lse=top + jnp.log(total), target=target, call=call)
    return scalars, (hidden, embedding, targets, scalars.lse, kept)


def _backward(call_id: int, vocab_chunks: int, kept: Any, grads: HeadScalars) -> tuple[Any, Any, None]:
    """dz = g_lse * softmax + g_target * onehot(target) + g_call * onehot(<CALL>), chunk by chunk."""
    hidden, embedding, targets, lse, logits_kept = kept
    g_lse, g_target, g_call = (g[..., None] for g in (grads.lse, grads.target, grads.call))
    weights = _interleaved(embedding.astype(hidden.dtype), vocab_chunks)

    def step(carry: tuple[jax.Array, jax.Array], chunk: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        d_hidden, d_weights = carry
        logits = logits_kept[0] if vocab_chunks == 1 else _logits(hidden, weights, chunk)
        ids = _ids(weights, chunk)
        # Excluded columns are not bounded by lse: take them out before exp, not after.
        exponent = logits.astype(jnp.float32) - lse[..., None] + jnp.where(ids < call_id, 0.0, EXCLUDED)
        dz = g_lse * jnp.exp(exponent)
        dz += jnp.where(ids == targets[..., None], g_target, 0.0) + jnp.where(ids == call_id, g_call, 0.0)
        dz = dz.astype(hidden.dtype)
        rows = jax.lax.dynamic_index_in_dim(weights, chunk, axis=1, keepdims=False)
        d_hidden += jnp.einsum("btv,vd->btd", dz, rows, preferred_element_type=jnp.float32)
        d_rows = _rows_gradient(hidden, dz).astype(embedding.dtype)
        return (d_hidden, jax.lax.dynamic_update_index_in_dim(d_weights, d_rows, chunk, axis=1)), None

    start = jnp.zeros(hidden.shape, jnp.float32), jnp.zeros(weights.shape, embedding.dtype)
    (d_hidden, d_weights), _ = jax.lax.scan(step, start, jnp.arange(vocab_chunks))
    return d_hidden.astype(hidden.dtype), d_weights.reshape(embedding.shape), None


_scalars.defvjp(_forward, _backward)
