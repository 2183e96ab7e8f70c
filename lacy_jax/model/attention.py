"""Attention behind one function, and the key-value cache of decoding.

Axes: B batch, T query time, S key time (the cache length when decoding), H query heads, K key-value
heads, N head width, L layers.
"""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys and values of every layer: `k`, `v` are [L, B, S, K, N]; slot s holds position s of its row."""

    k: jax.Array
    v: jax.Array


def init_cache(*, layers: int, batch: int, length: int, kv_heads: int, head_width: int, dtype: jnp.dtype) -> KVCache:
    """An empty cache with `length` slots a row; nothing in it is read before it was written."""
    shape = (layers, batch, length, kv_heads, head_width)
    return KVCache(k=jnp.zeros(shape, dtype), v=jnp.zeros(shape, dtype))


def write_cache(cache_BSKN: jax.Array, new_BTKN: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """Puts each row's new entries at that row's own positions; those beyond the cache are dropped."""
    rows_B1 = jnp.arange(cache_BSKN.shape[0])[:, None]
    return cache_BSKN.at[rows_B1, positions_BT].set(new_BTKN.astype(cache_BSKN.dtype), mode="drop")


def attend(
    q_BTHN: jax.Array, k_BSKN: jax.Array, v_BSKN: jax.Array, *, positions_BT: jax.Array | None = None
) -> jax.Array:
    """Causal softmax attention, scores in float32; H must be a multiple of K. Returns [B, T, H, N].

    Without positions, query t sees keys 0..t of its own chunk. With them (decoding), the query at position p
    sees cache slots 0..p of its row.
    """
    if positions_BT is None:
        return jax.nn.dot_product_attention(q_BTHN, k_BSKN, v_BSKN, is_causal=True, implementation="xla")
    mask_B1TS = jnp.arange(k_BSKN.shape[1]) <= positions_BT[:, None, :, None]
    return jax.nn.dot_product_attention(q_BTHN, k_BSKN, v_BSKN, mask=mask_B1TS, implementation="xla")


def rotate(x_BTHN: jax.Array, positions_BT: jax.Array, *, theta: float) -> jax.Array:
    """Rotary position embedding (arXiv 2104.09864), halves paired as Llama's weights expect."""
    half = x_BTHN.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles_BT1F = positions_BT[..., None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles_BT1F), jnp.sin(angles_BT1F)
    first, second = jnp.split(x_BTHN.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BTHN.dtype)
