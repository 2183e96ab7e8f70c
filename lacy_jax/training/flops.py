"""Floating-point operations of a training step, and what the hardware could do."""

import math

import jax

from lacy_jax.config import ModelConfig
from lacy_jax.model import decoder

# Dense bf16 peak in FLOP/s a chip, from the vendors' data sheets.
PEAK_FLOPS = {
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
}


def parameter_count(config: ModelConfig, *, vocab: int) -> int:
    """Parameters of the decoder, a tied embedding counted once."""
    shapes = jax.eval_shape(lambda: decoder.init_params(config, vocab=vocab, key=jax.random.key(0)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def flops_per_token(config: ModelConfig, *, vocab: int) -> int:
    """Training FLOPs a token: 6N + 6 L D T, causal attention counted half."""
    return 6 * parameter_count(config, vocab=vocab) + 6 * config.layers * config.width * config.context


def peak_flops(device_kind: str) -> float | None:
    """Dense bf16 peak of one device, None where it is not known (then no MFU is printed)."""
    for name in sorted(PEAK_FLOPS, key=len, reverse=True):
        if device_kind.startswith(name):
            return PEAK_FLOPS[name]
    return None
