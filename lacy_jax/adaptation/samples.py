"""What an adapted model writes after the openings of held-out documents, alone and in its cascade, checked by them."""

from collections.abc import Callable, Iterable, Sequence
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
    if not vital_articles.has_topics(corpus):
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
    count = len(documents)
    alone = _written(Cascade(model, None), documents, progress=lambda done: reporter.update("samples", done, 2 * count))
    asked = _written(
        Cascade(model, partner), documents, progress=lambda done: reporter.update("samples", count + done, 2 * count)
    )
    return Samples(alone, asked)


def _written(cascade: Cascade, documents: Sequence[Document], *, progress: Callable[[int], None]) -> Written:
    found: dict[int, Completion] = {}
    for index, completion in cascade.iterate([prompt_of(document) for document in documents], batch_size=BATCH):
        found[index] = completion
        progress(len(found))
    completions = [found[index] for index in range(len(documents))]
    subjects = [Subject(document, "validation") for document in documents]
    records = check(list(zip(subjects, completions, strict=True)))
    return Written(completions, records, score(records))
