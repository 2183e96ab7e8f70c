"""Times attention alone, forward and backward: xla's, cuDNN's and, where it is installed, tokamax's, in alternation.

    python -m benchmarks.gpu.kernels --batch 32 --heads 12 --time 1024 --width 64

Causal, bfloat16. Floor: 14 B H T T N FLOPs, causal counted half (two products forward, five backward, of which one is
done again), at the rate of a plain matrix product measured in the same rounds. A ratio is the median over rounds.
tokamax: github.com/openxla/tokamax, JAX's library of kernels for GPUs and TPUs.
"""

import argparse
import functools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.door import answered
from benchmarks.objective import matmul_rate, timed
from lacy_jax.model import attention

Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def candidates() -> dict[str, Kernel]:
    """Kernels by name; each takes and gives [B, T, H, N]."""
    found: dict[str, Kernel] = {
        "xla": lambda q, k, v: attention.attend(q, k, v, implementation="xla"),
        "xla, jax.nn": lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="xla"),
    }
    if jax.default_backend() == "gpu":
        found["cudnn"] = lambda q, k, v: attention.attend(q, k, v, implementation="cudnn")
        try:
            import tokamax
        except ImportError as error:
            print(f"tokamax is not measured: {error}")
        else:
            for name in ("triton", "mosaic"):
                found[f"tokamax {name}"] = functools.partial(
                    tokamax.dot_product_attention, is_causal=True, implementation=name
                )
    return found


def with_gradients(kernel: Kernel) -> Callable[..., Any]:
    """The kernel and its gradient, as one jitted function of q, k, v and the gradient of the output."""

    def both(q: jax.Array, k: jax.Array, v: jax.Array, grad: jax.Array) -> Any:
        mixed, back = jax.vjp(kernel, q, k, v)
        return mixed, back(grad)

    return jax.jit(both)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compiles, times, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--time", type=int, default=1024)
    parser.add_argument("--width", type=int, default=64, help="of a head")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeat", type=int, default=10, help="calls in a row that are timed as one")
    options = parser.parse_args(arguments)
    shape = (options.batch, options.time, options.heads, options.width)
    inputs = [jax.random.normal(key, shape, jnp.bfloat16) for key in jax.random.split(jax.random.key(0), 4)]
    programs = {}
    for name, kernel in candidates().items():
        program = with_gradients(kernel)
        try:
            jax.block_until_ready(program(*inputs))
        except Exception as error:  # of many kinds: a kernel that this device or version does not have
            lines = str(error).splitlines() or [""]
            print(f"{name}: cannot run here: {type(error).__name__}: {lines[0][:160]}")
            continue
        programs[name] = program
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    rates = []
    for _ in range(options.rounds):
        rates.append(matmul_rate("bfloat16"))
        for name, program in programs.items():
            call = lambda program=program: [program(*inputs) for _ in range(options.repeat)][-1]  # noqa: E731
            seconds[name].append(timed(call) / options.repeat)
    flops = 14 * options.batch * options.heads * options.time**2 * options.width / 2
    floor = flops / statistics.median(rates)
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), attention {shape}, bfloat16; floor {1e3 * floor:.2f} ms")
    for name, own in seconds.items():
        ratios = [mine / theirs for mine, theirs in zip(own, seconds["xla"], strict=True)]
        median = statistics.median(own)
        print(
            f"{name:16}{1e3 * median:9.2f} ms{floor / median:8.0%} of the floor{statistics.median(ratios):8.3f} / xla"
        )


if __name__ == "__main__":
    answered(main)
