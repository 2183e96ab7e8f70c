"""How long `serve` takes until it is ready, how many programs it compiles, and what memory that takes.

    python -m benchmarks.serve_start --checkpoint=runs/slm_tiny --partner=checkpoint:MODEL.gguf [--before=CHECKOUT]

Each start is a process of its own without a compilation cache. `--before` is another checkout of lacy_jax: starts of
both alternate. Beside the seconds stand those of the cores, which other programs on the machine disturb less. Linux
alone: memory is the kernel's word, /proc/PID/status.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from benchmarks.door import answered


class Started(NamedTuple):
    """seconds, cpu_seconds: until requests are answered. peak, resident: bytes at that moment."""

    seconds: float
    cpu_seconds: float
    programs: int
    peak: int
    resident: int


def start(checkout: Path, flags: list[str]) -> Started:
    """Starts and ends a server."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    began, programs = monotonic(), 0
    process = subprocess.Popen(
        [sys.executable, "-m", "lacy_jax.serve", "--port=0", *flags],
        cwd=checkout,
        env=environment | {"PYTHONPATH": str(checkout), "JAX_ENABLE_COMPILATION_CACHE": "false"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.match(r"(\d+) programs", line):
                programs = int(found[1])
            if line.startswith("serving "):
                break
        else:
            raise SystemExit(f"{checkout}: serve ended with status {process.wait()}")
        seconds, folder = monotonic() - began, Path(f"/proc/{process.pid}")
        ticks = sum(map(int, (folder / "stat").read_text().rpartition(")")[2].split()[11:13]))
        status = dict(re.findall(r"(\w+):\s+(\d+) kB", (folder / "status").read_text()))
        peak, resident = int(status["VmHWM"]) << 10, int(status["VmRSS"]) << 10
        return Started(seconds, ticks / os.sysconf("SC_CLK_TCK"), programs, peak, resident)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--partner", required=True)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    flags = [f"--checkpoint={Path(given.checkpoint).resolve()}", f"--partner={given.partner}"]
    trees = {"before": given.before} if given.before else {}
    trees["now"] = Path(__file__).parent.parent
    found: dict[str, list[Started]] = {name: [] for name in trees}
    for _ in range(given.rounds):
        for name, tree in trees.items():
            found[name].append(start(tree.resolve(), flags))
    print(f"{'':8} {'s':>7} {'cpu s':>7} {'programs':>9} {'peak MiB':>9} {'then MiB':>9}")
    for name, starts in found.items():
        middle = Started(*(statistics.median(values) for values in zip(*starts, strict=True)))
        print(
            f"{name:8} {middle.seconds:7.1f} {middle.cpu_seconds:7.1f} {middle.programs:9.0f} "
            f"{middle.peak / 2**20:9.0f} {middle.resident / 2**20:9.0f}"
        )


if __name__ == "__main__":
    answered(main)
