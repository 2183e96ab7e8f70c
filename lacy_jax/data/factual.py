"""Which of a document's marked words count as facts, and which tokens those are."""

import dataclasses
import itertools

import numpy as np

from lacy_jax.config import RuleConfig, SubTokens
from lacy_jax.data.documents import Losses, Spans


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
    return keep_spans(spans, keep)


def keep_spans(spans: Spans, keep: np.ndarray) -> Spans:
    """The spans for which `keep`, bool[N], is true, in the same order."""
    return dataclasses.replace(
        spans,
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
    sub_tokens: SubTokens = "all",
) -> np.ndarray:
    """Which tokens of `text` are factual, as bool[N].

    starts, ends: int32[N], each token's characters in `text` (the full text), both non-decreasing; the tokens of a
    character that is spelt in bytes each cover the whole character.
    spans: the selected ones. A token is factual when it shares a character other than white space with one of them;
    under "first", only the first such token of each span is.
    """
    solid = solid_characters(text)
    if sub_tokens == "first":
        return _first_tokens(ends, solid=solid, spans=spans)
    marked = covered(spans, len(text)) & solid
    count = np.concatenate([[0], np.cumsum(marked)])
    return count[ends] > count[starts]


def losses_of_tokens(losses: Losses, ends: np.ndarray) -> np.ndarray:
    """What a model pays for the tokens of another tokenizer, in nats, as float32[N]; NaN after its last token.

    The loss of each of its tokens is shared evenly over the token's characters, and that of a character evenly over the
    tokens that spell it. So over whole words the sums are exact.

    ends: int32[N], where each token ends, not decreasing; those of a character that is spelt in bytes end together.
    """
    last = np.append(losses.ends[1:] > losses.ends[:-1], True)[: len(losses.ends)]  # of those that end together
    paid = np.append(0.0, np.cumsum(losses.nats, dtype=np.float64)[last])
    until, places, counts = np.unique(ends, return_inverse=True, return_counts=True)
    shares = np.diff(np.interp(until, np.append(0, losses.ends[last]), paid, right=np.nan), prepend=0.0) / counts
    return np.asarray(shares[places], np.float32)


def solid_characters(text: str) -> np.ndarray:
    """bool[characters]: those other than white space."""
    return ~np.strings.isspace(np.frombuffer(text.encode("utf-32-le"), dtype="<U1"))


def covered(spans: Spans, length: int) -> np.ndarray:
    """bool[length]: the characters that lie in a span."""
    edges = np.zeros(length + 1, dtype=np.int32)
    np.add.at(edges, spans.starts, 1)
    np.add.at(edges, spans.ends, -1)
    return np.cumsum(edges[:-1]) > 0


def runs(marked: np.ndarray) -> np.ndarray:
    """int[N, 2]: the start and end of each run of true values in a bool[characters]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2)


def _first_tokens(ends: np.ndarray, *, solid: np.ndarray, spans: Spans) -> np.ndarray:
    solid_at = np.append(np.flatnonzero(solid), len(solid))
    first = solid_at[np.searchsorted(solid_at, spans.starts)]
    # The token of a character is the first that ends after it.
    token = np.searchsorted(ends, first[first < spans.ends], side="right")
    factual = np.zeros(len(ends), dtype=bool)
    factual[token[token < len(ends)]] = True
    return factual
