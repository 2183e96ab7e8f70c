"""How far the rules for factual words agree with the facts that a large model marked.

    python -m benchmarks.annotation_agreement dwiki_1k_llama_annotated.json [--tokenizer tokenizer.model]

The file is that of LMLM (github.com/kilian-group/LMLM): before each fact of examples[i].annotated_text stands
"[dblookup('Subject', 'Relation') -> value] ". Without the brackets it is close to the article, title and body, in
examples[i].text. Tokens are those of a tokenizer trained on vital_articles, or of a given one.

Such marks are of facts about one subject, so recall says more than precision. Beside the figures stand those
measured before, and, as the peer of the speed, the paper's 152 CPU-core hours for 1e9 tokens (arXiv 2602.12005).
"""

import argparse
import collections
import difflib
import json
import os
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.door import answered
from lacy_jax.config import AnnotateConfig, CorpusConfig, RuleConfig
from lacy_jax.data.annotate import annotate_documents
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import Document, Spans, full_text, text_offset
from lacy_jax.data.factual import factual_tokens, select_spans
from lacy_jax.data.read_tokenizer import tokenizer_of_file
from lacy_jax.data.tokenizer import TextTokenizer, Tokenizer, train_tokenizer
from lacy_jax.measures.agreement import agreement_of

# Name, rule, and what was measured before with a Llama annotator: share flagged, recall, precision.
RULES = (
    ("entity, PROPN or NUM", RuleConfig(exclude_subjects=False, first_mention_only=False), "42% 0.84 0.32"),
    ("... not in the subject", RuleConfig(first_mention_only=False), "34% 0.80 0.38"),
    ("... first mention (the default)", RuleConfig(), "24% 0.66 0.45"),
    ("... entities only", RuleConfig(kinds="entity"), "21% 0.60 0.46"),
)

_LOOKUP = re.compile(r"\[dblookup\('.*?'\) -> ", re.DOTALL)
_LIST = re.compile(r", | and ")
_CHARACTERS_OF_1E9_TOKENS = 4.15e9
_NEAR = 120  # characters after its bracket in which a value is looked for, besides its own length


@dataclass(frozen=True)
class Marked:
    """A document, the characters of its text that a large model marked, and how like its text is to the original."""

    document: Document
    facts: list[tuple[int, int]]
    likeness: float


def read_marked(path: Path, counts: collections.Counter[str]) -> Iterator[Marked]:
    """The documents of an LMLM file; `counts` says how the marked values were found again in the text."""
    for index, example in enumerate(json.loads(path.read_text())["examples"]):
        text, values = split_annotated(example["annotated_text"])
        if "dblookup(" in text:
            raise ValueError(f"{path}: example {index}: brackets are left in the text: {text[:200]!r}")
        title, _, body = example["text"].partition("\n")
        facts = [fact for start, value in values for fact in find_value(text, start, value, counts)]
        likeness = difflib.SequenceMatcher(None, text.split(), body.split(), autojunk=False).ratio()
        yield Marked(Document(id=str(index), title=title.strip(), text=text), facts, likeness)


def split_annotated(annotated: str) -> tuple[str, list[tuple[int, str]]]:
    """The text without brackets, and (offset, value) of each bracket; values may hold brackets and quotes."""
    parts: list[str] = []
    values = []
    length = position = 0
    while lookup := _LOOKUP.search(annotated, position):
        parts.append(annotated[position : lookup.start()])
        length += len(parts[-1])
        end = _closing(annotated, lookup.end())
        values.append((length, annotated[lookup.end() : end]))
        position = end + (2 if annotated.startswith(" ", end + 1) else 1)
    return "".join([*parts, annotated[position:]]), values


def _closing(annotated: str, start: int) -> int:
    """Where the bracket closes that was opened before `start`."""
    depth = 1
    for bracket in re.finditer(r"[\[\]]", annotated[start:]):
        depth += 1 if bracket[0] == "[" else -1
        if not depth:
            return start + bracket.start()
    raise ValueError(f"a bracket is never closed: {annotated[start : start + 80]!r}")


def find_value(text: str, start: int, value: str, counts: collections.Counter[str]) -> list[tuple[int, int]]:
    """The characters of a value: where it should stand, else soon after, else those of its parts, if it is a list."""
    if text.startswith(value, start):
        counts["where they should stand"] += 1
        return [(start, start + len(value))]
    near = text[start : start + _NEAR + len(value)].partition("\n")[0].lower()
    if (found := near.find(value.lower())) >= 0:
        counts["soon after"] += 1
        return [(start + found, start + found + len(value))]
    parts = [(near.find(part.lower()), len(part)) for part in _LIST.split(value) if part]
    counts["in parts" if any(found >= 0 for found, _ in parts) else "not at all"] += 1
    return [(start + found, start + found + length) for found, length in parts if found >= 0]


def flags(document: Document, spans: Spans, tokenizer: TextTokenizer) -> np.ndarray:
    """Which tokens of the document's text, its title left out, are factual by `spans`."""
    text = full_text(document)
    encoding = tokenizer.encode(text)
    return factual_tokens(encoding.starts, encoding.ends, text=text, spans=spans)[
        encoding.starts >= text_offset(document)
    ]


def fact_spans(marked: Marked) -> Spans:
    """The large model's marks as spans of the full text."""
    shift = text_offset(marked.document)
    table = np.array(sorted(marked.facts), np.int32).reshape(-1, 2) + np.int32(shift)
    no = np.zeros(len(table), bool)
    return Spans(starts=table[:, 0], ends=table[:, 1], kinds=("fact",) * len(table), subject=no, repeated=no)


def print_agreement(marked: list[Marked], annotated: list[tuple[Document, Spans]], tokenizer: TextTokenizer) -> None:
    by_model = [flags(each.document, fact_spans(each), tokenizer) for each in marked]
    print(f"\n{'rule':34} flagged  recall  precision  F1     (measured before)")
    for name, rule, before in RULES:
        by_rule = [flags(document, select_spans(spans, rule), tokenizer) for document, spans in annotated]
        got = agreement_of(np.concatenate(by_model), np.concatenate(by_rule))
        print(
            f"{name:34} {got.second / got.units:6.1%} {got.recall:8.3f} {got.precision:9.3f} {got.f1:6.3f}   ({before})"
        )
    print(f"{got.units} tokens, {got.first / got.units:.1%} of them marked by the large model\n")


def print_speed(documents: list[Document], *, workers: int) -> None:
    """Characters/s of `workers` processes, and the processor time for 1e9 tokens; the loading of spaCy included."""
    characters = sum(len(document.text) for document in documents)
    start, used = time.perf_counter(), _processor_seconds()
    collections.deque(annotate_documents(documents, AnnotateConfig(workers=workers)), maxlen=0)
    rate = characters / (time.perf_counter() - start)
    hours = (_processor_seconds() - used) / characters * _CHARACTERS_OF_1E9_TOKENS / 3600
    print(f"{workers} process(es): {rate:,.0f} characters/s; {hours:.0f} core-hours for 1e9 tokens")


def _processor_seconds() -> float:
    times = os.times()  # those of children are known once they have ended, as a pool's have
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--tokenizer", type=Path, help="a SentencePiece model; without it one is trained")
    parser.add_argument("--vocab-size", type=int, default=8_000, help="of the tokenizer that is trained")
    parser.add_argument("--workers", type=int, default=0, help="spaCy processes; 0: one per core")
    arguments = parser.parse_args()

    counts: collections.Counter[str] = collections.Counter()
    marked = list(read_marked(arguments.file, counts))
    vital = list(read_documents(CorpusConfig()))
    tokenizer = (
        tokenizer_of_file(arguments.tokenizer)
        if arguments.tokenizer
        else Tokenizer(train_tokenizer(map(full_text, vital), vocab_size=arguments.vocab_size))
    )
    config = AnnotateConfig(workers=arguments.workers)
    print(f"{arguments.file.name}: {len(marked)} documents, no brackets left")
    print(f"words as in the original article: {statistics.mean(each.likeness for each in marked):.1%}")
    print("values found", ", ".join(f"{where}: {count}" for where, count in counts.most_common()))
    annotated = list(annotate_documents((each.document for each in marked), config))
    print_agreement(marked, annotated, tokenizer)

    shares = [flags(document, select_spans(spans, RuleConfig()), tokenizer) for document, spans in annotated]
    print(f"factual by the default rule: {np.concatenate(shares).mean():.1%} of its tokens")
    shares = [
        flags(document, select_spans(spans, RuleConfig()), tokenizer)
        for document, spans in annotate_documents(vital, config)
    ]
    print(f"factual by the default rule: {np.concatenate(shares).mean():.1%} of vital_articles' tokens\n")

    print("speed (the paper's spaCy rule: 152 core-hours; goal: 45)")
    for workers in (1, 2):
        print_speed(vital[:1_000], workers=workers)


if __name__ == "__main__":
    answered(main)
