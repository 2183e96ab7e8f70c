"""Times the training step of a config: tokens a second, MFU and memory, in alternation with PyTorch's.

    python -m benchmarks.step --set model.layers=5 --set model.width=256 --set model.heads=4
    python -m benchmarks.step --config configs/slm_150m.py --method lacy

What is timed is what `lacy_jax.main` runs (see benchmarks.training_step), on one device. The peer is the same
architecture in PyTorch (benchmarks.torch_step), where torch and transformers are installed: transformers' model, SDPA,
torch.compile, fused AdamW, plain cross-entropy. Steps alternate, ours, theirs, ours, theirs, each in its own process
while the other waits; the ratio is the median over rounds. Floor: 6N + 6LDT FLOPs per token at the rate of a plain
matrix product, measured in the same rounds. MFU is that number of FLOPs over the device's dense bfloat16 peak
(training/flops.py), printed where the peak is known.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from benchmarks.door import answered
from benchmarks.objective import matmul_rate, timed
from benchmarks.training_step import method_config, random_batch
from lacy_jax.config import Config, MeshConfig
from lacy_jax.model import decoder
from lacy_jax.presets import METHODS
from lacy_jax.runtime import sharding
from lacy_jax.runtime.allocator import keep_freed_memory
from lacy_jax.training.flops import flops_per_token, parameter_count, peak_flops
from lacy_jax.training.state import init_state
from lacy_jax.training.step import jit_train_step


@dataclass(frozen=True)
class Timing:
    """Seconds a step in every round, and the memory at most in use, bytes (0: not known)."""

    seconds: list[float]
    peak_bytes: int

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class Ours:
    """The compiled step, its state and a batch, on the first device."""

    def __init__(self, config: Config, *, vocab: int, call_id: int):
        mesh = sharding.make_mesh(MeshConfig(), batch_size=config.data.batch_size, devices=jax.devices()[:1])
        with jax.set_mesh(mesh):
            self.batch = random_batch(config, call_id=call_id)
            self.state = jax.jit(lambda: init_state(config, vocab=vocab))()
            step = jit_train_step(config, vocab=vocab, call_id=call_id, mesh=mesh)
            self.program = step.lower(self.state, self.batch, None).compile()

    def steps(self, count: int) -> float:
        """Seconds a step."""

        def run() -> Any:
            for _ in range(count):
                self.state, _ = self.program(self.state, self.batch, None)
            return self.state

        return timed(run) / count

    def peak_bytes(self) -> int:
        """The compiler's account: the step's arguments and what it needs besides."""
        memory: Any = self.program.memory_analysis()
        return int(memory.temp_size_in_bytes + memory.argument_size_in_bytes)


class Theirs:
    """benchmarks.torch_step in a process of its own."""

    def __init__(self, config: Config, *, vocab: int):
        model, optimizer = dataclasses.asdict(config.model), dataclasses.asdict(config.optimizer)
        given = {"model": model, "optimizer": optimizer, "vocab": vocab, "batch_size": config.data.batch_size}
        command = [sys.executable, "-m", "benchmarks.torch_step", json.dumps(given)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.peak = 0

    def begin(self, count: int) -> None:
        """Has it run so many steps, without waiting for them."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()

    def end(self) -> float:
        """Waits for the steps that were begun; seconds a step."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the peer ended: what it said stands above; --peer none goes without it")
        answer = json.loads(line)
        self.peak = answer["peak_bytes"]
        return float(answer["seconds"])

    def steps(self, count: int) -> float:
        """Seconds a step."""
        self.begin(count)
        return self.end()

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(config: Config, *, peer: bool, rounds: int, repeat: int) -> tuple[Timing, Timing | None, float]:
    """Our step, the peer's, and the rate of a matrix product in FLOP/s, each round after round."""
    vocab = decoder.padded_vocab(config.tokenizer.vocab_size + 1)
    theirs = Theirs(config, vocab=vocab) if peer else None
    if theirs is not None:
        theirs.begin(3)  # compiles, as ours does meanwhile
    ours = Ours(config, vocab=vocab, call_id=config.tokenizer.vocab_size)
    ours.steps(3)  # warms up
    if theirs is not None:
        theirs.end()
    own, others, rates = [], [], []
    for _ in range(rounds):
        own.append(ours.steps(repeat))
        if theirs is not None:
            others.append(theirs.steps(repeat))
        rates.append(matmul_rate(config.model.compute_dtype))
    if theirs is not None:
        theirs.close()
    second = Timing(others, theirs.peak) if theirs is not None else None
    return Timing(own, ours.peak_bytes()), second, statistics.median(rates)


def report(config: Config, ours: Timing, theirs: Timing | None, *, rate: float) -> None:
    """Prints device, floor and a line each."""
    device, tokens = jax.devices()[0], config.data.batch_size * config.model.context
    vocab = decoder.padded_vocab(config.tokenizer.vocab_size + 1)
    flops = tokens * flops_per_token(config.model, vocab=vocab)
    size = parameter_count(config.model, vocab=vocab)
    peak = peak_flops(device.device_kind)
    print(
        f"{device.device_kind} ({device.platform}), {config.model.compute_dtype}; {config.name}, {config.method}: ",
        end="",
    )
    print(f"{size / 1e6:.1f}M parameters, batch {config.data.batch_size} x {config.model.context}")
    print(f"floor {1e3 * flops / rate:.1f} ms a step, at {rate / 1e9:,.0f} GFLOP/s of a plain matrix product")
    print(f"{'':12}{'ms':>9}{'tokens/s':>11}{'of floor':>10}{'MFU':>7}{'peak MB':>9}")
    for name, timing in (("lacy_jax", ours), ("PyTorch", theirs)):
        if timing is None:
            continue
        mfu = f"{flops / timing.median / peak:.1%}" if peak else "-"
        line = f"{name:12}{1e3 * timing.median:9.1f}{tokens / timing.median:11,.0f}"
        print(f"{line}{flops / rate / timing.median:10.0%}{mfu:>7}{timing.peak_bytes / 1e6:9,.0f}")
    if theirs is not None:
        ratios = [other / own for own, other in zip(ours.seconds, theirs.seconds, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"speed, lacy_jax / PyTorch: {middle:.3f} (quartiles {low:.3f} .. {high:.3f}, {len(ratios)} rounds)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses options, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/slm_tiny.py")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    parser.add_argument("--method", default="ntp", choices=sorted(METHODS))
    parser.add_argument("--peer", default="torch", choices=("torch", "none"))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--repeat", type=int, default=3, help="steps in a row that are timed as one")
    options = parser.parse_args(arguments)
    keep_freed_memory()  # as main does
    config = method_config(options.config, options.method, options.set)
    ours, theirs, rate = measure(config, peer=options.peer == "torch", rounds=options.rounds, repeat=options.repeat)
    report(config, ours, theirs, rate=rate)


if __name__ == "__main__":
    answered(main)
