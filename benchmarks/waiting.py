"""How long a user waits: from `lacy_jax.main` to its first step, of `lacy_jax.generate` for one token, of each --help.

    python -m benchmarks.waiting [--turns=3]

Data is prepared before. In each turn both commands run with an empty folder for compiled programs (cold), and then
with what the first start has kept there (warm). Beside wall time stand CPU seconds, which other work on the machine
changes less. The ratio is warm over cold, the median of the turns with the least and the most.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.door import answered

SETTINGS = (
    "--config=configs/slm_tiny.py",
    "--config.corpus.max_documents=150",
    "--config.corpus.validation_share=0.1",
    "--config.tokenizer.vocab_size=1000",
    "--config.training.steps=1",
)
DOORS = ("main", "prepare", "generate", "serve", "export", "adapt")


@dataclass(frozen=True)
class Waited:
    """Seconds on the clock, and of CPU."""

    wall: float
    cpu: float


def command(*words: str, cache: Path) -> Waited:
    """Runs a door in a process of its own, with its caches in a folder."""
    left = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", *words], env={**left, "LACY_CACHE": str(cache)}, capture_output=True, text=True
    )
    if process.returncode:
        raise SystemExit(f"{words[0]} ended with {process.returncode}: {process.stderr[-1000:]}")
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Waited(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def compared(name: str, run: Callable[[Path], Waited], *, turns: int, folder: Path) -> str:
    """A row of the table: cold, warm, and the ratio of each turn."""
    cold, warm = [], []
    for turn in range(turns):
        cache = folder / f"{name}-{turn}".replace(" ", "-")
        cold.append(run(cache))
        warm.append(run(cache))
    walls, cpus = ([[getattr(each, kind) for each in which] for which in (cold, warm)] for kind in ("wall", "cpu"))
    ratios = np.divide(cpus[1], cpus[0])
    cells = [f"{np.median(each):.1f}" for each in (*walls, *cpus)]
    return f"| {name} | {' | '.join(cells)} | {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}) |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=3)
    turns = parser.parse_args().turns
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = (*SETTINGS, f"--config.data.directory={folder / 'data'}")
        command("lacy_jax.prepare", *settings, cache=folder)
        run = folder / "run"

        def first_step(cache: Path) -> Waited:
            shutil.rmtree(run, ignore_errors=True)
            whole = command("lacy_jax.main", *settings, f"--workdir={run}", cache=cache)
            records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            steps = [each["seconds/wall"] for each in records if each["split"] == "goodput"]
            return Waited(steps[0], whole.cpu)

        def first_token(cache: Path) -> Waited:
            words = ("--partner=none", "--max_new_tokens=1", "--prompt=Warsaw is")
            return command("lacy_jax.generate", f"--checkpoint={run}", *words, cache=cache)

        print("| | cold, s | warm, s | cold, CPU s | warm, CPU s | warm / cold, CPU |\n|---|---|---|---|---|---|")
        print(compared("main to its first step; CPU of the run", first_step, turns=turns, folder=folder), flush=True)
        print(compared("generate, one token", first_token, turns=turns, folder=folder), flush=True)
        print("\n| --help of | s | CPU s |\n|---|---|---|")
        for door in DOORS:
            each = [command(f"lacy_jax.{door}", "--help", cache=folder) for _ in range(turns)]
            print(f"| {door} | {np.median([w.wall for w in each]):.2f} | {np.median([w.cpu for w in each]):.2f} |")


if __name__ == "__main__":
    answered(main)
