"""Two runs in one folder, and batches that give NaN."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.fault_cases.common import Ended, Outcome, Row, Scene, Sizes, door_command, result
from lacy_jax.checkpoints.loading import load_model


def two_runs(scene: Scene, sizes: Sizes) -> Iterator[Row]:
    """The second is refused in one line that names the first, and the first comes to its end as if alone."""
    outcomes = list[Outcome]()
    for number in range(sizes.stops):
        workdir = scene.folder / f"shared{number}"
        words = scene.training(workdir=workdir)
        with scene.started(door_command("main", *words), stderr=subprocess.DEVNULL) as first:
            while first.poll() is None and not (workdir / ".lock").exists():
                time.sleep(0.05)
            second = scene.door("main", *words)
            first.wait(900)
        outcomes.append(_refused(second, holder=first.pid, right=result(workdir) == result(scene.run)))
        shutil.rmtree(workdir)
    yield Row("two runs in one folder", outcomes)


def _refused(second: Ended, *, holder: int, right: bool) -> Outcome:
    if not right:
        return "lost"
    if second.status == 0:  # the first had ended: it found a finished run
        return "survived"
    return "clear" if second.refused and str(holder) in second.said else "traceback"


def not_finite(scene: Scene, sizes: Sizes) -> Iterator[Row]:
    """One or two batches of NaN are skipped; after more in a row than allowed the run ends with a line and status 3."""
    skipped, ended = list[Outcome](), list[Outcome]()
    for number in range(sizes.stops):
        first = number % 6 + 1
        skipped.append(_spoiled(scene, [first, first + 1][: number % 2 + 1], status=0))
        ended.append(_spoiled(scene, [5, 6, 7, 8], status=3) if number % 2 else _spoiled(scene, [*range(12)], status=3))
    yield Row("NaN in one or two batches", skipped)
    yield Row("NaN in four batches or more in a row", ended)


def _spoiled(scene: Scene, batches: list[int], *, status: int) -> Outcome:
    workdir = scene.folder / "spoiled"
    words = [sys.executable, "-m", "benchmarks.fault_cases.spoiled", ",".join(map(str, batches))]
    run = scene.command([*words, *scene.training(workdir=workdir)])
    finite = all(_is_finite(step) for step in (workdir / "checkpoints").glob("*") if step.name.isdecimal())
    strict = _is_strict(workdir / "metrics.jsonl")
    shutil.rmtree(workdir)
    if run.broken:
        return "traceback"
    if not finite or not strict or run.status != status:
        return "silent"
    return "clear" if status else "survived"


def _is_finite(step: Path) -> bool:
    import jax

    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(load_model(str(step)).params))


def _is_strict(log: Path) -> bool:
    """Whether every line is JSON for a reader that knows no NaN."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        for line in log.read_text().splitlines() if log.exists() else []:
            json.loads(line, parse_constant=refuse)
    except ValueError:
        return False
    return True
