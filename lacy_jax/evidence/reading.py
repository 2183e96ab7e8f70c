"""The teacher-forced reader: what a model says before every token of a text, all true tokens before it given.

The run's report, the scores by token, the acceptability of mismatches and benchmarks/scores.py all read by it.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax.cascade.decoding.engine import Step, encode_text
from lacy_jax.cascade.decoding.programs import what_is_probed, what_is_said
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import ModelConfig
from lacy_jax.data.documents import Document, Spans, full_text
from lacy_jax.data.factual import factual_tokens
from lacy_jax.data.tokenizer import Encoding, TextTokenizer
from lacy_jax.model import decoder

ROWS = 8  # documents read at once
LENGTH_STEP = 64  # tokens; their rows are as long as the longest of them, rounded up to it
OTHER = "other"


@dataclass(frozen=True, eq=False)
class Said:
    """What a model says before each of N targets, or of [B, T] of them. Probabilities are those without `<CALL>`.

    nll: float32, of the target, in nats. best: int32, the most likely token. rank: int32, of the target, from 1.
    call: float32 each, what scores of calling are made of: the fields of `cascade.decoding.engine.Step` by name.
    """

    nll: np.ndarray
    best: np.ndarray
    rank: np.ndarray
    call: dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Reading:
    """A document as a model reads it, from its beginning to the model's context at most: N targets.

    text: the full text. ids: int32[N], the targets; starts, ends: int32[N], their characters (see `Encoding`).
    kinds: str[N], what each target is part of: a span's kind, or OTHER.
    """

    document: Document
    text: str
    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    kinds: np.ndarray
    said: Said

    @property
    def factual(self) -> np.ndarray:
        """bool[N]: part of any span."""
        return np.asarray(self.kinds != OTHER)

    @property
    def wrong(self) -> np.ndarray:
        """bool[N]: the model's own best token is another."""
        return np.asarray(self.said.best != self.ids)


def read_documents(slm: LoadedModel, documents: Sequence[tuple[Document, Spans]]) -> list[Reading]:
    """Each document read alone. Its first token follows the tokenizer's `start_id`, as texts did in training."""
    tokenizer, context = slm.tokenizer, slm.model.context
    encodings = [_cut(tokenizer.encode(full_text(document)), context) for document, _ in documents]
    by_length = sorted(range(len(documents)), key=lambda number: len(encodings[number]))  # little of a batch is filling
    found: dict[int, Said] = {}
    for first in range(0, len(by_length), ROWS):
        group = by_length[first : first + ROWS]
        said = read_tokens(slm, as_batch(tokenizer, [encodings[number].ids for number in group], context=context))
        for row, number in enumerate(group):
            own = row, slice(len(encodings[number]))
            call = {name: value[own] for name, value in said.call.items()}
            found[number] = Said(said.nll[own], said.best[own], said.rank[own], call)
    return [
        _reading(document, spans, encodings[number], found[number])
        for number, (document, spans) in enumerate(documents)
    ]


def _reading(document: Document, spans: Spans, encoding: Encoding, said: Said) -> Reading:
    text = full_text(document)
    return Reading(
        document=document,
        text=text,
        ids=encoding.ids,
        starts=encoding.starts,
        ends=encoding.ends,
        kinds=_kinds(encoding, text=text, spans=spans),
        said=said,
    )


def as_batch(tokenizer: TextTokenizer, texts: Sequence[np.ndarray], *, context: int) -> np.ndarray:
    """int32 [ROWS, T + 1]: the first token of any text, then the ids of each of ROWS texts or fewer, filled up.

    Args:
        texts: int32[N] each, N at most `context`.
    """
    longest = max(map(len, texts))
    length = min(context, -(-max(1, longest) // LENGTH_STEP) * LENGTH_STEP)  # a program is compiled for each
    tokens_BT = np.full((ROWS, length + 1), tokenizer.end_id, np.int32)
    tokens_BT[:, 0] = encode_text(tokenizer, "")[0]
    for row, ids in enumerate(texts):
        tokens_BT[row, 1 : 1 + len(ids)] = ids
    return tokens_BT


def read_tokens(slm: LoadedModel, tokens: np.ndarray) -> Said:
    """What a model says before tokens[:, 1:], [B, T], of int32 [B, T + 1]."""
    call_id = slm.tokenizer.call_id
    return Said(*jax.device_get(_values(slm.params, slm.probes, tokens, config=slm.reader, call_id=call_id)))


# The probes are an argument, like the parameters: the program is the same for all models of a shape, and compiled once.
@functools.partial(jax.jit, static_argnames=("config", "call_id"))
def _values(
    params: decoder.Params, probes_2E: jax.Array, tokens: jax.Array, *, config: ModelConfig, call_id: int
) -> tuple[jax.Array, jax.Array, jax.Array, dict[str, jax.Array]]:
    hidden_BTD, logits_BTV = decoder.read(params, tokens[:, :-1], config=config)
    log_p = jax.nn.log_softmax(logits_BTV[..., :call_id])
    own_BT1 = jnp.take_along_axis(log_p, tokens[:, 1:, None], axis=-1)
    rank = 1 + (log_p > own_BT1).sum(axis=-1, dtype=jnp.int32)
    said_BT6 = what_is_said(logits_BTV, what_is_probed(hidden_BTD, probes_2E), call_id=call_id)
    call = dict(zip(Step._fields[1:], jnp.moveaxis(said_BT6, -1, 0), strict=True))
    return -own_BT1[..., 0], log_p.argmax(axis=-1).astype(jnp.int32), rank, call


def _cut(encoding: Encoding, length: int) -> Encoding:
    return Encoding(encoding.ids[:length], encoding.starts[:length], encoding.ends[:length])


def _kinds(encoding: Encoding, *, text: str, spans: Spans) -> np.ndarray:
    """The kind of each token; where kinds share a token, the last by the alphabet."""
    kinds = np.full(len(encoding), OTHER, dtype="U32")
    for kind in sorted({*spans.kinds}):
        chosen = np.array([each == kind for each in spans.kinds])
        some = Spans(
            spans.starts[chosen],
            spans.ends[chosen],
            (kind,) * int(chosen.sum()),
            spans.subject[chosen],
            spans.repeated[chosen],
        )
        kinds[factual_tokens(encoding.starts, encoding.ends, text=text, spans=some)] = kind
    return kinds
