"""Which wrong tokens matter: section 3 of the paper, with any OpenAI-compatible judge (docs/factscore.md).

    python -m lacy_jax.acceptability --checkpoint=runs/slm_334m --judge=http://localhost:8000/v1 --judge_model=NAME \
        --out=acceptability --dry_run

Writes <out>/acceptability.html and <out>/mismatches.jsonl.
"""

import dataclasses
import functools
import itertools
import shlex
import sys
from pathlib import Path

from absl import app, flags, logging

from lacy_jax.checkpoint_flag import given_checkpoint
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.console import Reporter, reporting
from lacy_jax.data.prepare import prepare
from lacy_jax.errors import CheckpointError, ConfigError, DataError, JudgeError
from lacy_jax.evidence.acceptability import mismatches as acceptability
from lacy_jax.evidence.acceptability.page import write_acceptability_page
from lacy_jax.evidence.factscore.scoring import write_lines
from lacy_jax.judge_flags import DRY_RUN, OUT, judge_from_flags, tell
from lacy_jax.measures.intervals import shown

_DOCUMENTS = flags.DEFINE_integer("documents", 112, "Held-out documents that are read (the paper: 112)", lower_bound=1)
_MISMATCHES = flags.DEFINE_integer("mismatches", 2_000, "How many of the mismatches the judge sees", lower_bound=1)


def main(argv: list[str]) -> int:
    """Returns 1 where the judge left something unanswered, 2 where the flags cannot be used."""
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise ConfigError(f"{argv[1]!r} is not a flag")
        with reporting() as reporter:
            return _judge(given_checkpoint(), reporter)
    except (ConfigError, DataError, CheckpointError, JudgeError) as error:
        print(f"acceptability: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _judge(checkpoint: str, reporter: Reporter) -> int:
    judge = judge_from_flags()
    slm = load_model(checkpoint)
    prepared = prepare(slm.config, progress=reporter.update)
    documents = list(itertools.islice(prepared.validation_documents(), _DOCUMENTS.value))
    targets = acceptability.read_targets(slm, documents)
    mismatches = acceptability.draw_mismatches(targets, count=_MISMATCHES.value)
    questions = [acceptability.question(each) for each in mismatches]
    tell("judge mismatches", judge.cost(questions, max_tokens=acceptability.VERDICT_TOKENS))
    if DRY_RUN.value:
        return 0
    verdicts = acceptability.judge_mismatches(
        judge, mismatches, progress=functools.partial(reporter.update, "judge mismatches")
    )
    reporter.finish()
    out = Path(OUT.value or "")
    rows = [dataclasses.asdict(each) | {"verdict": v} for each, v in zip(mismatches, verdicts, strict=True)]
    write_lines(str(out / "mismatches.jsonl"), rows)
    predicted = acceptability.predict(targets, mismatches, verdicts)
    page = str(out / "acceptability.html")
    write_acceptability_page(
        page,
        targets=targets,
        mismatches=mismatches,
        verdicts=verdicts,
        predicted=predicted,
        judge=judge.model,
        command=f"python -m lacy_jax.acceptability {shlex.join(sys.argv[1:])}",
    )
    print("| predictor | a mismatch, among all tokens | not acceptable, among judged mismatches |\n|---|---|---|")
    for name in acceptability.PREDICTORS:
        print(f"| {name} | {shown(predicted.mismatch[name])} | {shown(predicted.unacceptable[name])} |")
    print(f"page: {page}", file=sys.stderr)
    if judge.failures:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in judge.failures.items())
        print(f"acceptability: questions without an answer ({reasons}) are left out; the same command asks only those "
              "again", file=sys.stderr)  # fmt: skip
    return 1 if judge.failures else 0


if __name__ == "__main__":
    app.run(main)
