"""What a tagger costs, and how well one that learned spaCy's marks learns those of a large model from few documents.

    python -m benchmarks.tagger --tagger=TAGGER [--marked=dwiki_1k_llama_annotated.json]

Speed: characters/s of one process, and core-hours for 1e9 tokens. Three take turns: words alone (the CPU's part where
an accelerator runs the network), the tagger on this CPU, and the annotator spacy.

--marked is LMLM's file (see benchmarks/annotation_agreement.py). Its even documents teach a tagger that begins with
TAGGER, but a fifth of them choose its threshold. On the odd ones it is compared with the default rule.
"""

import argparse
import collections
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.annotation_agreement import Marked, fact_spans, flags, read_marked
from benchmarks.door import answered
from lacy_jax.config import AnnotateConfig, CorpusConfig, RuleConfig
from lacy_jax.data.annotate import annotate_documents
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import Document, full_text
from lacy_jax.data.factual import select_spans
from lacy_jax.data.tokenizer import TextTokenizer, Tokenizer, train_tokenizer
from lacy_jax.measures.agreement import Agreement, agreement_of
from lacy_jax.tagging import learning
from lacy_jax.tagging.saved import load_tagger, read_about, save_tagger
from lacy_jax.tagging.words import words_of

_CHARACTERS_OF_1E9_TOKENS = 4.15e9
_PAPER = 152  # core-hours for 1e9 tokens, arXiv 2602.12005
_THRESHOLDS = np.arange(0.1, 0.6, 0.02)


def print_speed(tagger: str, documents: list[Document], *, rounds: int) -> None:
    """Three ways to read the same documents, in turns."""
    language = read_about(tagger)[0].language
    ways: dict[str, Callable[[], object]] = {
        "spacy": lambda: _all(annotate_documents(documents, AnnotateConfig(workers=1))),
        "tagger": lambda: _all(annotate_documents(documents, AnnotateConfig(annotator="tagger", tagger=tagger))),
        "words alone": lambda: _all(words_of(documents, language=language)),
    }
    characters = sum(len(document.text) for document in documents)
    walls: dict[str, list[float]] = {name: [] for name in ways}
    hours: dict[str, list[float]] = {name: [] for name in ways}
    for nth in range(rounds + 1):
        for name, way in ways.items():
            start, used = time.perf_counter(), time.process_time()
            way()
            if nth:  # the first round compiles and loads
                walls[name].append(characters / (time.perf_counter() - start))
                hours[name].append((time.process_time() - used) / characters * _CHARACTERS_OF_1E9_TOKENS / 3600)
    print(
        f"{len(documents):,} documents, {characters:,} characters, {rounds} rounds in turns; paper: {_PAPER} core-hours"
    )
    for name in ways:
        ratio = statistics.median(a / b for a, b in zip(hours["spacy"], hours[name], strict=True))
        print(
            f"{name:12} {statistics.median(walls[name]):11,.0f} characters/s {statistics.median(hours[name]):7.2f} "
            f"core-hours for 1e9 tokens, {ratio:.1f} times less than spacy"
        )


def _all(items: object) -> None:
    collections.deque(items, maxlen=0)  # type: ignore[call-overload]


def print_learned(tagger: str, path: Path) -> None:
    """What is learned from half of the marked documents, on the other half."""
    marked = list(read_marked(path, collections.Counter()))
    tokenizer = Tokenizer(train_tokenizer((full_text(each.document) for each in marked), vocab_size=8_000))
    half, judged = marked[::2], marked[1::2]
    about, start = load_tagger(tagger)
    language = about.language
    taught = [each for nth, each in enumerate(half) if nth % 5]
    examples = list(learning.read_marked(((each.document, fact_spans(each)) for each in taught), language=language))
    own = dataclasses.replace(learning.describe(examples, language=language), width=about.width)
    network = learning.teach(examples, own, start=start, epochs=learning.EPOCHS_AFTER, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        save_tagger(Path(folder), own, network)
        score = {t: _agreement(half[::5], folder, float(t), tokenizer) for t in _THRESHOLDS}
        best = float(max(_THRESHOLDS, key=lambda t: score[t].f1 if score[t].second <= 0.25 * score[t].units else 0.0))
        found = _agreement(judged, folder, best, tokenizer)
    spacy = AnnotateConfig()
    by_rule = [
        flags(document, select_spans(spans, RuleConfig()), tokenizer)
        for document, spans in annotate_documents([each.document for each in judged], spacy)
    ]
    rule = agreement_of(_by_model(judged, tokenizer), np.concatenate(by_rule))
    print(f"\n{path.name}: taught by {len(taught)} documents, threshold {best:.2f} chosen on {len(half[::5])} others")
    for name, got in (("the default rule, spaCy", rule), ("tagger", found)):
        print(
            f"{name:24} on {len(judged)} more: flagged {got.second / got.units:.1%}, recall {got.recall:.3f}, "
            f"precision {got.precision:.3f}, F1 {got.f1:.3f}"
        )


def _agreement(marked: list[Marked], folder: str, threshold: float, tokenizer: TextTokenizer) -> Agreement:
    config = AnnotateConfig(annotator="tagger", tagger=folder, tagger_threshold=threshold)
    found = annotate_documents([each.document for each in marked], config)
    ours = [flags(document, spans, tokenizer) for document, spans in found]
    return agreement_of(_by_model(marked, tokenizer), np.concatenate(ours))


def _by_model(marked: list[Marked], tokenizer: TextTokenizer) -> np.ndarray:
    return np.concatenate([flags(each.document, fact_spans(each), tokenizer) for each in marked])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tagger", required=True)
    parser.add_argument("--marked", type=Path)
    parser.add_argument("--documents", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print_speed(arguments.tagger, list(read_documents(CorpusConfig()))[: arguments.documents], rounds=arguments.rounds)
    if arguments.marked:
        print_learned(arguments.tagger, arguments.marked)


if __name__ == "__main__":
    answered(main)
