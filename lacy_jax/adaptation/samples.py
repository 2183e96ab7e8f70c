"""What an adapted model writes after the openings of held-out documents, alone and in its cascade, checked by them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lacy_jax.cascade import Cascade, Completion, Partner
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import CorpusConfig
from lacy_jax.console import Reporter
from lacy_jax.data.corpora import vital_articles
from lacy_jax.data.documents import Document
from lacy_jax.evidence.real_text.people import Subject
from lacy_jax.evidence.real_text.suite import RealTextScores, TextRecord, check, score
from lacy_jax.evidence.run_report.samples import prompt_of

TOPICS = ("People", "Geography")  # of the embedded corpus: what is asked about is as a user would ask
BATCH = 8


@dataclass(frozen=True)
class Written:
    """N texts, and their claims compared with the documents (docs/real_text.md)."""

    completions: list[Completion]
    records: tuple[TextRecord, ...]
    scores: RealTextScores


@dataclass(frozen=True)
class Samples:
    """The same N openings, gone on with by the model alone and by its cascade."""

    alone: Written
    asked: Written


def worth_asking(documents: Iterable[Document], corpus: CorpusConfig) -> list[Document]:
    """Those of the documents that the samples are about: people and places where the corpus says so, or else all."""
    documents = list(documents)
    if corpus.name != "vital_articles":
        return documents
    topics = vital_articles.topics()
    return [document for document in documents if topics[document.id] in TOPICS]


def write_samples(
    model: LoadedModel, partner: Partner | None, documents: Sequence[Document], *, reporter: Reporter
) -> Samples:
    """Lets the model go on from the openings of held-out documents, greedily: alone, and where it may ask.

    Raises:
        DataError: spaCy or its model is missing.
    """
    prompts = [prompt_of(document) for document in documents]
    done: list[Completion] = []
    written = []
    for asked in (None, partner):
        found = {}
        for index, completion in Cascade(model, asked).iterate(prompts, batch_size=BATCH):
            found[index] = completion
            reporter.update("samples", len(done) + len(found), 2 * len(prompts))
        done += [found[index] for index in range(len(prompts))]
        written.append(done[-len(prompts) :])
    return Samples(*(_checked(documents, completions) for completions in written))


def _checked(documents: Sequence[Document], completions: list[Completion]) -> Written:
    subjects = [Subject(document, "validation") for document in documents]
    records = check(list(zip(subjects, completions, strict=True)))
    return Written(completions, records, score(records))
