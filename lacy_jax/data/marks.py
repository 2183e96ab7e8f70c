"""What a preparation says about its marks: who made them, how much is factual, and examples."""

import logging
from collections.abc import Iterator

from lacy_jax.config import AnnotateConfig, RuleConfig
from lacy_jax.data.annotate import JUDGED, JUDGED_CHARACTERS, annotator_doubts
from lacy_jax.data.datasets import AnnotatedSource, Fingerprint
from lacy_jax.data.documents import full_text
from lacy_jax.data.factual import select_spans
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import DataError, StorageError

EXAMPLES = 8
_SEARCHED = 64  # documents in which examples are looked for


def say_marks(prepared: Prepared) -> list[str]:
    """The lines about who marked, one for each dataset."""
    if not prepared.parts:
        return [f"marked by   {describe_marks(prepared)}"]
    return [f"marked by   {name}: {describe_marks(part)}" for name, part in prepared.parts.items()]


def describe_marks(prepared: Prepared) -> str:
    """One line: "en_core_web_sm 3.8.0: 14.3% factual: Warsaw (GPE), 1867 (DATE), ..."."""
    who = who_marked(prepared.fingerprint["annotator"])
    splits = prepared.packed.statistics.values()
    share = sum(each["factual"] for each in splits) / sum(each["tokens"] for each in splits)
    try:
        examples = list(_examples(prepared))
    except (DataError, StorageError):  # the documents cannot be read: no reason to end a run that does not read them
        examples = []
    return f"{who}: {share:.1%} factual" + (f": {', '.join(examples)}, ..." if examples else "")


def who_marked(annotator: Fingerprint) -> str:
    """The annotator of a fingerprint, in words: "en_core_web_sm 3.8.0", "partner documents"."""
    named = [str(annotator[key]) for key in ("model", "version") if annotator.get(key)]
    partner = annotator.get("partner")  # its form, and what it knows
    form = [str(each) for each in partner[:1]] if isinstance(partner, list) else []
    return " ".join(named or [str(annotator.get("annotator", "nobody known")), *form])


def doubts(prepared: Prepared, settings: AnnotateConfig) -> Iterator[str]:
    """What is wrong with the marks: there are none, or what the annotator doubts of its own (data/annotate.py).

    The second only where documents and annotator are here.
    """
    if not any(each["factual"] for each in prepared.packed.statistics.values()):
        yield "no token is factual by the rule: a model has nothing to learn from this data about when to call"
    try:
        source = AnnotatedSource(prepared.annotated_directory)
        texts = [document.text[:JUDGED_CHARACTERS] for document, _ in source.evenly(JUDGED)]
        yield from annotator_doubts(texts, settings)
    except (DataError, StorageError) as error:
        logging.info("nothing is said about the marks: %s", error)


def _examples(prepared: Prepared) -> Iterator[str]:
    """Words that the rule calls factual, each once, of documents all over the corpus."""
    source = AnnotatedSource(prepared.annotated_directory)
    rule, seen = RuleConfig(**prepared.fingerprint["rule"]), set[str]()
    for document, spans in source.evenly(_SEARCHED):
        chosen = select_spans(spans, rule)
        if not len(chosen):
            continue
        middle = len(chosen) // 2
        word = " ".join(full_text(document)[chosen.starts[middle] : chosen.ends[middle]][:40].split())
        if word not in seen:
            seen.add(word)
            yield f"{word} ({chosen.kinds[middle]})"
        if len(seen) == EXAMPLES:
            return
