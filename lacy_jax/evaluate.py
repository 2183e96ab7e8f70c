"""Measure what a cascade writes: one checkpoint by a suite, or every method by a study.

    python -m lacy_jax.evaluate --suite=closed_world --checkpoint=runs/biographies-lacy_full
    python -m lacy_jax.evaluate --suite=real_text --checkpoint=runs/slm_tiny --budgets=0,0.22
    python -m lacy_jax.evaluate --study=configs/study_biographies.py --workdir=runs/study_biographies --workers=2

A suite prints its scores with 95% intervals and keeps what was generated in --out. A study trains what is missing, and
writes its page there; run again, it goes on where it was. docs/biographies.md and docs/real_text.md explain them.
"""

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging

from lacy_jax.checkpoint_flag import given_checkpoint
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.console import Reporter, reporting
from lacy_jax.data.files import write_whole
from lacy_jax.errors import CheckpointError, ConfigError, DataError, PartnerError
from lacy_jax.evidence.closed_world.biographies import TEMPERATURE
from lacy_jax.evidence.closed_world.decodes import ALONE, Decode, parse_decode
from lacy_jax.evidence.closed_world.kept import Evaluation
from lacy_jax.evidence.closed_world.scores import SCORES, score
from lacy_jax.evidence.closed_world.suite import MAIN_BUDGET, evaluate
from lacy_jax.evidence.study.page import write_study_page
from lacy_jax.evidence.study.plan import load_study
from lacy_jax.evidence.study.runs import run_study
from lacy_jax.measures.intervals import Interval, shown

_SUITE = flags.DEFINE_enum("suite", None, ["closed_world", "real_text"], "What to measure of one checkpoint")
_OUT = flags.DEFINE_string("out", None, "Where the suite keeps what it makes (default: <checkpoint>/<suite>)")
_PEOPLE = flags.DEFINE_integer("people", 128, "How many people are written about", lower_bound=1)
_KNOWN = flags.DEFINE_float("known", 0.9, "Share of the facts that the database knows", 0.0, 1.0)
_TEMPERATURE = flags.DEFINE_float("temperature", TEMPERATURE, "Of the draw; 0 is greedy", lower_bound=0.0)
_DECODE = flags.DEFINE_multi_string(
    "decode",
    [],
    "NAME:score=...,gate=...,span=...,budgets=0.1/0.22,partner=...; several times for several ways of calling; the"
    " partner is the database of facts, or as in lacy_jax.generate",
)
_BUDGETS = flags.DEFINE_string("budgets", "0,0.22", "real_text: shares of the tokens to delegate")
_PARTNER = flags.DEFINE_string("partner", "documents", "real_text: who answers calls, as in lacy_jax.generate")
_STUDY = flags.DEFINE_string("study", None, "A study file, e.g. configs/study_biographies.py or FILE.py:variant")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the study's runs lie (default: runs/<its name>)")
_WORKERS = flags.DEFINE_integer("workers", 1, "Runs of the study at once; on CPUs each gets its share of cores", 1)

_DEFAULT = (Decode("default", budgets=(0.1, 0.22, 0.5)),)
_PRINTED = ("strict", "precision", "right", "factscore", "unparsed", "rate", "on_facts", "unanswered")
_TOKENS_PRINTED = {
    "nll_factual": "NLL of facts",
    "nll_other": "of other tokens",
    "area_both": "ROC area of the score, for facts that are wrong alone",
    "precision": f"precision at {MAIN_BUDGET:.0%}",
    "recall": "recall",
}
# What each task takes; --checkpoint is of both suites.
_FLAGS = {
    "closed_world": ("checkpoint", "out", "people", "known", "temperature", "decode"),
    "real_text": ("checkpoint", "out", "people", "budgets", "partner"),
    "study": ("workdir", "workers"),
}


def main(argv: Sequence[str]) -> int:
    """Does what the flags ask for; 2 where they cannot be used, 1 where runs of a study failed."""
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise ConfigError(f"{argv[1]!r} is not a flag")
        if (_SUITE.value is None) == (_STUDY.value is None):
            raise ConfigError("give either --suite=closed_world or real_text with --checkpoint=..., or --study=FILE.py")
        _check_flags(_SUITE.value or "study")
        with reporting() as reporter:
            return _suite(reporter) if _SUITE.value else _run_study(reporter)
    except (ConfigError, DataError, CheckpointError, PartnerError) as error:
        print(f"evaluate: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _check_flags(task: str) -> None:
    """Raises `ConfigError` where a flag is given that the task has no use for: it would change nothing, silently."""
    takes = _FLAGS[task]
    for name in dict.fromkeys(name for names in _FLAGS.values() for name in names if name not in takes):
        if flags.FLAGS[name].present:
            of = f"--{task}" if task == "study" else f"--suite={task}"
            raise ConfigError(f"--{name} does not go with {of}, which takes --{', --'.join(takes)}")


def _suite(reporter: Reporter) -> int:
    out = Path(_OUT.value or f"{given_checkpoint().rstrip('/')}/{_SUITE.value}")
    lines = _closed_world(out, reporter) if _SUITE.value == "closed_world" else _real_text(out, reporter)
    reporter.finish()
    print("\n".join(lines))
    print(f"texts and their claims: {out}", file=sys.stderr)
    return 0


def _closed_world(out: Path, reporter: Reporter) -> list[str]:
    decodes = [parse_decode(text) for text in _DECODE.value] or list(_DEFAULT)
    names = [decode.name for decode in decodes if decode != ALONE]
    if len({*names, ALONE.name}) <= len(names):
        raise ConfigError(f"--decode: names must differ, also from {ALONE.name!r}; got {', '.join(names)}")
    slm = load_model(given_checkpoint())
    found = evaluate(
        slm,
        decodes=decodes,
        people=_PEOPLE.value,
        known=_KNOWN.value,
        temperature=_TEMPERATURE.value,
        out=out,
        progress=reporter.update,
    )
    return [*suite_table(found), "", *token_table(found)]


def _real_text(out: Path, reporter: Reporter) -> list[str]:
    """Markdown: a line a budget, each score with its bootstrap interval over people; records beside it."""
    from lacy_jax.evidence.real_text.suite import (  # spaCy, which training does without
        check_proxy,
        evaluate_real_text,
        find_people,
    )

    budgets = parse_budgets(_BUDGETS.value)
    slm = load_model(given_checkpoint())
    people = find_people(slm.config.corpus, count=_PEOPLE.value)
    out.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for budget in budgets:
        stage = f"budget {budget:g}"
        found = evaluate_real_text(
            slm,
            partner=_PARTNER.value,
            budget=budget,
            people=people,
            progress=lambda done, total, stage=stage: reporter.update(stage, done, total),  # type: ignore[misc]
        )
        records = "".join(f"{json.dumps(dataclasses.asdict(record), ensure_ascii=False)}\n" for record in found.records)
        write_whole(out / f"{budget:g}.jsonl", records.encode())
        scores = dataclasses.asdict(found.scores)
        if not lines:
            lines = [
                "| budget | " + " | ".join(name.replace("_", " ") for name in scores) + " |",
                "|---" * (len(scores) + 1) + "|",
            ]
        cells = [shown(value) for value in vars(found.scores).values()]
        lines.append(f"| {budget:g} | " + " | ".join(cells) + " |")
    held_out = sum(person.split == "validation" for person in people)
    proxy = check_proxy(people)
    return [
        *lines,
        "",
        f"{len(people)} people, {held_out} of them held out. Of the articles' own claims {proxy.own.estimate:.3f} "
        f"count as supported, {proxy.other.estimate:.3f} by another person's article.",
    ]


def parse_budgets(text: str) -> list[float]:
    """Comma-separated shares. Raises `ConfigError` where one is none."""
    try:
        budgets = [float(each) for each in text.split(",")]
    except ValueError:
        budgets = [-1.0]
    if not all(0.0 <= budget <= 1.0 for budget in budgets):
        raise ConfigError(f"--budgets={text}: allowed are shares, 0 to 1, separated by commas")
    return budgets


def suite_table(found: Evaluation) -> list[str]:
    """Markdown: a line a decode and budget, each score with its bootstrap interval over people."""
    lines = [
        "| decode | budget | " + " | ".join(SCORES[name].title for name in _PRINTED) + " |",
        "|---|---|" + "---|" * len(_PRINTED),
    ]
    for (decode, budget), people in found.judged.items():
        cells = []
        for name in _PRINTED:
            percent = SCORES[name].percent
            cells.append(shown(score(name, people), digits=1, scale=100 if percent else 1, unit="%" if percent else ""))
        lines.append(f"| {decode} | {budget:g} | " + " | ".join(cells) + " |")
    return lines


def token_table(found: Evaluation) -> list[str]:
    """Markdown: a line a score of tokens of held-out biographies, with bootstrap intervals over biographies."""
    lines = [
        "| tokens of held-out biographies, ranked by | " + " | ".join(_TOKENS_PRINTED.values()) + " |",
        "|---|" + "---|" * len(_TOKENS_PRINTED),
    ]
    for name, values in found.tokens["intervals"].items():
        cells = [shown(Interval(*values[each])) for each in _TOKENS_PRINTED]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _run_study(reporter: Reporter) -> int:
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
