"""What a partner that reads is worth: facts answered right, wrong and not at all by documents, a model, and both.

    python -m benchmarks.reader MODEL.gguf --annotated=runs/data/annotated/NAME/1.0.0

"As it stands": held-out articles of the embedded corpus, prepared with spaCy's marks, each cut before one of its facts
(by the default rule, after at least 60 characters, and written with a capital or a digit). "Reworded": people whose
article begins "NAME was a Japanese ..."; the text is "The nationality of NAME is". The documents are all articles of
the corpus, or all but those that are asked about. An answer is right where its first words are the fact's, as many as
both have: "Japan" is wrong for "Japanese". Eight texts are asked at once; the model's programs are compiled before.
"""

import argparse
import random
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.door import answered
from lacy_jax.cascade.partners import Partner
from lacy_jax.cascade.partners.checkpoint import CheckpointPartner
from lacy_jax.cascade.partners.documents import Documents, DocumentStore, build_store
from lacy_jax.cascade.partners.reader import Reader
from lacy_jax.cascade.text.words import terms_of
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.config import CorpusConfig, RuleConfig
from lacy_jax.data.datasets import AnnotatedSource
from lacy_jax.data.documents import Document, Spans, full_text, split_of, text_offset
from lacy_jax.data.factual import select_spans

FIRST = 60  # characters of an article before its fact, at least
NATION = re.compile(r"[^.]{,80}? was an? (?:[a-z]+,? ){,2}([A-Z][a-z]+(?:an|ese|ish|ench|eek|tch))\b(?! [A-Z])")
PERSON = re.compile(r"\b(He|She|his|her)\b")
SLOTS = 8


@dataclass(frozen=True)
class Question:
    """document: the id of the article. text: up to the fact, without the space before it."""

    document: str
    text: str
    fact: str


def question_of(document: Document, spans: Spans, *, rng: random.Random) -> Question | None:
    """One fact of an article; None where it has none of the kind that is asked for."""
    text, facts = full_text(document), select_spans(spans, RuleConfig())
    first = text_offset(document) + FIRST
    places = [(int(start), int(end)) for start, end in zip(facts.starts, facts.ends, strict=True) if start >= first]
    named = [(start, end) for start, end in places if text[start].isupper() or text[start].isdigit()]
    if not named:
        return None
    start, end = rng.choice(named)
    return Question(document.id, text[:start].rstrip(" "), text[start:end])


def reworded(document: Document) -> Question | None:
    """The nationality of a person; None where the article does not begin with somebody's."""
    nation = NATION.match(document.text) if PERSON.search(document.text) else None
    text = f"{document.title}\n\nThe nationality of {document.title} is"
    return None if nation is None else Question(document.id, text, nation[1])


def outcome(piece: str, fact: str) -> str:
    """What became of a question: "right", "wrong" or "" for no answer."""
    if not piece.strip():
        return ""
    pairs = list(zip(terms_of(piece), terms_of(fact), strict=False))
    return "right" if pairs and all(said == true for said, true in pairs) else "wrong"


def row(partner: Partner, questions: Sequence[Question], *, text: str, searched: str, show: int) -> str:
    """A row of the table: what a partner answers, and how long it takes."""
    began, pieces = time.monotonic(), list[str]()
    for at in range(0, len(questions), SLOTS):
        pieces += partner.complete([each.text for each in questions[at : at + SLOTS]])
    seconds = (time.monotonic() - began) / len(questions)
    outcomes = [outcome(piece, each.fact) for piece, each in zip(pieces, questions, strict=True)]
    for piece, each in list(zip(pieces, questions, strict=True))[:show]:
        print(f"{partner.name}: ...{each.text[-60:]!r} {piece!r} for {each.fact!r}")
    shares = [f"{outcomes.count(kind) / len(questions):.1%}" for kind in ("right", "wrong", "")]
    return f"| {text}, {len(questions)} | {searched} | {partner.name} | {' | '.join(shares)} | {seconds:.2f} |"


def main() -> None:
    """Prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--annotated", type=Path, required=True)
    parser.add_argument("--articles", type=int, default=200)
    parser.add_argument("--people", type=int, default=60)
    parser.add_argument("--show", type=int, default=0, help="answers of each partner that are printed")
    options = parser.parse_args()
    share, rng = CorpusConfig().validation_share, random.Random(0)
    articles = list(AnnotatedSource(options.annotated))
    held_out = [item for item in articles if split_of(item[0].id, validation_share=share) == "validation"]
    facts = [question_of(document, spans, rng=rng) for document, spans in held_out]
    nations = [reworded(document) for document, _ in rng.sample(articles, len(articles))]
    as_it_stands = [each for each in facts if each is not None][: options.articles]
    other_words = [each for each in nations if each is not None][: options.people]
    ids = {each.document for each in as_it_stands + other_words}
    writer = CheckpointPartner(load_model(options.checkpoint), span="phrase", slots=SLOTS)
    writer.warm_up()
    print("| text, questions | documents | partner | right | wrong | not answered | seconds per question |")
    print("|---" * 7 + "|")
    kinds = (("as it stands", as_it_stands), ("reworded", other_words))
    for text, asked in kinds:
        print(row(writer, asked, text=text, searched="none", show=options.show), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for searched, left_out in (("hold the article", set[str]()), ("leave it out", ids)):
            path = Path(folder) / f"{len(left_out)}.sqlite"
            build_store(
                (document for document, _ in articles if document.id not in left_out), path=path, fingerprint={}
            )
            documents = Documents(DocumentStore(path), span="phrase")
            for text, asked in kinds:
                for partner in (documents, Reader(documents, writer)):
                    print(row(partner, asked, text=text, searched=searched, show=options.show), flush=True)


if __name__ == "__main__":
    answered(main)
