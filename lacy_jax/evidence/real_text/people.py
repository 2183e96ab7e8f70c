"""People of Wikipedia that a cascade is asked about: articles of the embedded corpus."""

from dataclasses import dataclass
from typing import Literal

from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpora import vital_articles
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import Document, split_of
from lacy_jax.errors import DataError

TOPIC = "People"
Seen = Literal["validation", "train", "unknown"]


@dataclass(frozen=True)
class Subject:
    """What is written about, by its article; `split`: where the SLM's corpus has it, "unknown" if that is another."""

    document: Document
    split: Seen


def find_people(corpus: CorpusConfig, *, count: int = 0) -> list[Subject]:
    """People of the embedded corpus, held-out ones first, each group in the order of the corpus.

    An article is about a person where the data file's topic says so: of 156 read all were, two of them
    of several people (the Montgolfier brothers, ABBA).

    Args:
        corpus: the SLM's. If it is not the embedded one in English, all of the people there count, split "unknown".
        count: how many; 0: all that are held out (of another corpus: all). More than are held out: training
            articles follow, and their split says so.

    Raises:
        DataError: the embedded corpus is not installed, or holds no (or, for 0, no held-out) people.
    """
    known = vital_articles.has_topics(corpus)
    topics = vital_articles.topics()
    people: dict[Seen, list[Subject]] = {"validation": [], "unknown": [], "train": []}
    for document in read_documents(corpus if known else CorpusConfig()):
        if topics[document.id] == TOPIC:
            split = split_of(document.id, validation_share=corpus.validation_share) if known else "unknown"
            people[split].append(Subject(document, split))
    unseen = people["validation"] + people["unknown"]
    found = (unseen + people["train"])[:count] if count else unseen
    if not found and count:
        raise DataError("real_text: the corpus has no article about a person; raise corpus.max_documents")
    if not found:
        raise DataError(
            "real_text: no held-out article about a person; raise corpus.validation_share or corpus.max_documents, or "
            "ask for a count of people, which may be training articles"
        )
    return found
