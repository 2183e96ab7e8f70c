"""Times the training step's variants on one device, in alternation: what each choice costs in time and memory.

    python -m benchmarks.gpu.steps --config configs/slm_150m.py --set data.batch_size=32

The first variant, plain next-token prediction without remat, is what the others are measured against. Steps
are what lacy_jax.main runs; all programs are compiled at once, in threads, and share one state. A ratio is the
median over rounds. Floor and MFU: 6N + 6LDT FLOPs per token, at the rate of a plain matrix product measured in the
same rounds, and at the data sheet's dense bfloat16 peak (training/flops.py). `--profile` adds where one step's time
goes, by kernel.
"""

import argparse
import collections
import dataclasses
import glob
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax

from benchmarks.door import answered
from benchmarks.objective import matmul_rate, timed
from benchmarks.training_step import method_config, random_batch
from lacy_jax.config import Config, MeshConfig
from lacy_jax.model import decoder
from lacy_jax.runtime import sharding
from lacy_jax.training.compiled import compile_train_step
from lacy_jax.training.flops import flops_per_token, parameter_count, peak_flops
from lacy_jax.training.state import init_state

BASE = ("model.remat=none", "model.attention=auto", "model.layer_loop=auto")
# name: method, changed settings
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "ntp": ("ntp", ()),
    "lacy": ("lacy", ()),
    "lacy, xla attention": ("lacy", ("model.attention=xla",)),
    "lacy, documents apart": ("lacy", ("model.attention_within=document", "model.attention=cudnn")),
    "lacy, documents apart, xla": ("lacy", ("model.attention_within=document", "model.attention=xla")),
    "lacy, 4 head chunks": ("lacy", ("objective.vocab_chunks=4",)),
    "lacy, scan of layers": ("lacy", ("model.layer_loop=scan",)),
    "lacy, remat dots": ("lacy", ("model.remat=dots",)),
    "lacy, remat full": ("lacy", ("model.remat=full",)),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A compiled step, seconds it took to compile, and bytes it needs by the compiler's account."""

    program: Any
    compiled_in: float
    peak_bytes: int


def compile_variant(config: Config, *, mesh: Any, vocab: int, call_id: int) -> Variant:
    """The step of `config` for a mesh."""
    started = time.perf_counter()
    with jax.set_mesh(mesh):
        program = compile_train_step(config, vocab=vocab, call_id=call_id, mesh=mesh)
    memory: Any = program.memory_analysis()
    peak = int(memory.temp_size_in_bytes + memory.argument_size_in_bytes)
    return Variant(program, time.perf_counter() - started, peak)


def measure(
    variants: dict[str, Variant], state: Any, batch: Any, *, rounds: int, repeat: int, dtype: str
) -> tuple[dict[str, list[float]], float]:
    """Seconds a step of each variant in every round, and a matrix product's FLOP/s."""
    holder = [state]

    def steps(program: Any, count: int) -> float:
        def run() -> Any:
            for _ in range(count):
                holder[0], _ = program(holder[0], batch, None)
            return holder[0]

        return timed(run) / count

    for variant in variants.values():
        steps(variant.program, 1)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    rates = []
    for _ in range(rounds):
        rates.append(matmul_rate(dtype))
        for name, variant in variants.items():
            seconds[name].append(steps(variant.program, repeat))
    return seconds, statistics.median(rates)


def kernels(program: Any, state: Any, batch: Any, *, most: int) -> list[tuple[str, float, int]]:
    """The device's operations of one step: name, seconds, how often; the longest first."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(state, batch, None))
        (file,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        found = jax.profiler.ProfileData.from_file(file)
        total: dict[str, list[float]] = collections.defaultdict(list)
        for plane in found.planes:
            if not plane.name.startswith("/device:"):
                continue
            for line in plane.lines:
                if line.name.startswith("Stream"):
                    for event in line.events:
                        total[event.name].append(event.duration_ns / 1e9)
    ranked = sorted(total.items(), key=lambda item: -sum(item[1]))
    return [(name, sum(seconds), len(seconds)) for name, seconds in ranked[:most]]


def report(config: Config, variants: dict[str, Variant], seconds: dict[str, list[float]], *, rate: float) -> None:
    """Prints device, floor and a line for each variant."""
    device, tokens = jax.devices()[0], config.data.batch_size * config.model.context
    vocab = decoder.padded_vocab(config.tokenizer.vocab_size + 1)
    flops, peak = tokens * flops_per_token(config.model, vocab=vocab), peak_flops(device.device_kind)
    size = parameter_count(config.model, vocab=vocab)
    print(f"{device.device_kind} ({device.platform}), {config.model.compute_dtype}; {config.name}: ", end="")
    print(f"{size / 1e6:.1f}M parameters, batch {config.data.batch_size} x {config.model.context}")
    print(f"floor {1e3 * flops / rate:.1f} ms a step, at {rate / 1e12:,.1f} TFLOP/s of a plain matrix product")
    titles = f"{'':28}{'ms':>9}{'tokens/s':>11}{'of floor':>10}{'MFU':>7}{'/ ntp':>8}{'(quartiles)':>18}"
    print(f"{titles}{'peak MB':>10}{'compiled in':>13}")
    base = next(iter(seconds.values()))
    for name, own in seconds.items():
        ratios = [mine / theirs for mine, theirs in zip(own, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        median = statistics.median(own)
        mfu = f"{flops / median / peak:.1%}" if peak else "-"
        line = f"{name:28}{1e3 * median:9.1f}{tokens / median:11,.0f}{flops / rate / median:10.0%}{mfu:>7}{middle:8.3f}"
        variant = variants[name]
        quartiles = f"({low:.3f} .. {high:.3f})"
        print(f"{line}{quartiles:>18}{variant.peak_bytes / 1e6:10,.0f}{variant.compiled_in:11.0f} s", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compiles, times, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/slm_150m.py")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--variants", default=";".join(VARIANTS), help="names, with ; between them")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeat", type=int, default=3, help="steps in a row that are timed as one")
    parser.add_argument("--profile", default="", metavar="VARIANT", help="whose kernels are listed")
    options = parser.parse_args(arguments)
    configs = {
        name: method_config(options.config, VARIANTS[name][0], [*BASE, *options.set, *VARIANTS[name][1]])
        for name in options.variants.split(";")
    }
    config = next(iter(configs.values()))
    vocab, call_id = decoder.padded_vocab(config.tokenizer.vocab_size + 1), config.tokenizer.vocab_size
    mesh = sharding.make_mesh(MeshConfig(), batch_size=config.data.batch_size, devices=jax.devices()[:1])
    with ThreadPoolExecutor() as pool:
        waiting = {
            name: pool.submit(compile_variant, each, mesh=mesh, vocab=vocab, call_id=call_id)
            for name, each in configs.items()
        }
        variants = {name: future.result() for name, future in waiting.items()}
    with jax.set_mesh(mesh):
        state = jax.jit(lambda: init_state(config, vocab=vocab))()
        batch = random_batch(config, call_id=call_id)
        dtype = config.model.compute_dtype
        seconds, rate = measure(variants, state, batch, rounds=options.rounds, repeat=options.repeat, dtype=dtype)
        report(config, variants, seconds, rate=rate)
        if options.profile:
            state = jax.jit(lambda: init_state(config, vocab=vocab))()
            print(f"one step of {options.profile}, by kernel:")
            for name, total, count in kernels(variants[options.profile].program, state, batch, most=30):
                print(f"{1e3 * total:9.2f} ms {count:5} x  {name[:110]}")


if __name__ == "__main__":
    answered(main)
