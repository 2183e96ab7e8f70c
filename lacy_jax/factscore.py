"""FActScore of texts, with any OpenAI-compatible server as the judge (docs/factscore.md).

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

from absl import app, flags, logging

from lacy_jax.cascade_flags import open_from_flags
from lacy_jax.checkpoint_flag import CHECKPOINT
from lacy_jax.console import Reporter, reporting
from lacy_jax.data.files import write_whole
from lacy_jax.errors import CheckpointError, ConfigError, DataError, JudgeError, PartnerError
from lacy_jax.evidence.factscore import atomic_facts
from lacy_jax.evidence.factscore import scoring as factscore
from lacy_jax.evidence.factscore.knowledge import read_articles
from lacy_jax.judge_flags import DRY_RUN, JUDGE, OUT, judge_from_flags, tell

_GENERATIONS = flags.DEFINE_string("generations", None, "FActScore's JSON lines; with --checkpoint, written first")
_KNOWLEDGE = flags.DEFINE_string("knowledge", None, "FActScore's .db, or JSON lines of title and text")
_ENTITIES = flags.DEFINE_string(
    "entities", factscore.ENTITIES_FILE, "With --checkpoint: a file of entities, one a line; unless given, FActScore's"
)
_LIMIT = flags.DEFINE_integer("limit", None, "Only the first so many entities (unless given: 100) and lines; 0: all", 0)
_ROWS = flags.DEFINE_integer("rows", 8, "How many biographies are written at once", lower_bound=1)
_DEMONSTRATIONS = flags.DEFINE_string("demonstrations", None, "FActScore's demons.json, in place of our own four")
_ATOMIC_FACTS = flags.DEFINE_bool("use_atomic_facts", False, "Take the facts in the file, as FActScore's flag does")
_GAMMA = flags.DEFINE_float("gamma", factscore.GAMMA, "Of the length penalty; 0: none")


def main(argv: list[str]) -> int:
    """Returns 1 where the judge left something unanswered, 2 where the flags cannot be used."""
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise ConfigError(f"{argv[1]!r} is not a flag")
        if not _GENERATIONS.value:
            raise ConfigError("--generations=FILE is needed: FActScore's JSON lines")
        if not (CHECKPOINT.value or JUDGE.value):
            raise ConfigError("give --checkpoint to write --generations, --judge to score them, or both")
        with reporting() as reporter:
            if CHECKPOINT.value:
                _write(reporter)
            return _score(reporter) if JUDGE.value else 0
    except (ConfigError, DataError, CheckpointError, PartnerError, JudgeError) as error:
        print(f"factscore: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _write(reporter: Reporter) -> None:
    path = _GENERATIONS.value or ""
    limit = factscore.ENTITIES if _LIMIT.value is None else _LIMIT.value
    entities = factscore.read_entities(_ENTITIES.value, limit=limit)
    opened = open_from_flags(batch_size=_ROWS.value)
    written_by = {"checkpoint": opened.slm.path} | dataclasses.asdict(opened.settings)
    if not Path(path).exists():
        progress = functools.partial(reporter.update, "biographies")
        factscore.write_generations(
            opened.cascade, entities, path=path, written_by=written_by, batch_size=_ROWS.value, progress=progress
        )
    elif not factscore.are_written(entities, path=path, written_by=written_by):
        raise ConfigError(
            f"--generations={path} exists, by other entities or settings; leave --checkpoint out to score it, or name "
            "another file"
        )


def _score(reporter: Reporter) -> int:
    if not _KNOWLEDGE.value:
        raise ConfigError("--knowledge=FILE is needed: FActScore's .db, or JSON lines of title and text")
    judge, generations_path = judge_from_flags(), _GENERATIONS.value or ""
    shown = atomic_facts.DEMONSTRATIONS
    if _DEMONSTRATIONS.value:
        shown = atomic_facts.read_demonstrations(_DEMONSTRATIONS.value)
    generations = factscore.read_generations(
        generations_path, use_atomic_facts=_ATOMIC_FACTS.value, limit=_LIMIT.value or 0
    )
    articles = read_articles(_KNOWLEDGE.value, titles=[generation.topic for generation in generations])
    splitting, checking = factscore.expected_cost(judge, generations, articles=articles, demonstrations=shown)
    tell("split into facts", splitting)
    tell("check the facts" + (" (a guess: it depends on how many they are)" if splitting.requests else ""), checking)
    if DRY_RUN.value:
        return 0
    generations, unsplit = factscore.split_facts(
        judge, generations, demonstrations=shown, progress=functools.partial(reporter.update, "split into facts")
    )
    stem = Path(OUT.value or "") / Path(generations_path).stem
    factscore.write_lines(f"{stem}_facts.jsonl", [generation.row for generation in generations])
    prompts = factscore.verdict_prompts(generations, articles=articles)
    flat = [prompt for own in prompts for _, prompt in own]
    if splitting.requests:
        tell("check the facts", judge.cost(flat, max_tokens=atomic_facts.VERDICT_TOKENS))
    decisions = factscore.check_facts(judge, prompts, progress=functools.partial(reporter.update, "check the facts"))
    reporter.finish()
    result = factscore.score(decisions, gamma=_GAMMA.value)
    result |= {"unsplit": unsplit, "judge": judge.model, "gamma": _GAMMA.value}
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


if __name__ == "__main__":
    app.run(main)
