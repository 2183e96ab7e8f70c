"""Whether texts stay whole where a partner that is a language model writes in them: every seam of a piece is looked at.

    python -m benchmarks.texts_whole runs/slm_tiny checkpoint:MODEL.gguf http://127.0.0.1:8080/v1

The beginnings of held-out articles of the embedded corpus are completed with each partner. The words that are known are
those of the corpus. What the table counts in its last four columns is printed below it, to be judged by eye.
"""

import argparse
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.door import answered
from benchmarks.start_tokens import held_out_texts
from lacy_jax.cascade import Cascade, Completion
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import full_text

Fault = Literal["corrupted", "gone on with", "doubled", "cut"]
FAULTS: dict[Fault, str] = {
    "corrupted": "a known word became none",
    "gone on with": "the SLM goes on with its word",
    "doubled": "a word said twice",
    "cut": "ends within a known word",
}
CHARACTERS = 160  # of a prompt, at most


@dataclass(frozen=True)
class Finding:
    """A seam that may be wrong: what is, the text before it, and after it."""

    fault: Fault
    before: str
    after: str


def prompt_of(article: str) -> str:
    """Its beginning, up to the end of a word."""
    return article[:CHARACTERS].rpartition(" ")[0] or article[:CHARACTERS]


def words_of(text: str) -> list[str]:
    """Runs of letters, in small ones: a number has no right spelling."""
    return re.findall(r"[^\W\d_]+", text.lower())


def findings(completion: Completion, words: Collection[str], beginnings: Collection[str]) -> Iterator[Finding]:
    """What may be wrong where a partner's piece begins and where it ends.

    Args:
        words: those that are known; beginnings: of all lengths, of all of them.
    """
    text, partners = completion.prompt, False
    for piece in completion.pieces:
        last, first = re.search(r"[^\W\d_]+\Z", text.lower()), re.match(r"[^\W\d_]+", piece.text.lower())
        if piece.source == "partner":
            if last and first and last[0] in words and last[0] + first[0] not in words:
                yield Finding("corrupted", text, piece.text)
            own, said = re.search(r"(\w+)\W*\Z", text.lower()), re.match(r"\W*(\w+)", piece.text.lower())
            if own and said and own[1] == said[1]:
                yield Finding("doubled", text, piece.text)
        elif partners and last and first:
            yield Finding("gone on with", text, piece.text)
        text, partners = text + piece.text, piece.source == "partner"
        end = re.search(r"[^\W\d_]+\Z", text.lower())
        if partners and end and end[0] not in words and end[0] in beginnings:
            yield Finding("cut", text, "")


def row(partner: str, done: Sequence[Completion], found: Sequence[Finding]) -> str:
    """A line of the table."""
    whole = sum(each.text == "".join(piece.text for piece in each.pieces) for each in done)
    pieces = sum(piece.source == "partner" for each in done for piece in each.pieces)
    counts = [sum(each.fault == fault for each in found) for fault in FAULTS]
    return "| " + " | ".join(map(str, (partner, len(done), whole, pieces, *counts))) + " |"


def main() -> None:
    """Prints a Markdown table, and below it the seams that may be wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("partners", nargs="+")
    parser.add_argument("--articles", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--budget", type=float, default=0.25)
    options = parser.parse_args()
    slm, prompts = load_model(options.checkpoint), [prompt_of(text) for text in held_out_texts(options.articles)]
    words = {word for document in read_documents(CorpusConfig()) for word in words_of(full_text(document))}
    beginnings = {word[:size] for word in words for size in range(1, len(word))}
    shown: list[str] = []
    print(f"| partner | texts | equal to their pieces | partner's pieces | {' | '.join(FAULTS.values())} |")
    print("|---" * (4 + len(FAULTS)) + "|")
    for partner in options.partners:
        cascade = Cascade(slm, partner, budget=options.budget, timeout=120.0)
        done = cascade.generate(prompts, max_new_tokens=options.tokens)
        found = [each for completion in done for each in findings(completion, words, beginnings)]
        kind = partner.partition(":")[0]
        print(row(kind, done, found), flush=True)
        shown += [f"{kind}, {FAULTS[each.fault]}: {each.before[-30:]!r} | {each.after[:30]!r}" for each in found]
    print("\n".join(shown))


if __name__ == "__main__":
    answered(main)
