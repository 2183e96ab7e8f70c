"""Which words of a document carry facts: character spans, with what a rule needs to choose among them.

Marking is the costly step, so it keeps every candidate word and leaves the choice to `select_spans`, which
is applied when packing: another rule, tokenizer or window length never runs spaCy again. See docs/annotation.md.
"""

import dataclasses
import itertools
from typing import Literal

import numpy as np

from lacy_jax.config import RuleConfig


@dataclasses.dataclass(frozen=True, eq=False)
class Spans:
    """N marked spans of one document, ordered by start.

    starts, ends: int32[N], character offsets into `corpus.full_text(document)`; 0 <= start < end.
    kinds: N names: an entity label ("GPE", "DATE", ...), else "PROPN" or "NUM"; a spans file brings its own.
    subject: bool[N], the word is part of a grammatical subject.
    repeated: bool[N], its lower-cased form occurred earlier in the document, title included.
    """

    starts: np.ndarray
    ends: np.ndarray
    kinds: tuple[str, ...]
    subject: np.ndarray
    repeated: np.ndarray

    def __len__(self) -> int:
        return len(self.kinds)


def select_spans(spans: Spans, rule: RuleConfig) -> Spans:
    """The spans that `rule` calls factual, in the same order.

    In `rule.kinds`, "entity" stands for every kind but PROPN and NUM, so also for those of a spans file.
    """
    names = {name.strip() for name in rule.kinds.split(",")}
    keep = np.fromiter(
        (kind in names or ("entity" in names and kind not in ("PROPN", "NUM")) for kind in spans.kinds),
        dtype=bool,
        count=len(spans),
    )
    if rule.exclude_subjects:
        keep &= ~spans.subject
    if rule.first_mention_only:
        keep &= ~spans.repeated
    return Spans(
        starts=spans.starts[keep],
        ends=spans.ends[keep],
        kinds=tuple(itertools.compress(spans.kinds, keep)),
        subject=spans.subject[keep],
        repeated=spans.repeated[keep],
    )


def factual_tokens(
    starts: np.ndarray,
    ends: np.ndarray,
    *,
    text: str,
    spans: Spans,
    sub_tokens: Literal["all", "first"] = "all",
) -> np.ndarray:
    """Which tokens of `text` are factual, as bool[N].

    starts, ends: int32[N], each token's characters in `text` (the full text), both non-decreasing; the tokens of a
    character that is spelt in bytes each cover the whole character.
    spans: the selected ones. A token is factual when it shares a character other than white space with one of them;
    under "first", only the first such token of each span is.
    """
    solid = ~np.strings.isspace(np.frombuffer(text.encode("utf-32-le"), dtype="<U1"))
    if sub_tokens == "first":
        return _first_tokens(starts, ends, solid=solid, spans=spans)
    edges = np.zeros(len(text) + 1, dtype=np.int32)
    np.add.at(edges, spans.starts, 1)
    np.add.at(edges, spans.ends, -1)
    marked = (np.cumsum(edges[:-1]) > 0) & solid
    count = np.concatenate([[0], np.cumsum(marked)])
    return count[ends] > count[starts]


def _first_tokens(starts: np.ndarray, ends: np.ndarray, *, solid: np.ndarray, spans: Spans) -> np.ndarray:
    factual = np.zeros(len(starts), dtype=bool)
    if not len(starts):
        return factual
    solid_at = np.flatnonzero(solid)
    # The first solid character of each span, then the first token that ends behind it.
    nth = np.searchsorted(solid_at, spans.starts)
    first = solid_at[np.minimum(nth, len(solid_at) - 1)] if len(solid_at) else np.empty(0, np.int64)
    inside = (nth < len(solid_at)) & (first < spans.ends) if len(first) else np.zeros(len(spans), bool)
    token = np.searchsorted(ends, first[inside], side="right")
    token = token[token < len(starts)]
    factual[token] = True
    return factual
