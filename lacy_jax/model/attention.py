"""Attention behind one function, and the key-value cache of decoding.

Axes: B batch, T query time, S key time (the cache length when decoding), H query heads, K key-value
heads, N head width, L layers.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax.config import ModelConfig


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


def rope_frequencies(config: ModelConfig) -> np.ndarray:
    """Radians a position of each pair of a head's halves, float32 [N / 2] (arXiv 2104.09864).

    Scaled as `config.rope_scaling` says: "linear" divides all by the factor (arXiv 2306.15595); "llama3" only those
    that turn fewer than `rope_low_factor` times within the original context, none that turn more than
    `rope_high_factor` times, and those between by a blend (github.com/meta-llama/llama-models, models/llama3/model.py).
    """
    half = config.width // config.heads // 2
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
