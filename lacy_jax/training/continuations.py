"""How likely a model finds a text after another one: the scores that multiple-choice questions are answered by.

Texts are read in batches of one size and of few lengths, so few programs are compiled. A run's questions
(questions.py) and lm-evaluation-harness (evidence/harness.py) are scored by this alone.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np

from lacy_jax import objective
from lacy_jax.config import ModelConfig
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.model import decoder
from lacy_jax.model.precision import product_precision

SMALLEST_LENGTH = 64  # targets in a row; a row is this long, or twice, four times ..., or as long as the context
CallToken = Literal["excluded", "included"]
Pair = tuple[Sequence[int], Sequence[int]]
# int32 [B, T + 1] -> of tokens[:, 1:], [B, T] each: log-probability, float32; whether it is the most likely token, bool
Read = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Score:
    """Of a continuation: its log-likelihood in nats, and whether greedy decoding would write it."""

    log_likelihood: float
    greedy: bool


def encode_pair(tokenizer: TextTokenizer, context: str, continuation: str) -> Pair:
    """The tokens of a context and those of what follows it; the context has one at least.

    Both are encoded as one text and cut where the context alone ends. White space at the end of a context belongs to
    what follows, as most tokenizers join it with the next word. Before a text stands what stands there in decoding.
    Source: lm-evaluation-harness, `TemplateLM._encode_pair`.

    Raises:
        DataError: no valid Unicode text.
    """
    before = context.rstrip()
    start = [] if tokenizer.start_id is None else [tokenizer.start_id]
    known, whole = ([*start, *tokenizer.encode(text).ids.tolist()] for text in (before, context + continuation))
    if not known:  # nothing stands before a text: an empty one is the end of another
        return [tokenizer.end_id], whole
    return known, whole[len(known) :]


def score(
    pairs: Sequence[Pair],
    read: Read,
    *,
    rows: int,
    context: int,
    progress: Callable[[int], object] = lambda _count: None,
) -> list[Score]:
    """The score of each pair's second part after its first, in the order of `pairs`.

    Long ones are cut from the left to the last `context` tokens; a second part that is longer itself is read in
    windows, each token once and after as many others as fit.

    Args:
        pairs: tokens; the first part has one at least.
        rows: of a batch. context: targets in a row at most.
        progress: called after each batch, with how many of its pieces are done.
    """
    pieces = [
        (number, tokens, count)
        for number, pair in enumerate(pairs)
        for tokens, count in _windows(*pair, context=context)
    ]
    pieces.sort(key=lambda piece: len(piece[1]), reverse=True)  # little of a batch is filling; the largest comes first
    totals, greedy = np.zeros(len(pairs)), np.ones(len(pairs), bool)
    for first in range(0, len(pieces), rows):
        group = pieces[first : first + rows]
        log_p, best = read(_as_batch([tokens for _, tokens, _ in group], rows=rows, context=context))
        for row, (number, tokens, count) in enumerate(group):
            own = row, slice(len(tokens) - 1 - count, len(tokens) - 1)
            totals[number] += log_p[own].sum(dtype=np.float64)
            greedy[number] &= bool(best[own].all())
        progress(len(group))
    return [Score(float(total), bool(each)) for total, each in zip(totals, greedy, strict=True)]


def _windows(before: Sequence[int], targets: Sequence[int], *, context: int) -> Iterator[tuple[list[int], int]]:
    """What is read for the targets: tokens, `context` + 1 at most, and how many of the last are new."""
    tokens, done = [*before, *targets], len(before)
    while done < len(tokens):
        count = min(context, len(tokens) - done)
        done += count
        yield tokens[max(0, done - context - 1) : done], count


def _as_batch(texts: Sequence[list[int]], *, rows: int, context: int) -> np.ndarray:
    """int32 [rows, T + 1]: the texts, filled up; T is one of few lengths."""
    length = SMALLEST_LENGTH
    while length < max(map(len, texts)) - 1:
        length *= 2
    batch = np.zeros((rows, min(length, context) + 1), np.int32)
    for row, tokens in enumerate(texts):
        batch[row, : len(tokens)] = tokens
    return batch


def token_values(
    params: decoder.Params, tokens: jax.Array, *, model: ModelConfig, call_id: int, call: CallToken = "excluded"
) -> tuple[jax.Array, jax.Array]:
    """What a `Read` gives, as arrays of JAX.

    Args:
        call: whether `<CALL>` is one of the tokens that share the probability. Other control tokens always are.
    """
    model = dataclasses.replace(model, attention="xla", remat="none")  # which takes rows of any length
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    with product_precision(model):
        hidden_BTD = decoder.forward(params, inputs, config=model)
        matrix = decoder.output_matrix(params)
        scalars = objective.head_scalars(hidden_BTD, matrix, targets, call_id)
        best = objective.greedy_tokens(hidden_BTD, matrix, call_id) == targets
    if call == "included":
        return -objective.nll_with_call(scalars), best & (scalars.target >= scalars.call)
    return -objective.nll_without_call(scalars), best
