"""Faults injected into a tiny run: how many are survived, refused in one line, lost, or go unnoticed.

    python -m benchmarks.faults [--quick] [--only=kills,flips] [--keep=FOLDER]

A run of 12 steps of the closed world is made once, on the CPU; faults go into copies of it. "clear" is one line at the
door. "silent", "lost" and "traceback" must be 0, or the status is 1. See docs/faults.md.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.door import answered
from benchmarks.fault_cases import damage, disks, folders, kills, runs, server
from benchmarks.fault_cases.common import QUICK, Outcome, Row, Scene, Sizes, count, make_scene

FAMILIES: dict[str, Callable[[Scene, Sizes], Iterator[Row]]] = {
    "kills": kills.kills,
    "stops": kills.stops,
    "flips": damage.flips,
    "cuts": damage.cuts,
    "full": disks.full,
    "read_only": disks.read_only,
    "two_runs": runs.two_runs,
    "not_finite": runs.not_finite,
    "requests": server.requests,
    "connections": server.connections,
    "folders": folders.hostile,
}
BAD: tuple[Outcome, ...] = ("silent", "lost", "traceback")
WIDTHS: dict[Outcome, int] = {"survived": 8, "clear": 6, "silent": 6, "lost": 5, "traceback": 9}
TITLE = f"{'fault':48} {'injected':>8} {' '.join(f'{kind:>{width}}' for kind, width in WIDTHS.items())}  recovery"


def line(row: Row) -> str:
    """A row of the table; the recovery is the median and the largest of its seconds."""
    cells = " ".join(f"{count(row.outcomes, kind):{width},}" for kind, width in WIDTHS.items())
    recovery = ""
    if row.seconds:
        recovery = f"{statistics.median(row.seconds):.1f} s, at most {max(row.seconds):.1f}"
    return f"{row.kind:48} {len(row.outcomes):8,} {cells}  {recovery}{f' ({row.note})' if row.note else ''}".rstrip()


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(FAMILIES), help="families, separated by commas")
    parser.add_argument("--quick", action="store_true", help="a few faults of each kind: minutes")
    parser.add_argument("--keep", type=Path, help="the folder to work in, which is kept")
    given = parser.parse_args(words)
    if unknown := set(given.only.split(",")) - set(FAMILIES):
        parser.error(f"--only={given.only}: there is no {', '.join(sorted(unknown))}; there are {', '.join(FAMILIES)}")
    with tempfile.TemporaryDirectory(prefix="lacy_jax-faults-") as temporary:
        folder = (given.keep or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        scene = make_scene(folder)
        print(TITLE, flush=True)
        bad = 0
        for family in given.only.split(","):
            for row in FAMILIES[family](scene, QUICK if given.quick else Sizes()):
                print(line(row), flush=True)
                bad += sum(count(row.outcomes, kind) for kind in BAD)
        print(f"{(time.monotonic() - started) / 60:.1f} minutes")
    return 1 if bad else 0


if __name__ == "__main__":
    answered(main)
