"""Attention behind one function, and the key-value cache of decoding.

Axes: B batch, T time of a chunk, S slots of the cache, H query heads, K key-value heads, N head width.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax.config import AttentionName, ModelConfig
from lacy_jax.model import fused

# Queries of a chunk are taken in so many blocks, each with the keys up to its end: with 4, 10/16 of all scores are
# computed, where 8/16 are seen and plain masking computes all (docs/performance.md).
QUERY_BLOCKS = 4

LayerCache = tuple[jax.Array, jax.Array]  # keys and values of one layer, [B, K, S, N] each


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer, one array each; slot s of a row holds its position s.

    One array per layer, so that a step writes into it in place; heads before positions, so that a query's
    products with keys and values run over contiguous memory (on a CPU six times faster than after).
    """

    layers: tuple[LayerCache, ...]

    @property
    def length(self) -> int:
        """Slots of a row."""
        return int(self.layers[0][0].shape[2])


def init_cache(*, layers: int, batch: int, length: int, kv_heads: int, head_width: int, dtype: jnp.dtype) -> KVCache:
    """An empty cache with `length` slots a row; nothing in it is read before it was written."""
    shape = (batch, kv_heads, length, head_width)
    return KVCache(tuple((jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(layers)))


def grow_cache(cache: KVCache, *, more: int) -> KVCache:
    """The cache with `more` empty slots at every row's end."""
    return jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, more), (0, 0))), cache)


def write_cache(cache_BKSN: jax.Array, new_BTKN: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """Puts each row's new entries at that row's own positions; those beyond the cache are dropped."""
    rows_B1 = jnp.arange(cache_BKSN.shape[0])[:, None]
    return cache_BKSN.at[rows_B1, :, positions_BT].set(new_BTKN.astype(cache_BKSN.dtype), mode="drop")


def attend(
    q_BTHN: jax.Array,
    k_BTKN: jax.Array,
    v_BTKN: jax.Array,
    *,
    starts_BT: jax.Array | None = None,
    implementation: AttentionName = "xla",
) -> jax.Array:
    """Causal softmax attention within a chunk, scores in float32; H must be a multiple of K. Returns [B, T, H, N].

    Args:
        starts_BT: int32, the first key that each query sees, the same for all tokens of a document; None: key 0.
        implementation: what `fused.resolve` chose; "auto", of a model that nobody trains, is xla.
    """
    if implementation == "splash":
        return fused.attend_splash(q_BTHN, k_BTKN, v_BTKN, starts_BT=starts_BT)
    if implementation == "cudnn":
        return fused.attend_cudnn(q_BTHN, k_BTKN, v_BTKN, starts_BT=starts_BT)
    return _attend_in_blocks(q_BTHN, k_BTKN, v_BTKN, starts_BT)


def _attend_in_blocks(
    q_BTHN: jax.Array, k_BTKN: jax.Array, v_BTKN: jax.Array, starts_BT: jax.Array | None
) -> jax.Array:
    batch, time, _, width = q_BTHN.shape
    q_BTKGN = (q_BTHN / width**0.5).reshape(batch, time, k_BTKN.shape[2], -1, width)  # G query heads share a key head
    return _mix(q_BTKGN, k_BTKN, v_BTKN, starts_BT).reshape(q_BTHN.shape)


@jax.custom_vjp
def _mix(q_BTKGN: jax.Array, k_BTKN: jax.Array, v_BTKN: jax.Array, starts_BT: jax.Array | None) -> jax.Array:
    """Causal attention of scaled queries, a block of them at a time with the keys up to its end; [B, T, K, G, N]."""
    return _mix_forward(q_BTKGN, k_BTKN, v_BTKN, starts_BT)[0]


def _mix_forward(
    q_BTKGN: jax.Array, k_BTKN: jax.Array, v_BTKN: jax.Array, starts_BT: jax.Array | None
) -> tuple[jax.Array, Any]:
    mixed, kept = [], []
    for start, end in _blocks(q_BTKGN.shape[1]):
        q_BKGTN = _heads_first(q_BTKGN[:, start:end])
        k_BKSN, v_BKSN = (_heads_first(x[:, :end]) for x in (k_BTKN, v_BTKN))
        scores = jnp.einsum("bkgtn,bksn->bkgts", q_BKGTN, k_BKSN, preferred_element_type=jnp.float32)
        seen = jnp.arange(start, end)[:, None] >= jnp.arange(end)
        if starts_BT is not None:
            seen = seen & (jnp.arange(end) >= starts_BT[:, None, None, start:end, None])
        scores = jnp.where(seen, scores, -1e30)
        # The softmax is these exponentials and the inverse of their sum: multiplied by it is what is smaller.
        exps_BKGTS = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
        inverse_BKGT1 = 1.0 / exps_BKGTS.sum(axis=-1, keepdims=True)
        exps_BKGTS = exps_BKGTS.astype(v_BTKN.dtype)
        sums = jnp.einsum("bkgts,bksn->bkgtn", exps_BKGTS, v_BKSN, preferred_element_type=jnp.float32)
        mixed.append((sums * inverse_BKGT1).astype(q_BTKGN.dtype))
        kept.append((exps_BKGTS, inverse_BKGT1, mixed[-1]))
    return _time_first(jnp.concatenate(mixed, axis=3)), (q_BTKGN, k_BTKN, v_BTKN, kept)


def _mix_backward(kept: Any, grad_BTKGN: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    """By hand, as JAX's own would sum over S what is a sum over N, and pad every block to the whole.

    With p the softmax and o the output: ds = p (do v' - do o'), dq = ds k, dk = ds' q, dv = p' do (the backward pass
    of FlashAttention, arXiv 2205.14135, appendix B, without its recomputation).
    """
    q_BTKGN, k_BTKN, v_BTKN, by_block = kept
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    dtype, blocks = q_BTKGN.dtype, _blocks(q_BTKGN.shape[1])
    d_queries, d_keys, d_values = [], [], []
    for (start, end), (exps_BKGTS, inverse_BKGT1, mixed_BKGTN) in zip(blocks, by_block, strict=True):
        q_BKGTN = _heads_first(q_BTKGN[:, start:end])
        k_BKSN, v_BKSN = (_heads_first(x[:, :end]) for x in (k_BTKN, v_BTKN))
        grad_BKGTN = _heads_first(grad_BTKGN[:, start:end]) * inverse_BKGT1
        along_BKGT1 = jnp.sum(grad_BKGTN * mixed_BKGTN, axis=-1, keepdims=True)
        grad_BKGTN = grad_BKGTN.astype(dtype)
        d_exps = product("bkgtn,bksn->bkgts", grad_BKGTN, v_BKSN) - along_BKGT1
        d_scores = (exps_BKGTS * d_exps).astype(dtype)
        d_queries.append(product("bkgts,bksn->bkgtn", d_scores, k_BKSN))
        d_keys.append(product("bkgts,bkgtn->bksn", d_scores, q_BKGTN))
        d_values.append(product("bkgts,bkgtn->bksn", exps_BKGTS, grad_BKGTN))
    d_queries_BTKGN = _time_first(jnp.concatenate(d_queries, axis=3)).astype(dtype)
    d_keys_BTKN = _summed(d_keys, blocks).astype(k_BTKN.dtype)
    return d_queries_BTKGN, d_keys_BTKN, _summed(d_values, blocks).astype(v_BTKN.dtype), None


_mix.defvjp(_mix_forward, _mix_backward)


def _blocks(time: int) -> list[tuple[int, int]]:
    """(start, end) of each block of queries; one where they would not be alike."""
    size = time // QUERY_BLOCKS if time % QUERY_BLOCKS == 0 else time
    return [(start, start + size) for start in range(0, time, size)]


def _heads_first(x: jax.Array) -> jax.Array:
    """[B, T, heads..., N] -> [B, heads..., T, N]."""
    return jnp.moveaxis(x, 1, -2)


def _time_first(x: jax.Array) -> jax.Array:
    """The inverse of `_heads_first`."""
    return jnp.moveaxis(x, -2, 1)


def _summed(parts: Sequence[jax.Array], blocks: Sequence[tuple[int, int]]) -> jax.Array:
    """Sum of [B, K, S, N], S from the start to the end of each block, as [B, T, K, N]: no part is padded."""
    columns = [
        functools.reduce(jnp.add, [part[:, :, start:end] for part in parts[index:]])
        for index, (start, end) in enumerate(blocks)
    ]
    return _time_first(jnp.concatenate(columns, axis=2))


def attend_cached(q_BTHN: jax.Array, cache: LayerCache, positions_BT: jax.Array) -> jax.Array:
    """The same over a cache: the query at position p sees slots 0..p of its row."""
    k_BKSN, v_BKSN = (x.astype(q_BTHN.dtype) for x in cache)
    batch, time, heads, width = q_BTHN.shape
    q_BTKGN = q_BTHN.reshape(batch, time, k_BKSN.shape[1], -1, width)  # G query heads share a key head
    scores = jnp.einsum("btkgn,bksn->bkgts", q_BTKGN, k_BKSN, preferred_element_type=jnp.float32) / width**0.5
    seen_B11TS = jnp.arange(k_BKSN.shape[2]) <= positions_BT[:, None, None, :, None]
    weights_BKGTS = jax.nn.softmax(jnp.where(seen_B11TS, scores, -1e30), axis=-1).astype(q_BTHN.dtype)
    return jnp.einsum("bkgts,bksn->btkgn", weights_BKGTS, v_BKSN).reshape(batch, time, heads, width)


def rope_frequencies(config: ModelConfig) -> np.ndarray:
    """Radians a position of each pair of a head's halves, float32 [N / 2] (arXiv 2104.09864).

    Scaled as `config.rope_scaling` says: "linear" divides all by the factor (arXiv 2306.15595); "llama3" only those
    that turn fewer than `rope_low_factor` times within the original context, none that turn more than
    `rope_high_factor` times, and those between by a blend (github.com/meta-llama/llama-models, models/llama3/model.py).
    """
    half = config.head_size // 2
    frequencies = config.rope_theta ** (-np.arange(half) / half)
    if config.rope_scaling == "linear":
        frequencies = frequencies / config.rope_factor
    elif config.rope_scaling == "llama3":
        turns = config.rope_original_context * frequencies / (2 * np.pi)
        kept = (turns - config.rope_low_factor) / (config.rope_high_factor - config.rope_low_factor)
        kept = np.clip(kept, 0.0, 1.0)
        frequencies = kept * frequencies + (1 - kept) * frequencies / config.rope_factor
    return frequencies.astype(np.float32)


def rotate(x_BTHN: jax.Array, positions_BT: jax.Array, *, frequencies: np.ndarray) -> jax.Array:
    """Rotary position embedding with `rope_frequencies`, halves paired as Llama's weights expect."""
    angles_BT1F = positions_BT[..., None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles_BT1F), jnp.sin(angles_BT1F)
    first, second = jnp.split(x_BTHN.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTHN.dtype)
