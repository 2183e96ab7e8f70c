"""How well spaCy's marks find the true fact tokens of the closed world (docs/biographies_world.md).

    python -m benchmarks.world_marks --biographies 1000

Precision and recall of each rule, over tokens, and the recall of each relation; the generator knows the truth.
Tokens are those of configs/biographies.py: a SentencePiece of the whole corpus' texts with its vocabulary.
"""

import argparse
import itertools
from collections.abc import Sequence

import numpy as np

from benchmarks.door import answered
from benchmarks.training_step import method_config
from lacy_jax.config import AnnotateConfig, RuleConfig
from lacy_jax.data.annotate import annotate_documents
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import Document, Spans, full_text
from lacy_jax.data.factual import factual_tokens, select_spans
from lacy_jax.data.tokenizer import Tokenizer, train_tokenizer
from lacy_jax.evidence.closed_world.world import RELATIONS

RULES = {
    "entity, PROPN or NUM": RuleConfig(exclude_subjects=False, first_mention_only=False),
    "... not in the subject": RuleConfig(first_mention_only=False),
    "... first mention (the default)": RuleConfig(),
}


def marked(document: Document, spans: Spans, *, tokenizer: Tokenizer) -> np.ndarray:
    """bool[N]: the document's tokens that share a character with a span."""
    text = full_text(document)
    encoding = tokenizer.encode(text)
    return factual_tokens(encoding.starts, encoding.ends, text=text, spans=spans)


def kinds(document: Document, spans: Spans, *, tokenizer: Tokenizer) -> dict[str, np.ndarray]:
    """The same of each relation alone."""
    found = {}
    for relation in RELATIONS:
        own = np.array([kind == relation for kind in spans.kinds], bool)
        part = Spans(spans.starts[own], spans.ends[own], (relation,) * int(own.sum()), spans.subject[own],
                     spans.repeated[own])  # fmt: skip
        found[relation] = marked(document, part, tokenizer=tokenizer)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints one line per rule."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--biographies", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=0, help="spaCy processes; 0: one per core")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE")
    options = parser.parse_args(arguments)
    config = method_config("configs/biographies.py", "ntp", options.set)
    documents = list(read_documents(config.corpus))
    tokenizer = Tokenizer(train_tokenizer(map(full_text, documents), vocab_size=config.tokenizer.vocab_size))
    documents = list(itertools.islice(documents, options.biographies))
    truth = list(annotate_documents(documents, AnnotateConfig(annotator="oracle")))
    facts = np.concatenate([marked(*each, tokenizer=tokenizer) for each in truth])
    by_relation = [kinds(*each, tokenizer=tokenizer) for each in truth]
    relations = {name: np.concatenate([each[name] for each in by_relation]) for name in RELATIONS}
    annotated = list(annotate_documents(documents, AnnotateConfig(workers=options.workers)))
    print(f"{len(documents)} biographies, {len(facts):,} tokens, {facts.mean():.1%} of them true fact tokens")
    print(f"{'':34}{'marked':>8}{'precision':>11}{'recall':>8}   recall of {', '.join(RELATIONS)}")
    for name, rule in RULES.items():
        flagged = np.concatenate(
            [marked(each, select_spans(spans, rule), tokenizer=tokenizer) for each, spans in annotated]
        )
        both = (flagged & facts).sum()
        each = ", ".join(f"{flagged[own].mean():.3f}" for own in relations.values())
        print(f"{name:34}{flagged.mean():8.1%}{both / flagged.sum():11.3f}{both / facts.sum():8.3f}   {each}")


if __name__ == "__main__":
    answered(main)
