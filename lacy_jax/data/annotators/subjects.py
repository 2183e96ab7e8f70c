"""Which relations of a parser make a word part of a grammatical subject: a table for each scheme of labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scheme:
    """A scheme of labels.

    subjects: relations of a subject or a possessor to its head. modifiers: relations by which a word belongs to its
    head's phrase. A label without ":" stands for its subtypes, too: nsubj for nsubj:pass.
    """

    name: str
    subjects: tuple[str, ...]
    modifiers: tuple[str, ...]

    def subjects_in(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Those of a parser's labels that are a subject's."""
        return _chosen(labels, self.subjects)

    def modifiers_in(self, labels: Iterable[str]) -> tuple[str, ...]:
        """Those of a parser's labels that are a modifier's."""
        return tuple(label for label in _chosen(labels, self.modifiers) if label not in self.subjects)


# spaCy's English models (ClearNLP). "The king of France": France is the object (pobj) of a preposition, no modifier.
CLEAR = Scheme(
    "clear",
    subjects=("nsubj", "nsubjpass", "csubj", "csubjpass", "poss"),
    modifiers=("compound", "nmod", "amod", "nummod", "quantmod", "appos", "det", "case", "punct"),
)
# Universal Dependencies, and version 1 of them (Chinese). France is nmod here, so nmod is no modifier.
UNIVERSAL = Scheme(
    "universal",
    subjects=("nsubj", "nsubjpass", "csubj", "csubjpass", "nmod:poss", "nmod:gsubj"),
    modifiers=("compound", "amod", "nummod", "appos", "det", "case", "punct", "flat", "fixed", "name"),
)
# TIGER (German). A preposition is the head of what follows it, so its phrase ends there. No possessors: the label of a
# genitive, ag, also stands for "of".
TIGER = Scheme(
    "tiger",
    subjects=("sb",),
    modifiers=("nk", "pnc", "nmc", "adc", "ams", "app", "ac", "uc", "punct"),
)


def scheme_of(labels: Sequence[str]) -> Scheme:
    """The scheme of a parser's labels; of none, the English models'."""
    if "sb" in labels:
        return TIGER
    return UNIVERSAL if {"obj", "obl"}.intersection(labels) or any(":" in label for label in labels) else CLEAR


def _chosen(labels: Iterable[str], names: Iterable[str]) -> tuple[str, ...]:
    wanted = set(names)
    return tuple(label for label in labels if label in wanted or label.partition(":")[0] in wanted)
