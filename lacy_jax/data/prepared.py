"""What a run reads, prepared and opened: one dataset, or the datasets of a mixture."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from lacy_jax.config import PartnerLosses, RuleConfig, Shuffle
from lacy_jax.data import datasets
from lacy_jax.data.datasets import AnnotatedSource, Fingerprint
from lacy_jax.data.documents import Document, Spans, split_of
from lacy_jax.data.factual import select_spans
from lacy_jax.data.order import Windows
from lacy_jax.data.pack import TRAIN_SHARDS, Packed, Progress, open_packed
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.folders import local_copy
from lacy_jax.paths import is_bucket

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """What a run reads.

    packed: of a mixture (data/mixture.py), its trained datasets together; `directory` is that of the first.
    annotated_directory: may be missing where the packed dataset was made elsewhere.
    parts: each dataset of a mixture by its name, those that are only validated, too; {} where there is one dataset.
    """

    packed: Packed
    annotated_directory: Path
    parts: Mapping[str, "Prepared"] = dataclasses.field(default_factory=dict)

    @property
    def train(self) -> Windows:
        return self.packed.train

    @property
    def validation(self) -> Windows:
        return self.packed.validation

    @property
    def tokenizer(self) -> TextTokenizer:
        return self.packed.tokenizer

    @property
    def fingerprint(self) -> Fingerprint:
        return self.packed.fingerprint

    @property
    def has_documents(self) -> bool:
        """Whether the annotated dataset is there, or that of some dataset of a mixture."""
        if self.parts:
            return any(part.has_documents for part in self.parts.values())
        return self.annotated_directory.exists()

    def documents(self) -> Iterator[Document]:
        """All documents of the corpus, in its order; of a mixture, of one dataset after the other.

        Raises:
            DataError: the annotated dataset is not there.
        """
        if self.parts:
            return itertools.chain.from_iterable(part.documents() for part in self.parts.values())
        return (document for document, _ in AnnotatedSource(self.annotated_directory))

    def validation_documents(self) -> Iterator[tuple[Document, Spans]]:
        """The held-out documents, each with the spans that the rule calls factual. Raises as `documents` does.

        Of a mixture: one of each dataset whose documents are there, in turn.
        """
        if self.parts:
            yield from _in_turn([part.validation_documents() for part in self.parts.values() if part.has_documents])
            return
        rule, share = RuleConfig(**self.fingerprint["rule"]), self.fingerprint["validation_share"]
        for document, spans in AnnotatedSource(self.annotated_directory):
            if split_of(document.id, validation_share=share) == "validation":
                yield document, select_spans(spans, rule)


def open_elsewhere(
    folder: str,
    *,
    expected: Fingerprint,
    progress: Progress,
    shuffle: Shuffle = "full",
    partner_losses: PartnerLosses = "none",
) -> Prepared:
    """The packed dataset of a version folder. From a bucket it is copied first, with a block shuffle all but `train`.

    Args:
        expected: entries that its fingerprint must have.
        shuffle: the order in which training reads it. partner_losses: see `open_packed`.

    Raises:
        DataError: there is no packed dataset, or it is another one.
        StorageError: it lies in a bucket and cannot be copied.
    """
    # Batches read records at random, one at a time: from a bucket, each would be a request.
    fetched = is_bucket(folder) and shuffle == "block"
    directory = local_copy(folder, progress=progress, without=TRAIN_SHARDS if fetched else "")
    packed = open_packed(
        directory,
        expected=expected,
        shuffle=shuffle,
        shards=folder.rstrip("/") if fetched else "",
        partner_losses=partner_losses,
    )
    return Prepared(packed=packed, annotated_directory=annotated_beside(directory, packed.fingerprint))


def annotated_directory(root: Path, fingerprint: Fingerprint) -> Path:
    """The version folder of the annotated documents that a fingerprint names, there or not, under a data directory."""
    own = {key: fingerprint[key] for key in ("format", "corpus", "annotator")}
    name = datasets.fingerprint_name(fingerprint["corpus"]["name"], own)
    return datasets.dataset_directory(root, "annotated", name=name)


def annotated_beside(directory: Path, fingerprint: Fingerprint) -> Path:
    """The same, in the data directory that the version folder of a packed dataset lies in."""
    return annotated_directory(directory.absolute().parent.parent.parent, fingerprint)


def _in_turn(each: Sequence[Iterator[T]]) -> Iterator[T]:
    """The first item of each, then the second of each, and so on; those that end are left out."""
    left = list(each)
    while left:
        for items in tuple(left):
            try:
                yield next(items)
            except StopIteration:
                left.remove(items)
