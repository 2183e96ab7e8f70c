"""Teach a pretrained model when to ask: its weights stay, a probe for facts and the row of <CALL> are fitted.

    python -m lacy_jax.adapt --model=SmolLM2-135M-Instruct.gguf --out=runs/adapted
    python -m lacy_jax.adapt --model=FOLDER --corpus='texts/*.jsonl' --partner=http://localhost:8080/v1 --out=runs/mine

The result is a checkpoint: `python -m lacy_jax.generate --checkpoint=runs/adapted --prompt="Marie Curie was born in"`.
docs/adapting.md says what is fitted, and what it gives.
"""

import sys
from dataclasses import replace

from lacy_jax import flags, from_flags
from lacy_jax.adaptation import Marks
from lacy_jax.config import AnnotateConfig, CascadeConfig, Config, CorpusConfig, Count, DataConfig, Positive, Share
from lacy_jax.doors import Door, run
from lacy_jax.errors import ConfigError, did_you_mean
from lacy_jax.flags import Flag, Given
from lacy_jax.folders import unwritable

_FLAGS = (
    Flag("model", flags.Path, "A Hugging Face folder, a GGUF file or a checkpoint", needed=True),
    Flag("out", flags.Path, "The checkpoint's folder, which must not exist", needed=True),
    Flag("corpus", flags.Text, "A corpus (vital_articles), or JSON lines: paths and globs", "vital_articles"),
    Flag("documents", Positive, "How many documents are read; a fifth of them is held out", 600),
    Flag("price", Share, "It calls where the next token is likelier than this to be a fact that it gets wrong", 0.2),
    replace(flags.PARTNER, help="Who answers calls, as in lacy_jax.generate", default="documents"),
    Flag("marks", Marks, "What it learns to ask for: all facts, or those that the partner answers right", "facts"),
    Flag("samples", Count, "How many texts are written and checked, alone and in the cascade", 12),
    Flag("data", flags.Path, "The folder of prepared data", "runs/data"),
)


def main(given: Given) -> int:
    """Adapts the model, and prints how well it knows when to ask."""
    from pathlib import Path

    from lacy_jax.adaptation.report import lines, page, samples_lines
    from lacy_jax.adaptation.run import adapt
    from lacy_jax.cascade.partners import check_partner, make_partner
    from lacy_jax.checkpoints.export import check_out
    from lacy_jax.checkpoints.loading import load_model
    from lacy_jax.console import reporting
    from lacy_jax.data.check import data_problems
    from lacy_jax.evidence.pages.render import write_page
    from lacy_jax.terminal import wants_colour

    config = given_config(given)
    problems = [each.replace("config.corpus.files:", f"--corpus={given.corpus}:") for each in data_problems(config)]
    if problems := [*problems, *_unwritable(given)]:
        raise ConfigError(*problems)
    if given.marks == "answers" and given.partner == "none":
        raise ConfigError("--marks=answers: nobody would answer; name a --partner")
    check_out(given.out)
    check_partner(config.cascade.partner)
    slm = load_model(given.model)
    from_flags.say_partner(config.cascade.partner, config)
    cascade = config.cascade
    with reporting() as reporter:
        partner = make_partner(
            cascade.partner,
            corpus=config.corpus,
            directory=given.data,
            batch_size=8,
            span=cascade.span,
            timeout=cascade.timeout,
        )
        found = adapt(
            slm,
            partner,
            config,
            documents=given.documents,
            marks=given.marks,
            out=given.out,
            reporter=reporter,
        )
        reporter.finish()
        report = Path(given.out) / "report.html"
        write_page(str(report), page(found, command=given.command))
        print("\n".join([*lines(found), *samples_lines(found, colour=wants_colour(sys.stdout))]))
        reporter.say(f"checkpoint  {given.out}")
        reporter.say(f"report      {report}")
    return 0


def given_config(given: Given) -> Config:
    """The settings that the flags stand for."""
    from lacy_jax.adaptation.run import HELD_OUT
    from lacy_jax.data.corpus import CORPORA

    known = CORPORA.names()
    named = given.corpus in known
    if not named and not any(each in given.corpus for each in "./*"):
        raise ConfigError(
            f"--corpus={given.corpus}: unknown corpus; allowed are {', '.join(known)}, and JSON lines as "
            f"'FOLDER/*.jsonl'{did_you_mean(given.corpus, known)}"
        )
    settings = {"name": given.corpus} if named else {"name": "jsonl", "files": given.corpus}
    corpus = CorpusConfig(**settings, validation_share=HELD_OUT)
    if not named:  # it may be of any size
        corpus = replace(corpus, max_documents=4 * given.documents)
    return Config(
        corpus=corpus,
        annotate=AnnotateConfig(),
        data=DataConfig(directory=given.data),
        cascade=CascadeConfig(partner=given.partner, price=given.price, samples=given.samples),
    )


def _unwritable(given: Given) -> list[str]:
    names = {"out": given.out, "data": given.data}
    return [f"--{name}={folder}: {problem}" for name, folder in names.items() if (problem := unwritable(folder))]


DOOR = Door("adapt", __doc__, _FLAGS, main)

if __name__ == "__main__":
    run(DOOR)
