"""Prepare, pretrain, sample and report: one command from text to a working cascade.

    python -m lacy_jax.main --config=configs/slm_tiny.py [--workdir=...] [--config.<field>=...]

The same command again continues a run, or tells that it is finished.
"""

import shlex
import sys
import time

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from lacy_jax.checks import parse
from lacy_jax.config import Config
from lacy_jax.console import Reporter, duration, reporting
from lacy_jax.data.prepare import prepare
from lacy_jax.errors import CheckpointError, ConfigError, DataError, MeshError
from lacy_jax.evidence.run_report.report import report_run
from lacy_jax.runtime.allocator import keep_freed_memory
from lacy_jax.runtime.distributed import initialize
from lacy_jax.training.loop import train

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/slm_tiny.py:method=lacy")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lies (default: runs/<config name>-<method>)")
_DISTRIBUTED = flags.DEFINE_enum(
    "distributed",
    "auto",
    ["auto", "on", "off"],
    "Whether this is one process of several of one run; auto: where a TPU pod, GKE, slurm or MPI tells so",
)
flags.mark_flag_as_required("config")


def run(config: Config, *, workdir: str, command: str, reporter: Reporter) -> int:
    """The whole job; returns the exit status: 0 when the run is finished, 143 when a signal stopped it."""
    started = time.monotonic()
    prepared = prepare(config, progress=reporter.update)
    reporter.finish()
    result = train(config, prepared=prepared, workdir=workdir, reporter=reporter)
    reporter.finish()
    if not result.finished:
        reporter.say(f"stopped at step {result.step:,}, which is saved; the same command goes on from there")
        return 143
    reporter.say(f"finished at step {result.step:,} after {duration(time.monotonic() - started)}")
    reporter.say(f"checkpoint  {workdir}/checkpoints")
    if jax.process_count() > 1:
        # Reading a checkpoint with some of a run's processes would wait for the others.
        reporter.say(
            "report      written by the same command with --distributed=off, on one machine that can hold the training "
            "state, and with that machine's config.mesh"
        )
        return 0
    path = report_run(config, prepared=prepared, workdir=workdir, command=command, reporter=reporter)
    reporter.finish()
    reporter.say(f"report      {path}")
    return 0


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    keep_freed_memory()
    try:
        initialize(_DISTRIBUTED.value)  # type: ignore[arg-type]
    except MeshError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    index = jax.process_index()
    with reporting(quiet=index > 0) as reporter:
        try:
            if len(argv) > 1:
                raise ConfigError(f"unexpected argument {argv[1]!r}; settings are given as --config.<field>=<value>")
            config = parse(_CONFIG.value)
            workdir = _WORKDIR.value or f"runs/{config.name}-{config.method}"
            command = shlex.join([sys.executable.rsplit("/", 1)[-1], "-m", "lacy_jax.main", *sys.argv[1:]])
            return run(config, workdir=workdir, command=command, reporter=reporter)
        except (ConfigError, DataError, CheckpointError, MeshError) as error:
            reporter.finish()
            # Of several processes the others are quiet, but what is wrong on one machine only it can tell.
            print(f"process {index}: error: {error}" if index else f"error: {error}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    app.run(main)
