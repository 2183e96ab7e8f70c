"""What every family of faults uses: a tiny run that is made once, doors as people start them, rows of the table."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

ROOT = Path(__file__).resolve().parent.parent.parent

# survived: ended as if nothing had happened. clear: one line at the door, nothing lost. silent: ended well, with
# another result. lost: the command, given again, does not come to the same end. traceback: a door printed one, or hung.
Outcome = Literal["survived", "clear", "silent", "lost", "traceback"]

CONFIG = """
from lacy_jax.config import base_config

from lacy_jax.presets import apply_variant


def get_config(variant=""):
    config = base_config()
    config.name = "tiny"
    apply_variant(config, "corpus=biographies")
    config.corpus.biographies.update(people=20, documents=240)
    config.corpus.validation_share = 0.1
    config.tokenizer.vocab_size = 420
    config.data.update(batch_size=4)
    config.model.update(layers=1, width=32, heads=2, context=32, compute_dtype="float32", layer_loop="unroll")
    config.training.update(steps=12, log_every=1, evaluate_every=4, checkpoint_every=4, evaluate_batches=2)
    config.optimizer.update(learning_rate=3e-3, warmup_steps=2)
    config.cascade.update(samples=0, partner="none", max_new_tokens=8)
    apply_variant(config, "method=lacy_full")
    return apply_variant(config, variant)
"""
TIMES = ("seconds", "tokens_per_second", "mfu")  # of a record of metrics.jsonl: they differ from run to run


@dataclass(frozen=True)
class Sizes:
    """How many faults of each kind are injected."""

    kills: int = 50
    flips: int = 1_000
    cuts: int = 200
    doors: int = 12
    stops: int = 10
    requests: int = 10_000
    connections: int = 500


QUICK = Sizes(kills=9, flips=40, cuts=20, doors=2, stops=2, requests=200, connections=50)


@dataclass(frozen=True)
class Row:
    """One line of the table: how the faults of one kind ended. seconds: of each recovery; note: what the line says."""

    kind: str
    outcomes: Sequence[Outcome]
    seconds: Sequence[float] = ()
    note: str = ""


@dataclass(frozen=True)
class Ended:
    """A door that has ended; status -1: it hung, and was stopped."""

    status: int
    said: str
    seconds: float

    @property
    def broken(self) -> bool:
        """Whether it printed a traceback, or hung."""
        return self.status == -1 or "Traceback" in self.said

    @property
    def refused(self) -> bool:
        """Whether it ended with one line, or one for each problem, and said that something is wrong."""
        return self.status != 0 and not self.broken and bool(self.said.strip())


def door_command(name: str, *words: str) -> list[str]:
    """The command that starts a door."""
    return [sys.executable, "-m", f"lacy_jax.{name}", *words]


@dataclass(frozen=True)
class Scene:
    """A finished run of 12 steps, with its prepared data and an export. Faults go into copies of them."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def export(self) -> Path:
        return self.folder / "export"

    def training(self, *, workdir: Path, data: Path | None = None) -> list[str]:
        """The words of the command that makes the run, in other folders."""
        config = self.folder / "tiny.py"
        return [f"--config={config}", f"--workdir={workdir}", f"--config.data.directory={data or self.data}"]

    def environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "TPU_SKIP_MDS_QUERY": "1"}
        own |= {"JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled")}
        return {**os.environ, **own, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def door(self, name: str, *words: str, timeout: float = 900) -> Ended:
        """Starts `python -m lacy_jax.NAME WORDS` and waits for its end."""
        return self.command(door_command(name, *words), timeout=timeout)

    def started(self, words: Sequence[str], *, stderr: IO[str] | int) -> subprocess.Popen[bytes]:
        """A command that runs in the scene's folder."""
        return subprocess.Popen(
            words, cwd=self.folder, env=self.environment(), stdout=subprocess.DEVNULL, stderr=stderr
        )

    def command(self, words: Sequence[str], *, timeout: float = 900) -> Ended:
        """Starts a command in the scene's folder and waits for its end."""
        started = time.monotonic()
        with tempfile.TemporaryFile("w+", errors="replace") as said:  # a pipe would wait for whoever else holds it
            with self.started(words, stderr=said) as process:
                try:
                    status = process.wait(timeout)
                except subprocess.TimeoutExpired:
                    process.kill()
                    status = -1
            said.seek(0)
            return Ended(status, said.read(), time.monotonic() - started)


def make_scene(folder: Path) -> Scene:
    """Prepares, trains and exports in `folder`."""
    scene = Scene(folder)
    (folder / "tiny.py").write_text(CONFIG)
    for name, words in (
        ("main", scene.training(workdir=scene.run)),
        ("export", [f"--checkpoint={scene.run}", f"--out={scene.export}"]),
    ):
        ended = scene.door(name, *words)
        if ended.status:
            raise SystemExit(f"the run without faults ended with {ended.status}:\n{ended.said}")
    return scene


def result(workdir: Path) -> tuple[Any, list[dict[str, Any]]]:
    """What a run came to: the checksums of its last state, and its records without times; (None, []) of none."""
    steps = [int(step.name) for step in (workdir / "checkpoints").glob("*") if step.name.isdecimal()]
    if not steps:
        return None, []
    meta = json.loads((workdir / "checkpoints" / str(max(steps)) / "meta" / "metadata").read_text())
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] != "goodput"]
    records = [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
    return (meta["step"], meta["checksums"]), records


def count(outcomes: Iterable[Outcome], kind: Outcome) -> int:
    """How many faults ended so."""
    return sum(outcome == kind for outcome in outcomes)
