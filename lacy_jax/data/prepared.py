"""What a run reads, prepared and opened."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from lacy_jax.config import RuleConfig
from lacy_jax.data import datasets
from lacy_jax.data.datasets import AnnotatedSource, Fingerprint
from lacy_jax.data.documents import Document, Spans, split_of
from lacy_jax.data.factual import select_spans
from lacy_jax.data.pack import Packed, PackedSource
from lacy_jax.data.tokenizer import TextTokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """What a run reads. `annotated_directory` may be missing where the packed dataset was made elsewhere."""

    packed: Packed
    annotated_directory: Path

    @property
    def train(self) -> PackedSource:
        return self.packed.train

    @property
    def validation(self) -> PackedSource:
        return self.packed.validation

    @property
    def tokenizer(self) -> TextTokenizer:
        return self.packed.tokenizer

    @property
    def fingerprint(self) -> Fingerprint:
        return self.packed.fingerprint

    def documents(self) -> Iterator[Document]:
        """All documents of the corpus, in its order. Raises `DataError` where the annotated dataset is not there."""
        return (document for document, _ in AnnotatedSource(self.annotated_directory))

    def validation_documents(self) -> Iterator[tuple[Document, Spans]]:
        """The held-out documents, each with the spans that the rule calls factual. Raises as `documents` does."""
        rule, share = RuleConfig(**self.fingerprint["rule"]), self.fingerprint["validation_share"]
        for document, spans in AnnotatedSource(self.annotated_directory):
            if split_of(document.id, validation_share=share) == "validation":
                yield document, select_spans(spans, rule)


def annotated_directory(root: Path, fingerprint: Fingerprint) -> Path:
    """The version folder of the annotated documents that a fingerprint names, there or not, under a data directory."""
    own = {key: fingerprint[key] for key in ("format", "corpus", "annotator")}
    name = datasets.fingerprint_name(fingerprint["corpus"]["name"], own)
    return datasets.dataset_directory(root, "annotated", name=name)
