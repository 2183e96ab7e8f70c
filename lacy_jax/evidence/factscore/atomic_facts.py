"""The two questions of FActScore (arXiv 2305.14251, section 3.3), in words of our own, and how answers are read.

First each sentence is split into atomic facts, short statements of one piece of information each; then each is
judged true or false by passages of the article about the topic.
"""

import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from lacy_jax.data.files import parse_json
from lacy_jax.errors import DataError
from lacy_jax.evidence.factscore.knowledge import Passage

Verdict = Literal["true", "false", "unclear", "unanswered"]
Demonstrations = Mapping[str, Sequence[str]]
"""Sentences, each with its atomic facts."""

FIXED = 7  # demonstrations that stand in every prompt; one more is the likest of the others
FACTS_TOKENS = 512
VERDICT_TOKENS = 8

DEMONSTRATIONS: Demonstrations = {
    "Ana Ferreira (born 3 May 1950 in Porto) is a Portuguese architect and a former member of parliament.": [
        "Ana Ferreira was born on 3 May 1950.",
        "Ana Ferreira was born in Porto.",
        "Ana Ferreira is Portuguese.",
        "Ana Ferreira is an architect.",
        "Ana Ferreira is a former member of parliament.",
    ],
    "He studied chemistry at Leeds before joining the dye works of his uncle, Thomas Hale, in 1911.": [
        "He studied chemistry.",
        "He studied at Leeds.",
        "He joined the dye works of his uncle.",
        "His uncle was Thomas Hale.",
        "He joined the dye works in 1911.",
    ],
    "Her second album, Harbour Lights, sold 40,000 copies and won two national awards.": [
        "She made a second album.",
        "Her second album is Harbour Lights.",
        "Harbour Lights sold 40,000 copies.",
        "Harbour Lights won two national awards.",
    ],
    "From 1974 to 1981 he played as a goalkeeper for Rapid Brno, with whom he reached one cup final.": [
        "He played for Rapid Brno.",
        "He played for Rapid Brno from 1974 to 1981.",
        "He played as a goalkeeper.",
        "He reached one cup final with Rapid Brno.",
    ],
}

_INITIAL_OR_TITLE = re.compile(r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|Prof|Gen|Col|Rev|Sen|vs|No|c|ca))\.$")
_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]?[A-Z0-9])")
_ITEM = re.compile(r"^[ \t]*(?:[-*•]|\d+[.)])[ \t]+(.*\S)", re.MULTILINE)
_VERDICT = re.compile(r"\b(true|false)\b", re.IGNORECASE)


def read_demonstrations(path: str) -> Demonstrations:
    """FActScore's file of demonstrations: one JSON object of {sentence: [fact, ...]}.

    Raises:
        DataError: it cannot be read, or is none.
    """
    try:
        found = parse_json(Path(path).read_text(encoding="utf-8-sig"))
        good = isinstance(found, dict) and all(isinstance(facts, list) for facts in found.values())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as demonstrations ({error})") from None
    if not good or not found:
        raise DataError(f"{path}: demonstrations are a JSON object of sentences, each with its list of facts")
    return found


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, by punctuation; an initial or a title before a full stop ends none."""
    sentences = []
    for line in text.splitlines():
        start = 0
        for match in _END.finditer(line):
            if not _INITIAL_OR_TITLE.search(line[start : match.start()]):
                sentences.append(line[start : match.end()].strip())
                start = match.end()
        sentences.append(line[start:].strip())
    return [sentence for sentence in sentences if any(character.isalpha() for character in sentence)]


def facts_prompt(sentence: str, *, demonstrations: Demonstrations = DEMONSTRATIONS) -> str:
    """Asks for the atomic facts of a sentence, one per line after "- "."""
    known = list(demonstrations)
    shown, others = known[:FIXED], known[FIXED:]
    if others:
        words = set(sentence.lower().split())
        shown = [*shown, max(others, key=lambda other: len(words & set(other.lower().split())))]
    blocks = [f"Sentence: {each}\nFacts:\n" + "\n".join(f"- {fact}" for fact in demonstrations[each]) for each in shown]
    return (
        "Split the last sentence into atomic facts: short statements that each hold a single piece of information and "
        'can be checked alone. Add nothing that the sentence does not say. One fact a line, each after "- ".\n\n'
        + "\n\n".join([*blocks, f"Sentence: {sentence}\nFacts:"])
    )


def facts_of(answer: str) -> list[str]:
    """The facts of an answer, in order, each once; none where it holds no list."""
    return list(dict.fromkeys(item.strip() for item in _ITEM.findall(answer)))


def verdict_prompt(fact: str, *, topic: str, passages: Sequence[Passage]) -> str:
    """Asks whether a fact is true by these passages (best first; the best is put next to the question)."""
    context = "\n\n".join(f"Title: {each.title}\nText: {each.text}" for each in reversed(passages))
    closed = fact if fact[-1:] in string.punctuation else f"{fact}."
    return (
        f"These are passages about {topic}:\n\n{context}\n\nBy these passages alone, is the following statement about "
        f"{topic} true or false? Answer with one word, True or False.\n\nStatement: {closed}\nAnswer:"
    )


def verdict_of(answer: str | None) -> Verdict:
    """What an answer says. One that says neither or both is unclear, and never counts as true."""
    if answer is None:
        return "unanswered"
    said = {word.lower() for word in _VERDICT.findall(answer)}
    if said == {"true"} and not re.search(r"\bnot\s+true\b", answer, re.IGNORECASE):
        return "true"
    return "false" if said == {"false"} and not re.search(r"\bnot\s+false\b", answer, re.IGNORECASE) else "unclear"
