"""What the annotators cost, and how far they agree: spaCy's marks and those of a partner, on two corpora.

    python -m benchmarks.annotators 1000 300 [--directory=FOLDER] [--checkpoint=MODEL --few=20]

1,000 biographies of the closed world (database partner, 90% of the facts), and 300 leads of the embedded corpus
(documents partner, the article itself left out; with --checkpoint also that model, on a few of them). It prints
characters per second of one process. Then it prints `lacy_jax.prepare --compare` of each pair, first with all of
spaCy's marks, then with those of the default rule.
"""

import argparse
import dataclasses
import time
from pathlib import Path

from benchmarks.door import answered
from lacy_jax.config import AnnotateConfig, BiographiesConfig, CorpusConfig, RuleConfig
from lacy_jax.data.annotate import annotate_documents, annotator_fingerprint
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.datasets import dataset_directory, fingerprint_name, write_annotated
from lacy_jax.evidence.comparison.compare import compare, lines, open_annotation

WORLD = BiographiesConfig(people=600, documents=12_000)


def annotate(config: AnnotateConfig, corpus: CorpusConfig, *, count: int, directory: Path) -> Path:
    """Marks the first `count` documents, prints what that cost, and stores them; returns their folder."""
    documents = list(read_documents(dataclasses.replace(corpus, max_documents=count)))
    characters = sum(len(each.text) for each in documents)
    print_of = annotator_fingerprint(config, corpus=corpus, directory=str(directory))
    started, cpu = time.perf_counter(), time.process_time()
    marked = list(annotate_documents(documents, config, corpus=corpus, directory=str(directory)))
    spent, wall = time.process_time() - cpu, time.perf_counter() - started
    asked = (f" {config.partner}" if config.annotator == "partner" else "") + (" at marks" if config.of else "")
    print(
        f"{config.annotator}{asked}: "
        f"{len(documents):,} documents, {characters:,} characters, {sum(len(spans) for _, spans in marked):,} spans, "
        f"{spent:.1f} s of CPU, {characters / wall:,.0f} characters/s"
    )
    fingerprint = {"annotator": print_of, "corpus": {"name": corpus.name}, "count": count}
    name = fingerprint_name(corpus.name, fingerprint)
    folder = dataset_directory(directory, "annotated", name=name)
    if not folder.exists():
        write_annotated(
            marked, directory=directory, name=name, fingerprint=fingerprint, count=count, characters=characters
        )
    return folder


def agreement(first: Path, second: Path) -> None:
    """Prints how far the second agrees with the first, all of its marks, then those of the default rule."""
    one, other = open_annotation(str(first)), open_annotation(str(second))
    for rule in (None, RuleConfig()):
        own = dataclasses.replace(one, rule=rule)
        print("\n".join(lines(compare(own, other), own, other)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("world", type=int)
    parser.add_argument("leads", type=int)
    parser.add_argument("--directory", type=Path, default=Path("runs/annotators"))
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--few", type=int, default=20)
    given = parser.parse_args()
    spacy = AnnotateConfig(workers=1)
    world, leads = CorpusConfig(name="biographies", biographies=WORLD), CorpusConfig()
    runs = [(world, "world:known=0.9", given.world), (leads, "documents", given.leads)]
    runs += [(leads, f"checkpoint:{given.checkpoint}", given.few)] if given.checkpoint else []
    for corpus, partner, count in runs:
        first = annotate(spacy, corpus, count=count, directory=given.directory)
        for of in (str(first), "") if not partner.startswith("checkpoint") else (str(first),):
            asked = AnnotateConfig(annotator="partner", partner=partner, of=of)
            agreement(first, annotate(asked, corpus, count=count, directory=given.directory))


if __name__ == "__main__":
    answered(main)
