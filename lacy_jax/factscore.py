r"""FActScore of texts, with any OpenAI-compatible server as the judge (docs/factscore.md).

    python -m lacy_jax.factscore --checkpoint=runs/slm_334m --generations=bios.jsonl
    python -m lacy_jax.factscore --generations=bios.jsonl --knowledge=enwiki-20230401.db \
        --judge=http://localhost:8000/v1 --judge_model=NAME --out=factscore

The first line writes biographies (add --judge, --knowledge and --out to score them at once), the second scores them.
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lacy_jax import flags, from_flags
from lacy_jax.config import Count
from lacy_jax.doors import Door, run
from lacy_jax.errors import ConfigError
from lacy_jax.flags import Flag, Given

if TYPE_CHECKING:
    from lacy_jax.console import Reporter
    from lacy_jax.evidence.judge import Judge

_FLAGS = (
    Flag("generations", flags.Path, "FActScore's JSON lines; with --checkpoint, written first", needed=True),
    flags.CHECKPOINT,
    Flag("entities", flags.Path, "With --checkpoint: a file of entities, one per line (default: FActScore's)"),
    Flag("limit", Count, "Only the first N entities (default: 100) and lines; 0: all"),
    dataclasses.replace(flags.BATCH_SIZE, help="How many biographies are written at once", old=("rows",)),
    *flags.CASCADE,
    Flag("knowledge", flags.Path, "FActScore's .db, or JSON lines of title and text"),
    *flags.JUDGE,
    Flag("demonstrations", flags.Path, "FActScore's demons.json, in place of our own four"),
    Flag("use_atomic_facts", bool, "Take the facts in the file, as FActScore's flag does", False),
    Flag("gamma", float, "Texts of fewer facts are penalised; 0: no penalty (default: FActScore's)"),
)


def main(given: Given) -> int:
    """Writes biographies, or scores them; returns 1 where the judge left something unanswered."""
    if not (given.checkpoint or given.judge):
        raise ConfigError("give --checkpoint to write --generations, --judge to score them, or both")
    if given.judge and not given.knowledge:
        raise ConfigError("--knowledge=FILE is needed: FActScore's .db, or JSON lines of title and text")
    judge = from_flags.given_judge(given) if given.judge else None
    from lacy_jax.console import reporting

    with reporting() as reporter:
        if given.checkpoint:
            _write(given, reporter=reporter)
        return _score(given, judge=judge, reporter=reporter) if judge else 0


def _write(given: Given, *, reporter: "Reporter") -> None:
    from lacy_jax.evidence.factscore import scoring as factscore

    path = given.generations
    limit = factscore.ENTITIES if given.limit is None else given.limit
    entities = factscore.read_entities(given.entities or factscore.ENTITIES_FILE, limit=limit)
    cascade = from_flags.open_given_cascade(given, batch_size=given.batch_size)
    written_by = {"checkpoint": cascade.checkpoint} | dataclasses.asdict(cascade.settings)
    if not Path(path).exists():
        progress = functools.partial(reporter.update, "biographies")
        factscore.write_generations(
            cascade, entities, path=path, written_by=written_by, batch_size=given.batch_size, progress=progress
        )
    elif not factscore.are_written(entities, path=path, written_by=written_by):
        raise ConfigError(
            f"--generations={path} exists, by other entities or settings; leave --checkpoint out to score it, or name "
            "another file"
        )


def _score(given: Given, *, judge: "Judge", reporter: "Reporter") -> int:
    from lacy_jax.data.files import write_whole
    from lacy_jax.evidence.factscore import atomic_facts
    from lacy_jax.evidence.factscore import scoring as factscore
    from lacy_jax.evidence.factscore.knowledge import read_articles

    shown = atomic_facts.DEMONSTRATIONS
    if given.demonstrations:
        shown = atomic_facts.read_demonstrations(given.demonstrations)
    generations = factscore.read_generations(
        given.generations, use_atomic_facts=given.use_atomic_facts, limit=given.limit or 0
    )
    articles = read_articles(given.knowledge, titles=[generation.topic for generation in generations])
    splitting, checking = factscore.expected_cost(judge, generations, articles=articles, demonstrations=shown)
    from_flags.say_judge(judge)
    from_flags.say_cost("split into facts", splitting, given)
    guess = " (a guess: it depends on how many they are)" if splitting.requests else ""
    from_flags.say_cost(f"check the facts{guess}", checking, given)
    if given.dry_run:
        return 0
    generations, unsplit = factscore.split_facts(
        judge, generations, demonstrations=shown, progress=functools.partial(reporter.update, "split into facts")
    )
    stem = Path(given.out) / Path(given.generations).stem
    factscore.write_lines(f"{stem}_facts.jsonl", [generation.row for generation in generations])
    prompts = factscore.verdict_prompts(generations, articles=articles)
    flat = [prompt for own in prompts for _, prompt in own]
    if splitting.requests:
        from_flags.say_cost("check the facts", judge.cost(flat, max_tokens=atomic_facts.VERDICT_TOKENS), given)
    decisions = factscore.check_facts(judge, prompts, progress=functools.partial(reporter.update, "check the facts"))
    reporter.finish()
    gamma = factscore.GAMMA if given.gamma is None else given.gamma
    result = factscore.score(decisions, gamma=gamma)
    result |= {"unsplit": unsplit, "judge": judge.model, "gamma": gamma}
    result["topics"] = [generation.topic for generation in generations]
    write_whole(Path(f"{stem}_factscore_output.json"), json.dumps(result, ensure_ascii=False).encode())
    print(_told(result))
    if judge.failures:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in judge.failures.items())
        print(f"factscore: questions without an answer ({reasons}) count as no facts or as not supported; the same "
              "command asks only those again", file=sys.stderr)  # fmt: skip
    return 1 if judge.failures else 0


def _told(result: dict) -> str:
    if result["score"] is None:
        return "FActScore: nothing to score, no generation has a fact"
    low, high = (100 * end for end in result["interval"])
    return (
        f"FActScore {100 * result['score']:.1f} (95% interval over texts: {low:.1f} to {high:.1f}), "
        f"{100 * result['init_score']:.1f} without the length penalty, "
        f"{100 * result['respond_ratio']:.1f}% respond, {result['num_facts_per_response']:.1f} facts each, "
        f"{result['unclear']} unclear and {result['unanswered']} unanswered (not supported); judge {result['judge']}"
    )


DOOR = Door("factscore", __doc__, _FLAGS, main)

if __name__ == "__main__":
    run(DOOR)
