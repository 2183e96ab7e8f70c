"""The page of `lacy_jax.prepare --compare`: the table, what only one of the two marks, and documents to look at."""

import itertools

import numpy as np
from markupsafe import Markup

from lacy_jax.data.documents import full_text
from lacy_jax.evidence.comparison.compare import Annotation, Comparison, Difference, table
from lacy_jax.evidence.pages.render import render, write_page
from lacy_jax.evidence.pages.tokens import visible

PHRASES = 40
CHARACTERS = 1_500  # of a document
BEFORE = 200  # of these, before the first difference
_CLASSES = ("", "a", "b", "both")


def write_comparison_page(
    path: str, comparison: Comparison, *, first: Annotation, second: Annotation, command: str
) -> None:
    """Writes the page to `path`. Nothing that a document holds is markup there."""
    page = render(
        "comparison.html",
        documents=comparison.documents,
        characters=comparison.pairs.total(),
        sides=[(name, str(each.folder), each.described) for name, each in (("A", first), ("B", second))],
        rows=table(comparison),
        phrases=[
            (f"Only {name}", [(visible(phrase), count) for phrase, count in counts.most_common(PHRASES)])
            for name, counts in zip("AB", comparison.phrases, strict=True)
        ],
        examples=[
            (visible(each.document.title or each.document.id), marked_text(each)) for each in comparison.examples
        ],
        command=command,
    )
    write_page(path, page)


def marked_text(difference: Difference) -> Markup:
    """The text around the first difference; what is marked is coloured by who marks it."""
    text, marked = full_text(difference.document), difference.marked
    first = int(np.flatnonzero(np.isin(marked, (1, 2)))[0])
    start = max(0, first - BEFORE)
    text, marked = text[start : start + CHARACTERS], marked[start : start + CHARACTERS]
    edges = [0, *(np.flatnonzero(np.diff(marked)) + 1).tolist(), len(text)]
    parts = [Markup("…" if start else "")]
    for begin, end in itertools.pairwise(edges):
        kind, shown = _CLASSES[marked[begin]], visible(text[begin:end])
        parts.append(Markup('<mark class="{}">{}</mark>').format(kind, shown) if kind else shown)
    return Markup("").join([*parts, Markup("…" if start + CHARACTERS < len(full_text(difference.document)) else "")])
