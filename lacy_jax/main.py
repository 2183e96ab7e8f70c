"""Prepare, pretrain, sample and report: one command from text to a working cascade.

    python -m lacy_jax.main --config=configs/slm_tiny.py [--workdir=...] [--config.<section>.<setting>=...]

Repeat the command to continue a run; it says when the run is finished. --replay_step=11 shows what batch 11 holds.
"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from lacy_jax import flags
from lacy_jax.config import Config, Count
from lacy_jax.doors import Door, run
from lacy_jax.flags import Flag, Given
from lacy_jax.start import training_problems
from lacy_jax.training.profile import Given as ProfileSteps
from lacy_jax.training.profile import steps_problem

if TYPE_CHECKING:
    from lacy_jax.console import Reporter
    from lacy_jax.data.tokenizer import TextTokenizer
    from lacy_jax.training.goodput import Goodput

_FLAGS = (
    flags.CONFIG,
    flags.PRINT_CONFIG,
    Flag("workdir", flags.Path, "Where the run lies (default: runs/<config name>-<method>)"),
    Flag(
        "distributed",
        Literal["auto", "on", "off"],
        "Whether this is one process of several of one run; auto: where a TPU pod, GKE, slurm or MPI says so",
        "auto",
    ),
    Flag(
        "replay_step",
        Count,
        "Run the batch of this index again, print its documents, loss, gradient norm and rows, and save nothing",
    ),
    Flag(
        "profile_steps",
        ProfileSteps,
        "Trace these steps (from 1), as 10:12, with jax.profiler, into <workdir>/profile (docs/training.md)",
    ),
)


def main(given: Given) -> int:
    """The whole job; returns 0 when the run is finished, 143 when a signal stopped it (3: see `NotFiniteError`)."""
    began = time.monotonic()
    from lacy_jax.runtime.allocator import keep_freed_memory
    from lacy_jax.runtime.distributed import claimed_by_all, initialize

    keep_freed_memory()
    initialize(given.distributed)
    import jax

    from lacy_jax.console import reporting
    from lacy_jax.training.goodput import Goodput

    config, tokenizer, workdir = given.config, given.tokenizer, given.workdir or given.config.workdir
    with reporting(quiet=jax.process_index() > 0) as reporter:
        if given.replay_step is not None:  # changes nothing there
            return _replay(config, tokenizer, workdir=workdir, batch=given.replay_step, reporter=reporter)
        with claimed_by_all(workdir, say=reporter.say):
            return _run(given, workdir=workdir, reporter=reporter, goodput=Goodput(since=began))


def _replay(
    config: Config, tokenizer: "TextTokenizer | None", *, workdir: str, batch: int, reporter: "Reporter"
) -> int:
    import jax

    from lacy_jax.data.prepare import prepare
    from lacy_jax.training.replay import replay

    prepared = prepare(config, tokenizer=tokenizer, progress=reporter.update)
    lines = replay(config, prepared=prepared, workdir=workdir, batch=batch, reporter=reporter)
    reporter.finish()
    if jax.process_index() == 0:
        print("\n".join(lines))
    return 0


def _run(given: Given, *, workdir: str, reporter: "Reporter", goodput: "Goodput") -> int:
    import jax

    from lacy_jax.cascade.partners import describe_partner
    from lacy_jax.console import duration
    from lacy_jax.data.marks import say_marks
    from lacy_jax.data.prepare import prepare
    from lacy_jax.evidence.run_report.report import make_sample_partner, report_run
    from lacy_jax.training.announce import describe_long_run
    from lacy_jax.training.loop import train

    config, started = given.config, time.monotonic()
    if long := describe_long_run(config):
        reporter.say(long)
    prepared = prepare(config, tokenizer=given.tokenizer, progress=reporter.update)
    reporter.finish()
    for line in say_marks(prepared):
        reporter.say(line)
    # One that cannot be made ends a run before its first step.
    if jax.process_count() == 1 and make_sample_partner(config, prepared=prepared) is not None:
        reporter.say(
            f"partner     {describe_partner(config.cascade.partner, corpus=config.corpus)}, for the report's samples"
        )
    result = train(
        config, prepared=prepared, workdir=workdir, reporter=reporter, goodput=goodput, profile=given.profile_steps
    )
    reporter.finish()
    if not result.finished:
        reporter.say(f"stopped at step {result.step:,}, which is saved; the same command goes on from there")
        return 143
    reporter.say(f"finished at step {result.step:,} after {duration(time.monotonic() - started)}")
    reporter.say(f"checkpoint  {workdir}/checkpoints")
    if jax.process_count() > 1:
        # One device would write it, and all others would wait for that.
        reporter.say(
            "report      written by the same command with --distributed=off, on one machine that can hold the training "
            "state, and with that machine's config.mesh"
        )
        return 0
    path = report_run(config, prepared=prepared, workdir=workdir, command=given.command, reporter=reporter)
    reporter.finish()
    reporter.say(f"report      {path}")
    return 0


def _problems(config: Config, given: Given) -> Iterator[str]:
    workdir = given.workdir or config.workdir
    yield from training_problems(config, workdir=workdir)
    if problem := steps_problem(given.profile_steps, config, workdir=workdir):
        yield problem


DOOR = Door(
    "main",
    __doc__,
    _FLAGS,
    main,
    prefix="error",
    hint=flags.SETTINGS_HINT,
    check=_problems,
)

if __name__ == "__main__":
    run(DOOR)
