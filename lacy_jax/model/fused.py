"""Attention kernels that never hold all scores: splash on TPUs, cuDNN's on NVIDIA GPUs; and which one a run uses.

Axes: B batch, T time, H query heads, K key-value heads, N head width.
"""

import dataclasses
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from lacy_jax.config import AttentionName, ModelConfig
from lacy_jax.runtime.sharding import BATCH_AXES

# Rows and columns of a block of scores: the largest that divides the context (github.com/AI-Hypercomputer/maxtext
# starts from 512 too). 128 is the width of a TPU's registers.
_BLOCKS = (512, 256, 128)

_log = logging.getLogger(__name__)


def resolve(model: ModelConfig, *, platform: str) -> ModelConfig:
    """The model as it will run on `platform` ("cpu", "gpu", "tpu"): no choice in it is "auto".

    Attention "auto" is splash on TPUs and cuDNN's on NVIDIA GPUs where they fit, else xla. What was asked for by name
    and cannot be had is replaced by xla, with a warning that says why. The loop over layers "auto" is unrolled on GPUs,
    where a scan's copies take a third of a step (docs/performance.md), and a scan elsewhere.
    """
    if model.layer_loop == "auto":
        model = dataclasses.replace(model, layer_loop="unroll" if platform == "gpu" else "scan")
    if model.attention == "auto":
        chosen: AttentionName = "xla"
        if platform == "tpu" and not _splash_problem(model, platform):
            chosen = "splash"
        elif platform == "gpu" and not _cudnn_problem(model, platform):
            chosen = "cudnn"
        return dataclasses.replace(model, attention=chosen)
    problem = ""
    if model.attention == "splash":
        problem = _splash_problem(model, platform)
    elif model.attention == "cudnn":
        problem = _cudnn_problem(model, platform)
    if not problem:
        return model
    _log.warning("config.model.attention=%s: %s; training goes on with xla, slower", model.attention, problem)
    return dataclasses.replace(model, attention="xla")


def _splash_problem(model: ModelConfig, platform: str) -> str:
    if platform != "tpu":
        return f"splash is for TPUs, this is {platform}"
    if model.context % _BLOCKS[-1]:
        return f"splash needs a context that {_BLOCKS[-1]} divides, config.model.context is {model.context}"
    return ""


@functools.lru_cache
def _cudnn_problem(model: ModelConfig, platform: str) -> str:
    """Why cuDNN's attention cannot run, by running it: what cuDNN takes differs by version and GPU."""
    if platform != "gpu":
        return f"cudnn is for NVIDIA GPUs, this is {platform}"
    if model.compute_dtype == "float32":
        return "cuDNN's attention has no float32: set config.model.compute_dtype=bfloat16"
    shape = (1, model.context, model.heads, model.head_size)
    kv_shape = (1, model.context, model.kv_heads or model.heads, model.head_size)
    q, kv = jnp.ones(shape, model.compute_dtype), jnp.ones(kv_shape, model.compute_dtype)
    starts = None if model.attention_within == "window" else jnp.zeros((1, model.context), jnp.int32)

    def trial(q: jax.Array, kv: jax.Array) -> jax.Array:
        return attend_cudnn(q, kv, kv, starts_BT=starts).astype(jnp.float32).sum()

    try:
        jax.block_until_ready(jax.jit(jax.grad(trial))(q, kv))
    except Exception as error:  # of many kinds: from jaxlib, cuDNN, the driver
        return f"a trial failed ({type(error).__name__}: {str(error).splitlines()[0]})"
    return ""


def attend_cudnn(
    q_BTHN: jax.Array, k_BTKN: jax.Array, v_BTKN: jax.Array, *, starts_BT: jax.Array | None = None
) -> jax.Array:
    """Causal attention by cuDNN, [B, T, H, N]; bfloat16 only. `starts_BT` as in `attention.attend`.

    cuDNN takes segments only in a packed layout with room for the largest number of them, perhaps one per token. So a
    mask keeps documents apart, [B, 1, T, T], the same for all heads.
    """
    mask = None if starts_BT is None else (starts_BT[:, :, None] == starts_BT[:, None, :])[:, None]
    return jax.nn.dot_product_attention(q_BTHN, k_BTKN, v_BTKN, mask=mask, is_causal=True, implementation="cudnn")


def attend_splash(
    q_BTHN: jax.Array,
    k_BTKN: jax.Array,
    v_BTKN: jax.Array,
    *,
    starts_BT: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Causal attention by JAX's splash kernel, each device for its own rows and heads; [B, T, H, N].

    Args:
        starts_BT: as in `attention.attend`; a document's tokens have the same, so they serve as ids of segments.
        interpret: runs the kernel's own program on a CPU, slowly: for tests.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _splash(q_BTHN, k_BTKN, v_BTKN, starts_BT, interpret=interpret)
    if k_BTKN.shape[2] % mesh.shape["tensor"]:
        # Fewer key-value heads than devices along `tensor` lie whole on each: give every query head its own.
        group = q_BTHN.shape[2] // k_BTKN.shape[2]
        k_BTKN, v_BTKN = (jnp.repeat(x, group, axis=2) for x in (k_BTKN, v_BTKN))
    spec = PartitionSpec(BATCH_AXES, None, "tensor", None)
    local = functools.partial(_splash, interpret=interpret)
    # The kernel says nothing of how its results vary over the mesh, so JAX cannot check it.
    specs = (spec, spec, spec, PartitionSpec(BATCH_AXES, None))
    everywhere = jax.shard_map(local, in_specs=specs, out_specs=spec, check_vma=False)
    return everywhere(q_BTHN, k_BTKN, v_BTKN, starts_BT)


def _splash(
    q_BTHN: jax.Array, k_BTKN: jax.Array, v_BTKN: jax.Array, starts_BT: jax.Array | None, *, interpret: bool
) -> jax.Array:
    # Slow to import, and only TPUs run it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    _, time, heads, width = q_BTHN.shape
    size = next(block for block in _BLOCKS if time % block == 0)
    sizes = splash.BlockSizes(
        block_q=size,
        block_kv=size,
        block_kv_compute=size,
        block_q_dkv=size,
        block_kv_dkv=size,
        block_kv_dkv_compute=size,
        block_q_dq=size,
        block_kv_dq=size,
    )
    mask = masks.MultiHeadMask([masks.CausalMask((time, time))] * heads)
    kernel = splash.make_splash_mha(mask, head_shards=1, q_seq_shards=1, block_sizes=sizes, interpret=interpret)
    # The kernel leaves the scaling to us; heads come before positions in it.
    q_BHTN = (q_BTHN * np.float32(width**-0.5)).astype(q_BTHN.dtype).swapaxes(1, 2)
    segments = None if starts_BT is None else splash.SegmentIds(q=starts_BT, kv=starts_BT)
    return jax.vmap(kernel)(q_BHTN, k_BTKN.swapaxes(1, 2), v_BTKN.swapaxes(1, 2), segments).swapaxes(1, 2)
