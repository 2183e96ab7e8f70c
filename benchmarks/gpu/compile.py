"""Times the compilation of the decoder, and its run, with and without XLA's own matrix products (Triton).

    python -m benchmarks.gpu.compile --config configs/slm_150m.py --batch 8

On a GPU, XLA tries several Triton products for every shape while it compiles (docs/performance.md). Each line is a
fresh compilation of the decoder's forward pass over [batch, time] tokens, from nothing kept, then the median of its
runs. The first line has XLA's own options.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.door import answered
from benchmarks.training_step import method_config
from lacy_jax.config import ModelConfig
from lacy_jax.model import decoder, fused
from lacy_jax.model.precision import product_precision

VOCAB = 4224
OPTIONS: dict[str, dict[str, str | bool]] = {
    "XLA's own options": {},
    "no Triton products": {"xla_gpu_enable_triton_gemm": False},
    "no trials": {"xla_gpu_autotune_level": "0"},
}


def times(model: ModelConfig, options: dict[str, str | bool], *, batch: int, length: int) -> tuple[float, float]:
    """Seconds of the compilation, and of a run (the median of 10)."""

    def hidden(params: decoder.Params, tokens_BT: jax.Array) -> jax.Array:
        with product_precision(model):
            return decoder.forward(params, tokens_BT, config=model)

    params = jax.jit(lambda: decoder.init_params(model, vocab=VOCAB, key=jax.random.key(0)))()
    tokens_BT = jnp.asarray(np.random.default_rng(0).integers(0, VOCAB, (batch, length), np.int32))
    lowered = jax.jit(hidden).lower(params, tokens_BT)
    began = time.perf_counter()
    program = lowered.compile(compiler_options=options or None)
    compiled = time.perf_counter() - began
    runs = []
    for _ in range(11):
        began = time.perf_counter()
        jax.block_until_ready(program(params, tokens_BT))
        runs.append(time.perf_counter() - began)
    return compiled, statistics.median(runs[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a line for each dtype and set of options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/slm_150m.py")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the config")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=1, help="tokens per row; 1: the products of a step of decoding")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_compilation_cache", False)
    asked = method_config(options.config, "ntp", options.set).model
    print(f"{jax.devices()[0].device_kind}; {options.config}, {options.batch} x {options.length} tokens")
    print(f"{'':34}{'compiled in, s':>16}{'a run, ms':>12}")
    for dtype in ("float32", "bfloat16"):
        model = fused.resolve(dataclasses.replace(asked, compute_dtype=dtype), platform=jax.default_backend())
        for name, chosen in OPTIONS.items():
            compiled, run = times(model, chosen, batch=options.batch, length=options.length)
            print(f"{f'{dtype}, {name}':34}{compiled:16.1f}{1000 * run:12.3f}", flush=True)


if __name__ == "__main__":
    answered(main)
