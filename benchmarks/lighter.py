"""Which parts of spaCy cost what, and what becomes of the marks without them, or with sentences that are remembered.

    export OPENBLAS_NUM_THREADS=1
    python -m benchmarks.lighter [--marked=dwiki_1k_llama_annotated.json]

The ways to mark take turns on the same articles of the embedded corpus. A row has the seconds of CPU for a million
characters, their ratio to the product's in the same turn (median, least and most), and how far the marks agree with the
product's after the default rule. Kappa and F1 are over words, "flagged" is the share of tokens of a tokenizer trained
on vital_articles. --marked is LMLM's file (see benchmarks/annotation_agreement.py): agreement on its first documents.
"""

import argparse
import collections
import itertools
import os
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import spacy

from benchmarks.annotation_agreement import Marked, fact_spans, flags, read_marked
from benchmarks.door import answered
from lacy_jax.config import CorpusConfig, RuleConfig
from lacy_jax.data.annotators.shown import pieces_of, shorten_runs
from lacy_jax.data.annotators.spacy_words import (
    GROUP,
    UNREAD,
    SpacyMarker,
    fast_products,
    installed_model,
    load_pipeline,
)
from lacy_jax.data.batches import batches
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import Document, Spans, full_text
from lacy_jax.data.factual import factual_tokens, select_spans
from lacy_jax.data.tokenizer import TextTokenizer, Tokenizer, train_tokenizer
from lacy_jax.measures.agreement import agreement_of

Way = Callable[[Sequence[Document]], list[Spans]]

_WORD = re.compile(r"\w+|[^\w\s]")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])|\n+\s*")  # where one ends and the next begins


def ways(model: str) -> dict[str, Way]:
    """The product's way to mark, and others."""
    pipeline = load_pipeline(model)
    exact = SpacyMarker(pipeline)

    def without(*parts: str) -> Way:
        def mark(documents: Sequence[Document]) -> list[Spans]:
            with pipeline.select_pipes(disable=parts):
                return exact.mark(documents)

        return mark

    by_spacy = spacy.load(model, exclude=UNREAD)
    with fast_products():
        all_rules = spacy.load(model, exclude=UNREAD)
    by_senter = load_pipeline(model, exclude=[name for name in UNREAD if name != "senter"])
    by_senter.enable_pipe("senter")
    by_senter.disable_pipe("parser")
    return {
        "the product": exact.mark,
        "... with all rules of the ruler": SpacyMarker(all_rules).mark,
        "... and blis, as spaCy has it": SpacyMarker(by_spacy).mark,
        "spaCy gets 100,000 characters": SpacyMarker(pipeline, group=100_000).mark,
        "without the parser": without("parser"),
        "senter in place of the parser": SpacyMarker(by_senter).mark,
        "without NER": without("ner"),
        "tagger alone": without("parser", "ner"),
        "without tagger": without("tagger", "attribute_ruler"),
        "NER alone": without("tok2vec", "tagger", "attribute_ruler", "parser"),
        "sentences alone, remembered": BySentence(pipeline).mark,
    }


def sentences_of(text: str) -> list[tuple[int, str]]:
    """(offset, sentence), cut where a full stop and white space stand before a capital, a digit or a quote."""
    cuts = [0, *(cut.end() for cut in _SENTENCE.finditer(text)), len(text)]
    return [(start, text[start:end]) for start, end in itertools.pairwise(cuts) if end > start]


class BySentence(SpacyMarker):
    """Parses each sentence by itself, and each text of one only once."""

    def mark(self, documents: Sequence[Document]) -> list[Spans]:
        """As `SpacyMarker.mark`."""
        pieces = [
            [
                (offset + start, sentence)
                for offset, piece in pieces_of(document.text)
                for start, sentence in sentences_of(piece)
            ]
            for document in documents
        ]
        texts = dict.fromkeys(sentence for document in pieces for _, sentence in document)
        known: dict[str, np.ndarray] = {}
        for group in batches(texts, characters=len, limit=self._group):
            shown = [shorten_runs(text) for text in group]
            docs = self._nlp.pipe([each.text for each in shown], batch_size=len(shown))
            known |= {
                text: self._table(doc, shown=own, offset=0) for text, own, doc in zip(group, shown, docs, strict=True)
            }
        moved = [
            [known[text] + np.array([start, start, 0, 0, 0, 0, 0], np.uint64) for start, text in own] for own in pieces
        ]
        return [self._spans(document, tables) for document, tables in zip(documents, moved, strict=True)]


def word_flags(document: Document, spans: Spans) -> np.ndarray:
    """bool[words]: which words of the full text share a character with a span."""
    text = full_text(document)
    found = np.array([match.span() for match in _WORD.finditer(text)], np.int32).reshape(-1, 2)
    return factual_tokens(found[:, 0], found[:, 1], text=text, spans=spans)


def chosen(documents: Sequence[Document], marks: Iterable[Spans]) -> list[tuple[Document, Spans]]:
    """The documents with the spans of the default rule."""
    return [(own, select_spans(spans, RuleConfig())) for own, spans in zip(documents, marks, strict=True)]


def print_parts(nlp: Any, documents: Sequence[Document]) -> None:
    """What each part of the pipeline costs."""
    seconds: dict[str, float] = collections.defaultdict(float)
    for group in batches(documents, characters=lambda each: len(each.text), limit=GROUP):
        start = time.process_time()
        docs = [nlp.make_doc(document.text) for document in group]
        seconds["tokenizer"] += time.process_time() - start
        for name, part in nlp.pipeline:
            start = time.process_time()
            docs = list(part.pipe(docs, batch_size=len(docs)))
            seconds[name] += time.process_time() - start
    whole = sum(seconds.values())
    print("parts: " + ", ".join(f"{name} {own / whole:.0%}" for name, own in seconds.items()))


def print_remembered(documents: Sequence[Document]) -> None:
    """How much of a corpus was seen before, by its text."""
    for name, cut in (
        ("sentences", sentences_of),
        ("paragraphs", lambda text: [(0, part) for part in text.split("\n") if part]),
    ):
        seen: set[str] = set()
        texts = [part for document in documents for _, part in cut(document.text)]
        again = []
        for text in texts:
            if text.strip() in seen:
                again.append(len(text))
            seen.add(text.strip())
        share = sum(again) / sum(map(len, texts))
        print(f"{name}: {len(again):,} of {len(texts):,} were seen before, {share:.2%} of the characters")


def print_ways(
    documents: Sequence[Document], marked: Sequence[Marked], *, model: str, tokenizer: TextTokenizer, rounds: int
) -> None:
    """The table."""
    found = ways(model)
    characters = sum(len(document.text) for document in documents)
    seconds: dict[str, list[float]] = collections.defaultdict(list)
    marks: dict[str, list[Spans]] = {}
    for way in found.values():
        way(documents[:5])
    for _ in range(rounds):
        for name, way in found.items():
            start = time.process_time()
            marks[name] = way(documents)
            seconds[name].append(time.process_time() - start)
    exact = np.concatenate([word_flags(*each) for each in chosen(documents, marks["the product"])])
    by_model = [flags(each.document, fact_spans(each), tokenizer) for each in marked]
    last = f"with {len(marked)} of Llama: flagged, recall, precision, F1" if marked else ""
    print(f"{'':32}  s/1e6  ratio (least-most)  flagged  kappa     F1  {last}")
    for name, way in found.items():
        ratios = [own / base for own, base in zip(seconds[name], seconds["the product"], strict=True)]
        rule = chosen(documents, marks[name])
        words = agreement_of(exact, np.concatenate([word_flags(*each) for each in rule]))
        tokens = np.concatenate([flags(*each, tokenizer) for each in rule])
        line = (
            f"{name:32} {statistics.median(seconds[name]) / characters * 1e6:6.1f} {statistics.median(ratios):6.2f} "
            f"({min(ratios):.2f}-{max(ratios):.2f}) {tokens.mean():11.1%} {words.kappa:6.3f} {words.f1:6.3f}"
        )
        if marked:
            own = [each.document for each in marked]
            llama = [flags(*each, tokenizer) for each in chosen(own, way(own))]
            got = agreement_of(np.concatenate(by_model), np.concatenate(llama))
            line += f"  {got.second / got.units:.1%} {got.recall:.3f} {got.precision:.3f} {got.f1:.3f}"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--marked", type=Path)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--of", type=int, default=100, help="how many documents of --marked")
    arguments = parser.parse_args()
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        parser.error("set OPENBLAS_NUM_THREADS=1, as for a process that marks: waiting threads use CPU time, too")
    vital = list(read_documents(CorpusConfig()))
    tokenizer = Tokenizer(train_tokenizer(map(full_text, vital), vocab_size=8_000))
    marked = list(read_marked(arguments.marked, collections.Counter()))[: arguments.of] if arguments.marked else []
    documents = vital[:: len(vital) // arguments.documents][: arguments.documents]
    model = installed_model("")
    print(f"{len(documents)} articles, {sum(len(each.text) for each in documents):,} characters; {model}")
    print_parts(load_pipeline(model), documents)
    print_remembered(vital)
    print_ways(documents, marked, model=model, tokenizer=tokenizer, rounds=arguments.rounds)


if __name__ == "__main__":
    answered(main)
