"""Floating-point operations of a training step, and what the hardware could do."""

import dataclasses
import functools
import math
import time

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lacy_jax.config import Config, ModelConfig
from lacy_jax.model import decoder

# Dense bf16 peak in FLOP/s per chip, from the vendors' data sheets.
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

# What a step is expected to reach: of the data sheet's peak on an accelerator, of a matrix product's rate on a CPU.
PEAK_SHARE = 0.4
CPU_SHARE = 0.5


def parameter_count(config: ModelConfig, *, vocab: int) -> int:
    """Parameters of the decoder, a tied embedding counted once."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(decoder.param_shapes(config, vocab=vocab)))


def flops_per_token(config: ModelConfig, *, vocab: int) -> int:
    """Training FLOPs per token: 6N + 6 L D T, causal attention counted half; D as wide as all heads together."""
    attention = 6 * config.layers * config.heads * config.head_size * config.context
    return 6 * parameter_count(config, vocab=vocab) + attention


def peak_flops(device_kind: str) -> float | None:
    """Dense bf16 peak of one device, None where it is not known (then no MFU is printed)."""
    for name in sorted(PEAK_FLOPS, key=len, reverse=True):
        if device_kind.startswith(name):
            return PEAK_FLOPS[name]
    return None


def mesh_peak(mesh: Mesh) -> float | None:
    """Dense bf16 peak of all devices of a mesh together, None where it is not known."""
    peak = peak_flops(mesh.devices.flat[0].device_kind)
    return None if peak is None else peak * mesh.devices.size


@dataclasses.dataclass(frozen=True)
class ExpectedStep:
    """seconds: of one training step. basis: what the figure rests on, in words."""

    seconds: float
    basis: str


def expected_step(config: Config, *, vocab: int, mesh: Mesh) -> ExpectedStep | None:
    """What a step should take: its FLOPs over a stated share of the devices' speed; None where that is not known.

    On accelerators the speed is the data sheet's, on a CPU that of a matrix product measured now.
    """
    total = config.data.batch_size * config.model.context * flops_per_token(config.model, vocab=vocab)
    total = round(total * _passes(config))
    if mesh.devices.flat[0].platform == "cpu":
        # Virtual devices share their machine's cores: only processes add speed, and only on machines of their own.
        share, speed = CPU_SHARE, matmul_flops()
        basis = f"{share:.0%} of the {speed / 1e9:,.0f} GFLOP/s of a matrix product on this CPU"
    else:
        peak = mesh_peak(mesh)
        if peak is None:
            return None
        share, speed = PEAK_SHARE, peak
        basis = f"{share:.0%} of the peak of {peak / mesh.devices.size / 1e12:,.0f} TFLOP/s a device"
    return ExpectedStep(seconds=total / (share * speed), basis=basis)


def _passes(config: Config) -> float:
    """Work of a step over that of one forward and one backward pass."""
    settings, extra = config.objective, 0.0
    if config.model.remat == "full":
        extra += 1 / 3  # the forward pass again, on the way back
    if config.training.microbatches > 1 and settings.scope == "batch" and settings.rule != "none":
        extra += 1 / 3  # a forward pass for the losses, before the first gradient
    return 1 + extra


@functools.cache
def matmul_flops() -> float:
    """Measured FLOP/s of a float32 matrix product on the default device; measured once."""
    x = jnp.ones((1024, 1024))
    product = jax.jit(lambda x: x @ x)
    product(x).block_until_ready()
    started = time.perf_counter()
    for _ in range(5):
        product(x).block_until_ready()
    return 5 * 2 * 1024**3 / (time.perf_counter() - started)
