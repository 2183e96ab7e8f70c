r"""Which wrong tokens matter: section 3 of the paper, with any OpenAI-compatible judge (docs/factscore.md).

    python -m lacy_jax.acceptability --checkpoint=runs/slm_334m --judge=http://localhost:8000/v1 --judge_model=NAME \
        --out=acceptability --dry_run

Writes <out>/acceptability.html and <out>/mismatches.jsonl.
"""

import dataclasses
import functools
import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lacy_jax import flags, from_flags
from lacy_jax.config import Positive
from lacy_jax.doors import Door, run
from lacy_jax.errors import ConfigError, DataError
from lacy_jax.flags import Flag, Given

if TYPE_CHECKING:
    from lacy_jax.checkpoints.loading import LoadedModel
    from lacy_jax.console import Reporter
    from lacy_jax.data.prepared import Prepared
    from lacy_jax.evidence.judge import Judge

_FLAGS = (
    flags.CHECKPOINT,
    *flags.JUDGE,
    flags.OWN_CORPUS,
    Flag("documents", Positive, "Held-out documents that are read (the paper: 112)", 112),
    Flag("mismatches", Positive, "How many of the mismatches the judge sees", 2_000),
)


def main(given: Given) -> int:
    """Judges mismatches, and writes the page; returns 1 where the judge left something unanswered."""
    from_flags.given_checkpoint(given)
    judge = from_flags.given_judge(given)
    from lacy_jax.console import reporting

    with reporting() as reporter:
        return _judge(given, judge=judge, reporter=reporter)


def _judge(given: Given, *, judge: "Judge", reporter: "Reporter") -> int:
    from lacy_jax.checkpoints.loading import load_model
    from lacy_jax.evidence.acceptability import mismatches as acceptability
    from lacy_jax.evidence.acceptability.page import write_acceptability_page
    from lacy_jax.evidence.factscore.scoring import write_lines
    from lacy_jax.measures.intervals import shown

    slm = load_model(from_flags.given_checkpoint(given))
    prepared = _own_data(slm, given, reporter=reporter)
    documents = list(itertools.islice(prepared.validation_documents(), given.documents))
    targets = acceptability.read_targets(slm, documents)
    mismatches = acceptability.draw_mismatches(targets, count=given.mismatches)
    questions = [acceptability.question(each) for each in mismatches]
    cost = judge.cost(questions, max_tokens=acceptability.VERDICT_TOKENS)
    from_flags.say_judge(judge)
    from_flags.say_cost("judge mismatches", cost, given)
    if given.dry_run:
        return 0
    verdicts = acceptability.judge_mismatches(
        judge, mismatches, progress=functools.partial(reporter.update, "judge mismatches")
    )
    reporter.finish()
    out = Path(given.out)
    rows = [dataclasses.asdict(each) | {"verdict": v} for each, v in zip(mismatches, verdicts, strict=True)]
    write_lines(str(out / "mismatches.jsonl"), rows)
    predicted = acceptability.predict(targets, mismatches=mismatches, verdicts=verdicts)
    page = str(out / "acceptability.html")
    write_acceptability_page(
        page,
        targets=targets,
        mismatches=mismatches,
        verdicts=verdicts,
        predicted=predicted,
        judge=judge.model,
        command=given.command,
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


def _own_data(slm: "LoadedModel", given: Given, *, reporter: "Reporter") -> "Prepared":
    """The data that the checkpoint was trained on, prepared again where it is not there.

    A checkpoint may come from anybody, and what its settings name goes to the judge. So data is used only if it has
    the fingerprint that the checkpoint gives, which only somebody who has that data can know.
    """
    from lacy_jax.data.corpus import EMBEDDED, OF_FILES, corpus_of_checkpoint
    from lacy_jax.data.prepare import prepare

    config = slm.config
    if config.data.mixture:
        raise DataError(
            f"the checkpoint {given.checkpoint} was trained on a mixture, but the texts to judge are of one corpus: "
            "give another checkpoint"
        )
    name = config.corpus.name
    if name not in (*EMBEDDED, *OF_FILES) and given.corpus != name:
        raise ConfigError(
            f"the checkpoint {given.checkpoint} asks for the corpus {name!r}, which may run code of its own and is "
            f"read only if you agree: add --corpus={name}"
        )
    corpus = corpus_of_checkpoint(config.corpus, data=slm.data, directory=config.data.directory)
    own = dataclasses.replace(config, corpus=corpus)
    prepared = prepare(own, tokenizer=slm.tokenizer, progress=reporter.update)
    if slm.data and json.loads(json.dumps(prepared.fingerprint)) != slm.data:
        raise DataError(f"the data that {given.checkpoint} names is not what it was trained on, so it is not judged")
    return prepared


DOOR = Door("acceptability", __doc__, _FLAGS, main)

if __name__ == "__main__":
    run(DOOR)
