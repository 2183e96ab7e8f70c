"""A model reads a text once: what it would answer at every place of it, and what it pays for it.

Where the model's most likely tokens are the text's own, one after the other, it would write these words if it were
asked there. So one pass over a text gives the answers at all its words. Asking at each would write each answer token
by token. It reads the text as its tokenizer cuts it; a place within one of its tokens gets no answer.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax.cascade.decoding.engine import encode_text
from lacy_jax.cascade.marks.asking import question
from lacy_jax.cascade.partners.checkpoint import MOST_CONTEXT
from lacy_jax.cascade.text.extent import complete_extent
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import ModelConfig
from lacy_jax.data.documents import Losses
from lacy_jax.data.tokenizer import Encoding
from lacy_jax.model import decoder

TEXTS = 32  # read in one go: those of about the same length share a batch; more would be silent for long on a CPU
BATCH_TOKENS = 2048  # of a batch; the logits of one are as many rows as the vocabulary is wide
LENGTH_STEP = 64  # tokens; a program is compiled for each length
_ANSWERED = 512  # characters of an answer, at most; a phrase has fewer


@dataclass(frozen=True, eq=False)
class Read:
    """A text as a model reads it: M of its tokens.

    encoding: the tokens, and their characters. nats: float32[M], the NLL of each, all before it given (of a text beyond
    the model's context, half a context at least). best: int32[M], the most likely token in the place of each.
    """

    encoding: Encoding
    nats: np.ndarray
    best: np.ndarray

    @property
    def losses(self) -> Losses:
        return Losses(self.encoding.ends.astype(np.int32), self.nats.astype(np.float32))


def read_texts(slm: LoadedModel, texts: Sequence[str]) -> list[Read]:
    """Each text read from its beginning, after what stood before texts in training."""
    encodings = [slm.tokenizer.encode(text) for text in texts]
    found = [
        Read(encoding, np.zeros(len(encoding), np.float32), np.zeros(len(encoding), np.int32)) for encoding in encodings
    ]
    context = min(slm.model.context, MOST_CONTEXT)
    pieces = [(text, start) for text, each in enumerate(encodings) for start in _starts(len(each), context=context)]
    pieces.sort(key=lambda piece: len(encodings[piece[0]].ids[piece[1] :][:context]))
    start_id = encode_text(slm.tokenizer, "")[0]
    while pieces:
        longest = len(encodings[pieces[-1][0]].ids[pieces[-1][1] :][:context])
        length = min(context, -(-max(1, longest) // LENGTH_STEP) * LENGTH_STEP)
        rows = max(1, BATCH_TOKENS // length)
        group, pieces = pieces[-rows:], pieces[:-rows]
        tokens_BT = np.full((rows, length + 1), slm.tokenizer.end_id, np.int32)
        for row, (text, start) in enumerate(group):
            own = encodings[text].ids[max(0, start - 1) : start + context]
            tokens_BT[row, : len(own) + (start == 0)] = own if start else [start_id, *own]
        nats_BT, best_BT = jax.device_get(
            _read(slm.params, tokens_BT, config=slm.reader, call_id=slm.tokenizer.call_id)
        )
        for row, (text, start) in enumerate(group):
            skipped = context // 2 if start else 0  # read by the piece before, with more before it
            stop = min(len(encodings[text]), start + context)
            found[text].nats[start + skipped : stop] = nats_BT[row, skipped : stop - start]
            found[text].best[start + skipped : stop] = best_BT[row, skipped : stop - start]
    return found


def answers_at(slm: LoadedModel, read: Read, text: str, *, starts: Sequence[int]) -> list[str]:
    """What the model would answer at places of a text that it has read, as a phrase; "" where it is wrong at once.

    starts: characters of `text`, of words.
    """
    right = np.append(read.encoding.ids == read.best, False)
    wrong_from = np.flatnonzero(~right)  # places at which a run of right tokens ends, the text's own end among them
    return [_answer(slm, read, text, len(question(text, start)), wrong_from=wrong_from) for start in starts]


def _answer(slm: LoadedModel, read: Read, text: str, end: int, *, wrong_from: np.ndarray) -> str:
    """The answer after text[:end]."""
    starts, ends = read.encoding.starts, read.encoding.ends
    first = int(np.searchsorted(ends, end, side="right"))
    if first == len(ends) or starts[first] < end:
        return ""
    stop = int(wrong_from[np.searchsorted(wrong_from, first)])
    if first < stop < len(ends) and ends[stop] == ends[stop - 1]:  # within a character that is spelt in bytes
        stop = int(np.searchsorted(ends, ends[stop]))
    if stop <= first:
        return ""
    written = text[end : min(ends[stop - 1], end + _ANSWERED)]
    if stop < len(ends) and read.best[stop] not in slm.tokenizer.end_ids:
        written += slm.tokenizer.decode_bytes([int(read.best[stop])]).decode(errors="replace")
    return complete_extent(written, span="phrase", ended=True) or ""


def _starts(length: int, *, context: int) -> Iterator[int]:
    """Where the pieces of a text begin that are read: each but the first goes over half a context once more."""
    yield 0
    yield from range(context // 2, length - context // 2, context // 2)


@functools.partial(jax.jit, static_argnames=("config", "call_id"))
def _read(
    params: decoder.Params, tokens_BT: jax.Array, *, config: ModelConfig, call_id: int
) -> tuple[jax.Array, jax.Array]:
    """(NLL float32 [B, T], the most likely token int32 [B, T]) of tokens_BT[:, 1:], without `<CALL>`."""
    logits_BTV = decoder.read(params, tokens_BT[:, :-1], config=config)[1][..., :call_id]
    own_BT = jnp.take_along_axis(logits_BTV, tokens_BT[:, 1:, None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits_BTV, axis=-1) - own_BT, logits_BTV.argmax(axis=-1).astype(jnp.int32)
