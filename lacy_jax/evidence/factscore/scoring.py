"""FActScore (arXiv 2305.14251): the share of a text's atomic facts that an article about its topic supports.

Generations are read and written in FActScore's own form, JSON lines of {"input", "output", "topic", "cat"}, with
"annotations" where atomic facts are known; the result has the keys of its output.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lacy_jax.cascade import Cascade, Request, Sampling
from lacy_jax.data.files import read_json_lines, read_json_log, write_whole
from lacy_jax.errors import DataError
from lacy_jax.evidence.factscore.atomic_facts import (
    DEMONSTRATIONS,
    FACTS_TOKENS,
    VERDICT_TOKENS,
    Demonstrations,
    Verdict,
    facts_of,
    facts_prompt,
    sentences_of,
    verdict_of,
    verdict_prompt,
)
from lacy_jax.evidence.factscore.knowledge import PASSAGES, Passage, Retrieval
from lacy_jax.evidence.judge import Cost, Judge, Progress
from lacy_jax.measures.intervals import bootstrap_interval

GAMMA = 10  # facts below which a text is penalised, as in FActScore
# LMLM's protocol (arXiv 2505.15962) for models that were trained on plain text.
ENTITIES = 100
ENTITIES_FILE = str(Path(__file__).with_name("entities.txt"))
PROMPT = "Tell me a bio of {entity}. {entity} is"
MAX_NEW_TOKENS = 256
REPETITION_PENALTY = 1.2
# What a dry run supposes where a sentence was not split yet.
FACTS_PER_SENTENCE = 4


@dataclass(frozen=True)
class Generation:
    """A text about a topic. `row` is its line as read; `facts` are by sentence, None where they are not known yet."""

    topic: str
    output: str
    row: Mapping[str, Any]
    facts: tuple[tuple[str, ...], ...] | None = None

    @property
    def sentences(self) -> list[str]:
        return sentences_of(self.output)


def read_generations(path: str, *, use_atomic_facts: bool = False, limit: int = 0) -> list[Generation]:
    """Reads FActScore's JSON lines.

    Args:
        use_atomic_facts: takes the facts that are there ("annotations", "model-atomic-facts"); a line whose
            "annotations" are null is left out, as FActScore does.
        limit: of lines; 0: all.

    Raises:
        DataError: a file or line that cannot be used.
    """
    generations = []
    for where, row in itertools.islice(read_json_lines(path), limit or None):
        try:
            topic, output = row["topic"], row["output"]
            if not isinstance(topic, str) or not isinstance(output, str):
                raise TypeError("both must be texts")
            facts = None
            if use_atomic_facts:
                if row["annotations"] is None:
                    continue
                facts = tuple(tuple(f["text"] for f in part["model-atomic-facts"]) for part in row["annotations"])
                if not all(isinstance(fact, str) for own in facts for fact in own):
                    raise TypeError("a fact must be a text")
        except (KeyError, TypeError) as error:
            needed = '"topic" and "output"' + (' and "annotations"' if use_atomic_facts else "")
            raise DataError(f"{where}: not an object of {needed} ({error})") from None
        generations.append(Generation(topic=topic, output=output, row=row, facts=facts))
    if not generations:
        raise DataError(f"{path}: no generation in it")
    return generations


def read_entities(path: str = ENTITIES_FILE, *, limit: int = ENTITIES) -> list[str]:
    """The first entities (`limit` 0: all) of a file, one per line; "#" begins a comment. Raises `DataError`."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    entities = [line.strip() for line in lines if line.strip() and not line.startswith("#")][: limit or None]
    if not entities:
        raise DataError(f"{path}: no entity in it; give one per line")
    return entities


def write_generations(
    cascade: Cascade,
    entities: Sequence[str],
    *,
    path: str,
    written_by: Mapping[str, Any],
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 8,
    progress: Progress = lambda _done, _total: None,
) -> None:
    """What a cascade writes about entities by LMLM's protocol; the file appears when it is complete.

    The instruction is cut from the output, "{entity} is" stays. Each line carries `written_by`, plain values. Texts are
    kept in FILE.partial as they come: after an interruption only those that are missing are written.
    """
    sampling = Sampling(repetition_penalty=REPETITION_PENALTY)
    partial = partial_of(path)
    partial.parent.mkdir(parents=True, exist_ok=True)
    rows = _finished_rows(partial, written_by=written_by)
    kept, missing = len(rows), [entity for entity in dict.fromkeys(entities) if entity not in rows]
    prompts = [PROMPT.format(entity=entity) for entity in missing]
    requests = [Request(prompt, max_new_tokens=max_new_tokens, sampling=sampling) for prompt in prompts]
    with open(partial, "w", encoding="utf-8") as file:
        file.writelines(_line(row) for row in rows.values())
        for index, done in cascade.iterate(requests, batch_size=batch_size):
            entity = missing[index]
            output = f"{entity} is{done.text}"
            rows[entity] = {"input": done.prompt, "output": output, "topic": entity, "cat": []}
            rows[entity] |= {"delegated": done.counts.share, "written_by": dict(written_by)}
            file.write(_line(rows[entity]))
            file.flush()
            progress(len(rows), kept + len(missing))
    write_lines(path, [rows[entity] for entity in entities])
    partial.unlink()


def _finished_rows(partial: Path, *, written_by: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By entity, what an interrupted run of the same wrote."""
    return {row["topic"]: row for row in read_json_log(partial) if row["written_by"] == written_by}


def are_written(entities: Sequence[str], *, path: str, written_by: Mapping[str, Any]) -> bool:
    """Whether `path` holds what `write_generations` writes of the same. Raises `DataError`."""
    rows = [generation.row for generation in read_generations(path)]
    return [(row["topic"], row.get("written_by")) for row in rows] == [(entity, written_by) for entity in entities]


def write_lines(path: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines, whole or not at all."""
    write_whole(Path(path), "".join(_line(row) for row in rows).encode())


def partial_of(path: str) -> Path:
    """Where the texts of a file are kept until it is complete."""
    return Path(f"{path}.partial")


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def split_facts(
    judge: Judge,
    generations: Sequence[Generation],
    *,
    demonstrations: Demonstrations = DEMONSTRATIONS,
    progress: Progress = lambda _answered, _asked: None,
) -> tuple[list[Generation], int]:
    """The generations with their facts, and how many sentences the judge left unanswered (they have none).

    Where facts were to be found, a generation's `row` has them too, as FActScore reads them under --use_atomic_facts.
    """
    prompts = fact_prompts(generations, demonstrations=demonstrations)
    answers = dict(zip(prompts, judge.ask(prompts, max_tokens=FACTS_TOKENS, progress=progress), strict=True))
    found = []
    for generation in generations:
        if generation.facts is None:
            sentences = generation.sentences
            own = [answers[facts_prompt(each, demonstrations=demonstrations)] for each in sentences]
            facts = tuple(tuple(facts_of(answer or "")) for answer in own)
            row = dict(generation.row) | {"annotations": _annotations(sentences, facts)}
            generation = dataclasses.replace(generation, row=row, facts=facts)
        found.append(generation)
    return found, sum(answer is None for answer in answers.values())


def _annotations(sentences: Sequence[str], facts: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    return [
        {"text": sentence, "model-atomic-facts": [{"text": fact} for fact in own]}
        for sentence, own in zip(sentences, facts, strict=True)
    ]


def fact_prompts(generations: Sequence[Generation], *, demonstrations: Demonstrations = DEMONSTRATIONS) -> list[str]:
    """What has to be asked to split the generations that have no facts yet."""
    open_ones = [generation for generation in generations if generation.facts is None]
    sentences = dict.fromkeys(sentence for generation in open_ones for sentence in generation.sentences)
    return [facts_prompt(sentence, demonstrations=demonstrations) for sentence in sentences]


def verdict_prompts(
    generations: Sequence[Generation], *, articles: Mapping[str, Sequence[Passage]]
) -> list[list[tuple[str, str]]]:
    """(fact, prompt) of each fact of each generation; all have their facts."""
    retrievals: dict[str, Retrieval] = {}
    prompts = []
    for generation in generations:
        topic = generation.topic
        if topic not in retrievals:
            retrievals[topic] = Retrieval(articles[topic])
        facts = [fact.strip() for own in generation.facts or () for fact in own]
        prompts.append(
            [
                (fact, verdict_prompt(fact, topic=topic, passages=retrievals[topic].best(f"{topic} {fact}")))
                for fact in facts
            ]
        )
    return prompts


def check_facts(
    judge: Judge,
    prompts: Sequence[Sequence[tuple[str, str]]],
    *,
    progress: Progress = lambda _answered, _asked: None,
) -> list[list[dict[str, Any]]]:
    """A decision on each fact: FActScore's "atom" and "is_supported", and the `Verdict` that it comes from."""
    flat = [prompt for own in prompts for _, prompt in own]
    answers = iter(judge.ask(flat, max_tokens=VERDICT_TOKENS, progress=progress))
    decisions = []
    for own in prompts:
        verdicts: list[tuple[str, Verdict]] = [(fact, verdict_of(next(answers))) for fact, _ in own]
        decisions.append([{"atom": f, "is_supported": v == "true", "verdict": v} for f, v in verdicts])
    return decisions


def score(decisions: Sequence[Sequence[Mapping[str, Any]]], *, gamma: float = GAMMA) -> dict[str, Any]:
    """FActScore's numbers of the decisions on each generation; a generation without facts counts as no response.

    `score` is the mean over responses of (share of supported facts) * min(1, exp(1 - gamma / facts)), `init_score`
    the same without the penalty; `gamma` 0: no penalty. `interval` is of `score`: 95%, bootstrap over responses. None
    where nothing responded.
    """
    responses = [own for own in decisions if own]
    shares = [sum(bool(decision["is_supported"]) for decision in own) / len(own) for own in responses]
    penalties = [min(1.0, math.exp(1 - gamma / len(own))) if gamma else 1.0 for own in responses]
    found = bootstrap_interval([s * p for s, p in zip(shares, penalties, strict=True)])
    count = len(responses)
    verdicts: list[str] = [decision.get("verdict", "") for own in responses for decision in own]
    return {
        "score": found.estimate if count else None,
        "interval": [found.low, found.high] if count else None,
        "init_score": sum(shares) / count if count else None,
        "respond_ratio": count / len(decisions) if decisions else None,
        "num_facts_per_response": sum(len(own) for own in responses) / count if count else None,
        "decisions": [list(own) if own else None for own in decisions],
        "unclear": verdicts.count("unclear"),
        "unanswered": verdicts.count("unanswered"),
    }


def expected_cost(
    judge: Judge,
    generations: Sequence[Generation],
    *,
    articles: Mapping[str, Sequence[Passage]],
    demonstrations: Demonstrations = DEMONSTRATIONS,
) -> tuple[Cost, Cost]:
    """(of splitting, of checking). The second is a guess where the first is not zero: it depends on the answers."""
    splitting = judge.cost(fact_prompts(generations, demonstrations=demonstrations), max_tokens=FACTS_TOKENS)
    if not splitting.requests:
        known, _ = split_facts(judge, generations, demonstrations=demonstrations)
        prompts = [prompt for own in verdict_prompts(known, articles=articles) for _, prompt in own]
        return splitting, judge.cost(prompts, max_tokens=VERDICT_TOKENS)
    supposed = [
        prompt
        for generation in generations
        for sentence in generation.sentences
        for prompt in [verdict_prompt(sentence, topic=generation.topic, passages=articles[generation.topic][:PASSAGES])]
    ]
    each = judge.cost(supposed, max_tokens=VERDICT_TOKENS)
    times = FACTS_PER_SENTENCE
    return splitting, Cost(each.requests * times, 0, each.prompt_tokens * times, each.answer_tokens * times)
