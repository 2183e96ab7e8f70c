"""SIGKILL and SIGSTOP at every stage of a run, from its first import to its last save."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from benchmarks.fault_cases.common import Outcome, Row, Scene, Sizes, door_command, result
from benchmarks.fault_cases.victim import STAGES


def kills(scene: Scene, sizes: Sizes) -> Iterator[Row]:
    """Chains: one folder, killed at each stage in turn, each time started by the same command, and at last left alone.

    A chain has survived where it ends with the bits, and the records, of a run that was never killed.
    """
    outcomes, seconds = dict[str, list[Outcome]](), list[float]()
    chains = range(-(-sizes.kills // len(STAGES)))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        ended = pool.map(lambda number: _chain(scene, scene.folder / f"chain{number}", rng=Random(number)), chains)
    for killed, end, recovered in ended:
        seconds += recovered
        for stage in killed:
            outcomes.setdefault(stage, []).append(end)
    for stage, ends in outcomes.items():
        yield Row(f"SIGKILL, {stage}", ends)
    yield Row("SIGKILL, all", [end for ends in outcomes.values() for end in ends], seconds, "to the first step done")


def _chain(scene: Scene, folder: Path, *, rng: Random) -> tuple[list[str], Outcome, list[float]]:
    """The stages in which one run was killed, how it ended, and the seconds to the first step of each start."""
    folder.mkdir()
    words = scene.training(workdir=folder / "run", data=folder / "data")
    killed = []
    for stage in (*STAGES, "resume"):  # twice: where nothing was saved yet, the first of them goes to the run's end
        point = [stage, str(rng.choice(STAGES[stage][1])), str(rng.choice([0, rng.uniform(0, 400)]))]
        module = [sys.executable, "-m", "benchmarks.fault_cases.victim"]
        ended = scene.command([*module, *point, str(folder / "notes"), "main", *words])
        if ended.status == -signal.SIGKILL:
            killed.append(stage)
        elif ended.status:
            return killed, "traceback" if ended.broken else "lost", []
    last = scene.door("main", *words)
    same = not last.status and result(folder / "run") == result(scene.run)
    notes = folder / "notes"
    seconds = [float(line) for line in notes.read_text().split()] if notes.exists() else []
    shutil.rmtree(folder)
    if last.broken:
        return killed, "traceback", seconds
    return killed, "survived" if same else "silent" if not last.status else "lost", seconds


def stops(scene: Scene, sizes: Sizes) -> Iterator[Row]:
    """SIGSTOP for two seconds, then SIGCONT, at a random moment of a run: it ends as one that was never stopped."""
    rng, outcomes = Random(1), list[Outcome]()
    for number in range(sizes.stops):
        workdir = scene.folder / f"stopped{number}"
        words = door_command("main", *scene.training(workdir=workdir))
        with scene.started(words, stderr=subprocess.PIPE) as run:
            time.sleep(rng.uniform(0.5, 6))
            run.send_signal(signal.SIGSTOP)
            time.sleep(2)
            run.send_signal(signal.SIGCONT)
            said = run.communicate(timeout=900)[1].decode(errors="replace")
        same = result(workdir) == result(scene.run)
        outcomes.append("traceback" if "Traceback" in said else "survived" if same else "lost")
        shutil.rmtree(workdir)
    yield Row("SIGSTOP, 2 s", outcomes)
