"""How far two stored annotations of one corpus agree. The unit is a character other than white space.

Words differ by language, and some languages write none apart; characters are the same in all. The first annotation is
taken for the truth.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lacy_jax.config import RuleConfig
from lacy_jax.data.annotators.stored import StoredMarks
from lacy_jax.data.datasets import AnnotatedSource, kind_of, open_dataset, version_folder
from lacy_jax.data.documents import Document, Spans, full_text
from lacy_jax.data.factual import covered, runs, select_spans, solid_characters
from lacy_jax.data.marks import who_marked
from lacy_jax.data.prepared import annotated_beside
from lacy_jax.errors import DataError
from lacy_jax.measures.agreement import Agreement
from lacy_jax.terminal import printable

UNMARKED = ""
SHOWN_DOCUMENTS = 30
COUNTED_PHRASES = 100_000  # different ones; of further ones nothing is counted
LONGEST_PHRASE = 80  # characters of one in a list


@dataclass(frozen=True)
class Annotation:
    """One of the two: its annotated documents, and the rule that chooses among their marks; None: all of them count."""

    folder: Path
    rule: RuleConfig | None
    fingerprint: dict[str, Any]

    def chosen(self, spans: Spans) -> Spans:
        return spans if self.rule is None else select_spans(spans, self.rule)

    @property
    def described(self) -> str:
        """Who marked, and what counts."""
        found = self.fingerprint.get("annotator")
        annotator = found if isinstance(found, dict) else {}
        return f"{_in_a_row(who_marked(annotator))}, {'all marks' if self.rule is None else 'what its rule chooses'}"


@dataclass(frozen=True)
class Difference:
    """A document as both mark it. marked: int8[characters of its full text], 1 for the first, plus 2 for the second."""

    document: Document
    marked: np.ndarray

    @property
    def size(self) -> int:
        """How many characters one of the two marks alone."""
        return int(np.isin(self.marked, (1, 2)).sum())


@dataclass(frozen=True)
class Comparison:
    """What came of it.

    pairs: (kind of the first, kind of the second) -> characters; UNMARKED stands for no mark.
    phrases: of the first alone, and of the second alone: the words, and how often.
    examples: documents in which the two differ, drawn evenly from the corpus.
    """

    documents: int
    pairs: Counter[tuple[str, str]]
    phrases: tuple[Counter[str], Counter[str]]
    examples: list[Difference]

    @property
    def overall(self) -> Agreement:
        """Marked or not, whatever the kind."""
        return _agreement(self.pairs, lambda kind: kind != UNMARKED, lambda kind: kind != UNMARKED)

    def kinds(self) -> Iterator[tuple[str, int, int, float, float, float]]:
        """(kind, characters of the first, of the second, precision, recall, kappa), the most frequent first.

        Precision: of the second's marks of the kind, those that the first marks with any. Recall: of the first's, those
        that the second marks with any. Kappa: of "is marked with this kind"; NaN where one of the two has no such kind.
        """
        sizes: Counter[str] = Counter()
        for (first, second), count in self.pairs.items():
            sizes.update(dict.fromkeys({first, second} - {UNMARKED}, count))
        for kind in sorted(sizes, key=lambda kind: (-sizes[kind], kind)):
            same = _agreement(self.pairs, kind.__eq__, kind.__eq__)
            precision = _agreement(self.pairs, lambda other: other != UNMARKED, kind.__eq__).precision
            recall = _agreement(self.pairs, kind.__eq__, lambda other: other != UNMARKED).recall
            kappa = same.kappa if same.first and same.second else float("nan")
            yield kind, same.first, same.second, precision, recall, kappa


def open_annotation(folder: str) -> Annotation:
    """An annotated dataset, all of whose marks count; or a packed one, for the marks that its rule chose.

    Raises:
        DataError: it is neither, or the documents that were packed are not beside it.
    """
    path = version_folder(Path(folder))
    if not path.is_dir():
        raise DataError(f"--compare: there is no folder {folder}")
    if kind_of(path) != "packed":  # `AnnotatedSource` says what is wrong
        return Annotation(path, None, AnnotatedSource(path).fingerprint)
    packed = open_dataset(path, "packed").info.metadata["fingerprint"]
    try:
        documents = annotated_beside(path, packed)
        rule = RuleConfig(**packed["rule"])
    except (LookupError, TypeError, ValueError):
        raise DataError(f"--compare={folder}: its fingerprint names no documents, or no rule") from None
    if not documents.is_dir():
        raise DataError(f"--compare={folder}: its documents are not beside it, in {documents}; name their own folder")
    return Annotation(documents, rule, packed)


def compare(
    first: Annotation,
    second: Annotation,
    *,
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> Comparison:
    """How far two annotations agree, by a pass over all documents.

    Raises:
        DataError: the two are not of the same documents.
    """
    source, other = AnnotatedSource(first.folder), StoredMarks(second.folder)
    if len(source) != len(other):
        raise DataError(
            f"--compare: {first.folder} has {len(source):,} documents, {second.folder} has {len(other):,}; compare "
            "annotations of one corpus"
        )
    pairs: Counter[tuple[str, str]] = Counter()
    phrases: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    examples: list[Difference] = []
    for index, (document, spans) in enumerate(source):
        progress("compare", index + 1, len(source))
        text, own = full_text(document), (first.chosen(spans), second.chosen(other.spans_of(document)))
        solid = solid_characters(text)
        pairs += _pairs(*own, solid=solid)
        marked = [covered(each, len(text)) & solid for each in own]
        for counts, mine, theirs in zip(phrases, marked, marked[::-1], strict=True):
            _count_phrases(counts, text, mine & ~theirs, solid=solid)
        difference = Difference(document, (marked[0] + 2 * marked[1]).astype(np.int8))
        # The next example is the first document, from its place on, in which the two differ.
        due = index * SHOWN_DOCUMENTS >= len(examples) * len(source)
        if due and difference.size and len(examples) < SHOWN_DOCUMENTS:
            examples.append(difference)
    return Comparison(len(source), pairs, phrases, examples)


def lines(comparison: Comparison, first: Annotation, second: Annotation) -> list[str]:
    """The comparison as text: a table in Markdown; what data holds steers no terminal."""
    rows = [f"A  {first.folder}  ({first.described})", f"B  {second.folder}  ({second.described})"]
    rows += [f"{comparison.documents:,} documents, {comparison.pairs.total():,} characters other than white space", ""]
    rows += ["| kind | A | B | precision | recall | F1 | kappa |", "|---|---|---|---|---|---|---|"]
    rows += [f"| {' | '.join(cells)} |" for cells in table(comparison)]
    return [*rows, "", "A is taken for the truth; shares of characters (docs/annotation.md)."]


def table(comparison: Comparison, *, most: int = 40) -> list[list[str]]:
    """The cells of a row for all kinds together, then for each of the `most` frequent ones."""
    whole, total = comparison.overall, max(comparison.pairs.total(), 1)
    rows = [["all", *(f"{size / total:.1%}" for size in (whole.first, whole.second))]]
    rows[0] += [shown(value) for value in (whole.precision, whole.recall, whole.f1, whole.kappa)]
    for kind, first, second, precision, recall, kappa in list(comparison.kinds())[:most]:
        cells = [_in_a_row(kind), f"{first / total:.1%}", f"{second / total:.1%}"]
        rows.append([*cells, shown(precision), shown(recall), "-", shown(kappa)])
    return rows


def _in_a_row(text: str) -> str:
    """Words of somebody else's data, for one line of a terminal."""
    return " ".join(printable(text).split())


def shown(value: float) -> str:
    """A share with three decimals; "-" for NaN."""
    return "-" if np.isnan(value) else f"{value:.3f}"


def _agreement(pairs: Counter[tuple[str, str]], first: Any, second: Any) -> Agreement:
    counts = Counter[tuple[bool, bool]]()
    for (one, other), count in pairs.items():
        counts[bool(first(one)), bool(second(other))] += count
    return Agreement(counts[True, True], counts[True, False], counts[False, True], counts[False, False])


def _pairs(first: Spans, second: Spans, *, solid: np.ndarray) -> Counter[tuple[str, str]]:
    """How many solid characters have which kinds."""
    names = [UNMARKED, *sorted({*first.kinds, *second.kinds})]
    number = {name: index for index, name in enumerate(names)}
    labels = []
    for spans in (first, second):
        own = np.zeros(len(solid), np.int64)
        for start, end, kind in reversed(list(zip(spans.starts, spans.ends, spans.kinds, strict=True))):
            own[start:end] = number[kind]  # of spans that overlap the first one labels
        labels.append(own[solid])
    counts = np.bincount(labels[0] * len(names) + labels[1], minlength=len(names) ** 2)
    found = np.flatnonzero(counts)
    return Counter({(names[pair // len(names)], names[pair % len(names)]): int(counts[pair]) for pair in found})


def _count_phrases(counts: Counter[str], text: str, alone: np.ndarray, *, solid: np.ndarray) -> None:
    """Adds the runs of characters that one annotation marks alone; white space within a run joins."""
    joined = alone | (~solid & _between(alone, solid))
    for start, end in runs(joined):
        phrase = " ".join(text[start:end].split())[:LONGEST_PHRASE]
        if phrase in counts or len(counts) < COUNTED_PHRASES:
            counts[phrase] += 1


def _between(alone: np.ndarray, solid: np.ndarray) -> np.ndarray:
    """bool[characters]: the solid characters next to it, before and after, are both `alone`."""
    places = np.flatnonzero(solid)
    if not len(places):
        return np.zeros(len(solid), bool)
    after = np.searchsorted(places, np.arange(len(solid)))
    inside = (after > 0) & (after < len(places))
    before, behind = places[np.maximum(after - 1, 0)], places[np.minimum(after, len(places) - 1)]
    found: np.ndarray = inside & alone[before] & alone[behind]
    return found
