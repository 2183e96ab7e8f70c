"""Measure what a cascade writes: one checkpoint by a suite, or every method by a study.

    python -m lacy_jax.evaluate --suite=closed_world --checkpoint=runs/biographies-lacy_full
    python -m lacy_jax.evaluate --suite=real_text --checkpoint=runs/slm_tiny --budgets=0,0.22
    python -m lacy_jax.evaluate --study=configs/study_biographies.py --workdir=runs/study_biographies --workers=2

A suite prints its scores with 95% intervals and keeps what was generated in --out. A study trains what is missing, and
writes its page there; run again, it goes on where it was. docs/biographies.md and docs/real_text.md explain them.
"""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging

from lacy_jax.checkpoint_flag import given_checkpoint
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.console import Reporter, reporting
from lacy_jax.errors import CheckpointError, ConfigError, DataError, PartnerError
from lacy_jax.evidence.closed_world.biographies import TEMPERATURE
from lacy_jax.evidence.closed_world.decodes import EXAMPLE as DECODE_EXAMPLE
from lacy_jax.evidence.study.page import write_study_page
from lacy_jax.evidence.study.plan import load_study
from lacy_jax.evidence.study.runs import run_study
from lacy_jax.evidence.suites import SUITES, Settings, load_suite

_SUITE = flags.DEFINE_string("suite", None, f"What to measure of one checkpoint: {', '.join(SUITES.built_in)}")
_OUT = flags.DEFINE_string("out", None, "Where the suite keeps what it makes (default: <checkpoint>/<suite>)")
_PEOPLE = flags.DEFINE_integer("people", 128, "How many people are written about", lower_bound=1)
_KNOWN = flags.DEFINE_float("known", 0.9, "Share of the facts that the database knows", 0.0, 1.0)
_TEMPERATURE = flags.DEFINE_float("temperature", TEMPERATURE, "Of the draw; 0 is greedy", lower_bound=0.0)
_DECODE = flags.DEFINE_multi_string(
    "decode",
    [],
    f"closed_world: a way to call, in JSON, as {DECODE_EXAMPLE}; several times for several ways. Further fields are"
    " gate, span and partner, which is the database of facts, or as in lacy_jax.generate",
)
_BUDGETS = flags.DEFINE_string("budgets", "0,0.22", "real_text: shares of the tokens to delegate")
_PARTNER = flags.DEFINE_string("partner", "documents", "real_text: who answers calls, as in lacy_jax.generate")
_STUDY = flags.DEFINE_string("study", None, "A study file, e.g. configs/study_biographies.py or FILE.py:variant")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the study's runs lie (default: runs/<its name>)")
_WORKERS = flags.DEFINE_integer("workers", 1, "Runs of the study at once; on CPUs each gets its share of cores", 1)


def main(argv: Sequence[str]) -> int:
    """Does what the flags ask for; 2 where they cannot be used, 1 where runs of a study failed."""
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise ConfigError(f"{argv[1]!r} is not a flag")
        if (_SUITE.value is None) == (_STUDY.value is None):
            raise ConfigError(
                f"give either --suite={' or '.join(SUITES.names())} with --checkpoint=..., or --study=FILE.py"
            )
        with reporting() as reporter:
            return _run_study(reporter) if _SUITE.value is None else _run_suite(_SUITE.value, reporter)
    except (ConfigError, DataError, CheckpointError, PartnerError) as error:
        print(f"evaluate: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _check_flags(task: str, takes: Sequence[str]) -> None:
    """Raises `ConfigError` where a flag is given that the task has no use for: it would change nothing, silently."""
    settings = [field.name for field in dataclasses.fields(Settings)]
    for name in ("checkpoint", "out", *settings, "workdir", "workers"):
        if name not in takes and flags.FLAGS[name].present:
            raise ConfigError(f"--{name} does not go with {task}, which takes --{', --'.join(takes)}")


def _run_suite(name: str, reporter: Reporter) -> int:
    suite = load_suite(name)
    _check_flags(f"--suite={name}", ("checkpoint", "out", *suite.FLAGS))
    checkpoint = given_checkpoint()
    out = Path(_OUT.value or f"{checkpoint.rstrip('/')}/{name}")
    settings = Settings(
        people=_PEOPLE.value,
        known=_KNOWN.value,
        temperature=_TEMPERATURE.value,
        decode=tuple(_DECODE.value),
        budgets=_BUDGETS.value,
        partner=_PARTNER.value,
    )
    lines = suite.run(load_model(checkpoint), settings, out=out, progress=reporter.update)
    reporter.finish()
    print("\n".join(lines))
    print(f"texts and their claims: {out}", file=sys.stderr)
    return 0


def _run_study(reporter: Reporter) -> int:
    _check_flags("--study", ("workdir", "workers"))
    study = load_study(_STUDY.value or "")
    workdir = _WORKDIR.value or f"runs/{study.name}"
    command = shlex.join(["python", "-m", "lacy_jax.evaluate", *sys.argv[1:]])
    failures = run_study(study, workdir=workdir, workers=_WORKERS.value, report=reporter.update)
    reporter.finish()
    for failure in failures:
        reporter.say(f"failed      {failure.arm}, seed {failure.seed}: see {failure.log}")
    page = write_study_page(study, workdir=workdir, command=command)
    reporter.say(f"study       {page}")
    return 1 if failures else 0


if __name__ == "__main__":
    app.run(main)
