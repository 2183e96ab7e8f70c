"""Trains and evaluates what a study is missing: one process per run, several at once; whatever is finished is kept.

<workdir>/data/, data.txt               prepared data, shared, and what was said of it
<workdir>/<arm>/seed<k>/                a run of lacy_jax.main; log.txt has what it said
<workdir>/<arm>/seed<k>/closed_world/   its evaluation
"""

import concurrent.futures
import dataclasses
import os
import queue
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lacy_jax.evidence.closed_world.decodes import Decode, decode_text
from lacy_jax.evidence.study.done import Done, code_identity, read_done, write_done
from lacy_jax.evidence.study.plan import Arm, Study
from lacy_jax.runtime.parent import run_child

Report = Callable[[str, int, int], None]
DONE = "done"


@dataclass(frozen=True)
class Failure:
    """A run that ended with another status than 0; `log` says why."""

    arm: str
    seed: int
    log: Path


def run_directory(workdir: str | Path, *, arm: str, seed: int) -> Path:
    return Path(workdir) / arm / f"seed{seed}"


def evaluation_directory(workdir: str | Path, *, arm: str, seed: int) -> Path:
    return run_directory(workdir, arm=arm, seed=seed) / "closed_world"


def train_command(study: Study, arm: Arm, seed: int, *, workdir: str | Path) -> list[str]:
    """The command that trains one arm with one seed."""
    settings = {
        "training.seed": seed,
        "data.seed": seed,
        "data.directory": Path(workdir) / "data",
        **study.settings,
        **arm.settings,
    }
    if arm.reference:
        settings["objective.reference"] = run_directory(workdir, arm=arm.reference, seed=seed)
    return [
        *(sys.executable, "-m", "lacy_jax.main", f"--config={study.config}:method={arm.method}"),
        f"--workdir={run_directory(workdir, arm=arm.name, seed=seed)}",
        *(f"--config.{name}={value}" for name, value in settings.items()),
    ]


def evaluate_command(study: Study, arm: Arm, seed: int, *, workdir: str | Path) -> list[str]:
    """The command that evaluates it in all of its ways."""
    decodes = decodes_of(study, arm, workdir=workdir)
    return [*_suite_command(study, arm, seed, workdir=workdir), *(f"--decode={decode_text(each)}" for each in decodes)]


def decodes_of(study: Study, arm: Arm, *, workdir: str | Path) -> list[Decode]:
    """An arm's decodes; a partner that is another arm is the run of that arm with the first seed."""
    return [
        dataclasses.replace(decode, partner=str(run_directory(workdir, arm=decode.partner, seed=study.seeds[0])))
        if decode.partner in arm.partners
        else decode
        for decode in arm.decodes
    ]


def _suite_command(study: Study, arm: Arm, seed: int, *, workdir: str | Path) -> list[str]:
    return [
        *(sys.executable, "-m", "lacy_jax.evaluate", "--suite=closed_world"),
        f"--checkpoint={run_directory(workdir, arm=arm.name, seed=seed)}",
        f"--out={evaluation_directory(workdir, arm=arm.name, seed=seed)}",
        f"--people={study.people}",
        f"--known={study.known}",
        f"--temperature={study.temperature}",
    ]


def run_study(study: Study, *, workdir: str, workers: int, report: Report) -> list[Failure]:
    """Runs what is missing, `workers` at once, each after those that it needs; returns what failed.

    On CPUs every worker has cores of its own, so that runs do not slow each other down; what they read is prepared
    before, with all of them.
    """
    jobs = list(study.jobs())
    waiting = [job for job in jobs if not finished(study, *job, workdir=workdir)]
    _prepare(study, waiting, workdir=workdir, report=report)
    shares = queue.SimpleQueue[list[int]]()
    for cores in _shares(workers):
        shares.put(cores)

    def pin() -> None:
        if cores := shares.get():
            os.sched_setaffinity(0, cores)  # of this thread, and so of the processes that it starts

    running: dict[concurrent.futures.Future[bool], tuple[Arm, int]] = {}
    failures = []
    with concurrent.futures.ThreadPoolExecutor(workers, initializer=pin) as pool:
        while waiting or running:
            report("runs", len(jobs) - len(waiting) - len(running), len(jobs))
            missing = {(arm.name, seed) for arm, seed in [*waiting, *running.values()]}
            ready = [job for job in waiting if not study.needs(*job) & missing]
            for job in ready[: workers - len(running)]:
                waiting.remove(job)
                running[pool.submit(_run, study, *job, workdir=workdir)] = job
            ended, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in ended:
                arm, seed = running.pop(future)
                if not future.result():
                    failures.append(
                        Failure(arm.name, seed, run_directory(workdir, arm=arm.name, seed=seed) / "log.txt")
                    )
    report("runs", len(jobs), len(jobs))
    return failures


def _prepare(study: Study, jobs: Sequence[tuple[Arm, int]], *, workdir: str, report: Report) -> None:
    """Data for `jobs`, each kind once. Where it fails, so do the runs that want it, and their logs say why."""
    sections = ("corpus.", "tokenizer.", "annotate.", "rule.", "data.", "model.context")
    kinds = {
        tuple(f"--config.{name}={value}" for name, value in arm.settings.items() if name.startswith(sections))
        for arm, _ in jobs
    }
    # How long they train says nothing of the data, and an arm may say the rest of it.
    of_data = {name: value for name, value in study.settings.items() if not name.startswith("training.")}
    settings = {"data.directory": Path(workdir) / "data", **of_data}
    common = [f"--config={study.config}", *(f"--config.{name}={value}" for name, value in settings.items())]
    for done, kind in enumerate(sorted(kinds)):
        report("data", done, len(kinds))
        command = [sys.executable, "-m", "lacy_jax.prepare", *common, *kind]
        _logged(command, log=Path(workdir) / "data.txt")
    if kinds:
        report("data", len(kinds), len(kinds))


def finished(study: Study, arm: Arm, seed: int, *, workdir: str) -> Done | None:
    """What is noted of it, if it was trained by this very command and evaluated in all of these ways; else None."""
    done = read_done(evaluation_directory(workdir, arm=arm.name, seed=seed) / DONE)
    return done if done is not None and done.covers(_as_done(study, arm, seed, workdir=workdir)) else None


def mark_finished(study: Study, arm: Arm, seed: int, *, workdir: str, code: str) -> None:
    """Notes how it was trained, and all ways in which it was evaluated, for other studies before as well.

    code: that did it, as `done.code_identity` says it.
    """
    path = evaluation_directory(workdir, arm=arm.name, seed=seed) / DONE
    write_done(path, _as_done(study, arm, seed, workdir=workdir, code=code))


def _as_done(study: Study, arm: Arm, seed: int, *, workdir: str, code: str = "") -> Done:
    """What is noted of a run when it is finished."""
    both = train_command(study, arm, seed, workdir=workdir), _suite_command(study, arm, seed, workdir=workdir)
    trained, evaluated = (" ".join(command[1:]) for command in both)
    return Done(trained, evaluated, frozenset(decodes_of(study, arm, workdir=workdir)), frozenset({code}))


def _run(study: Study, arm: Arm, seed: int, *, workdir: str) -> bool:
    both = train_command(study, arm, seed, workdir=workdir), evaluate_command(study, arm, seed, workdir=workdir)
    log, code = run_directory(workdir, arm=arm.name, seed=seed) / "log.txt", code_identity()
    if not all(_logged(command, log=log) for command in both):
        return False
    mark_finished(study, arm, seed, workdir=workdir, code=code)
    return True


def _logged(command: Sequence[str], *, log: Path) -> bool:
    """Runs a command, whose words end up in a file; whether it went well."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        print("$", shlex.join(command), file=file, flush=True)
        # Runs at once on one GPU share its memory: the first would take three quarters of it.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
        return run_child(command, output=file, environment=environment) == 0


def _shares(workers: int) -> list[list[int]]:
    """The cores of each worker; empty lists where a system cannot pin, or there are fewer cores than workers."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if workers == 1 or len(cores) < workers:
        return [[] for _ in range(workers)]
    return [cores[index::workers] for index in range(workers)]
