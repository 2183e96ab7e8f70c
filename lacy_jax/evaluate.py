"""Measure what a cascade writes: one checkpoint by a suite, or every method by a study.

    python -m lacy_jax.evaluate --suite=closed_world --checkpoint=runs/biographies-lacy_full
    python -m lacy_jax.evaluate --suite=real_text --checkpoint=runs/slm_tiny --budgets=0,0.22
    python -m lacy_jax.evaluate --study=configs/study_biographies.py --workdir=runs/study_biographies --workers=2

A suite prints its scores with 95% intervals and keeps what was generated in --out. A study trains what is missing, and
writes its page there; repeat the command to go on. docs/biographies.md and docs/real_text.md explain them.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lacy_jax import flags, from_flags
from lacy_jax.config import Positive, Share
from lacy_jax.doors import Door, run
from lacy_jax.errors import ConfigError
from lacy_jax.flags import Flag, Given
from lacy_jax.start import check_writable

if TYPE_CHECKING:
    from lacy_jax.console import Reporter

_SUITE = (  # what suites are asked with, as `evidence.suites.Settings`
    Flag("people", Positive, "How many people are written about", 128),
    Flag("known", Share, "closed_world: share of the facts that the database knows", 0.9),
    replace(
        flags.TEMPERATURE,
        help="closed_world: temperature of the draw; 0 is greedy (default: the study's)",
        default=None,
    ),
    Flag(
        "decode",
        list[str],
        'closed_world: a way to call, in JSON, as {"name": "mine", "score": "call_score", "budgets": [0.1, 0.22]}; '
        "several times for several ways. Further fields are gate, span and partner, which is the database of facts, or "
        "as in lacy_jax.generate",
        [],
    ),
    Flag("budgets", str, "real_text: shares of the tokens to delegate", "0,0.22"),
    replace(flags.PARTNER, help="real_text: who answers calls, as in lacy_jax.generate", default="documents"),
)
_STUDY = (
    Flag("workdir", flags.Path, "Where the study's runs lie (default: runs/<its name>)"),
    Flag("workers", Positive, "Runs of the study at once; on CPUs each gets its share of cores", 1),
)
_FLAGS = (
    Flag("suite", flags.Text, "What to measure of one checkpoint: closed_world, real_text, or another package's suite"),
    flags.CHECKPOINT,
    replace(flags.OUT, help="Where the suite keeps what it makes (default: <checkpoint>/<suite>)"),
    *_SUITE,
    Flag("study", flags.Text, "A study file, as configs/study_biographies.py or FILE.py:variant"),
    *_STUDY,
)


def main(given: Given) -> int:
    """Does what the flags ask for; returns 1 where runs of a study failed."""
    if (given.suite is None) == (given.study is None):
        raise ConfigError("give either --suite=closed_world or real_text with --checkpoint=..., or --study=FILE.py")
    from lacy_jax.console import reporting

    with reporting() as reporter:
        return _run_study(given, reporter) if given.study else _run_suite(given, reporter)


def _check_flags(given: Given, *, task: str, takes: Sequence[str]) -> None:
    """Raises `ConfigError` where a flag is given that the task has no use for: it would change nothing, silently."""
    wrong = [flag.name for flag in _FLAGS if flag.name in given.names and flag.name not in (*takes, "suite", "study")]
    if wrong:
        raise ConfigError(*(f"--{name} does not go with {task}, which takes --{', --'.join(takes)}" for name in wrong))


def _run_suite(given: Given, reporter: "Reporter") -> int:
    from lacy_jax.checkpoints.loading import load_model
    from lacy_jax.evidence.closed_world.biographies import TEMPERATURE
    from lacy_jax.evidence.closed_world.decodes import DATABASE, parse_decode
    from lacy_jax.evidence.suites import Settings, load_suite

    suite = load_suite(given.suite)
    _check_flags(given, task=f"--suite={given.suite}", takes=("checkpoint", "out", *suite.FLAGS))
    checkpoint = from_flags.given_checkpoint(given)
    out = given.out or f"{checkpoint.rstrip('/')}/{given.suite}"
    check_writable("--out", out)
    own = {flag.name: getattr(given, flag.name) for flag in _SUITE}
    own["temperature"] = TEMPERATURE if given.temperature is None else given.temperature
    settings = Settings(**own | {"decode": tuple(given.decode)})

    slm = load_model(checkpoint)
    if flags.PARTNER.name in suite.FLAGS:
        from_flags.say_partner(settings.partner, slm.config)
        from_flags.warn_of_calibration(slm, replace(slm.config.cascade, partner=settings.partner))
    for spec in dict.fromkeys(parse_decode(text).partner for text in settings.decode):
        if spec != DATABASE:
            from_flags.say_partner(spec, slm.config)
    lines = suite.run(slm, settings, out=Path(out), progress=reporter.update)
    reporter.finish()
    print("\n".join(lines))
    print(f"texts and their claims: {out}", file=sys.stderr)
    return 0


def _run_study(given: Given, reporter: "Reporter") -> int:
    _check_flags(given, task="--study", takes=("workdir", "workers"))
    from lacy_jax.checkpoints.format import check_savable
    from lacy_jax.evidence.study.page import write_study_page
    from lacy_jax.evidence.study.plan import load_study
    from lacy_jax.evidence.study.runs import run_study
    from lacy_jax.runtime.claims import claimed

    study = load_study(given.study)
    workdir = given.workdir or f"runs/{study.name}"
    check_writable("--workdir", workdir)
    check_savable(workdir, name="--workdir")
    with claimed(workdir, say=reporter.say):
        failures = run_study(study, workdir=workdir, workers=given.workers, report=reporter.update)
    reporter.finish()
    for failure in failures:
        reporter.say(f"failed      {failure.arm}, seed {failure.seed}: see {failure.log}")
    page = write_study_page(study, workdir=workdir, command=given.command)
    reporter.say(f"study       {page}")
    return 1 if failures else 0


DOOR = Door("evaluate", __doc__, _FLAGS, main)

if __name__ == "__main__":
    run(DOOR)
