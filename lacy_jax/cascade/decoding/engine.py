"""A model ready to decode: its weights, for which shapes programs are compiled, and what a step says.

Shapes are few, so that XLA compiles few programs: one for each cache length and each of its `shapes`.

Axes: R rows, T chunk, S cache length, V vocabulary.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax.cascade.decoding import programs
from lacy_jax.cascade.decoding.programs import Weights
from lacy_jax.cascade.text.extent import LETTER
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import ComputeDtype, ModelConfig
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.model import decoder

# A character of a word in the sense of partners' pieces, less U+FFFD, which stands for a part of a character.
_LETTER = re.compile(f"(?!\ufffd){LETTER}")
SMALLEST_BUCKET = 128
# Tokens of a row that one program reads: those of a piece, of a few, of a prompt, of a long one.
CHUNKS = (4, 16, 64, 256)
# Rows of a program grow by this factor, up to all slots; those of one that reads also to so many tokens in all, by
# platform. From there on a device computes for longer than it reads the weights: a larger program would save nothing.
ROWS_FACTOR = 8
MOST_TOKENS = {"cpu": 128}
MOST_TOKENS_ELSEWHERE = 2048
# What does not fill a program is padded, to at most this many times its size; else it is cut in parts.
MOST_PADDING = 3
# Bytes that may be given to be spelt again, less than one token more.
MOST_GIVEN = 128


class Step(NamedTuple):
    """What the model says after a row's last token.

    token: the picked id, text or the end of the document, never `<CALL>`.
    call_score: log-odds of `<CALL>` against everything else (call_logit minus the log-sum-exp of the others).
    uncertainty: 1 - the probability of the best other token, on the softmax without `<CALL>`.
    entropy: of the softmax without `<CALL>`, in nats.
    factual: how probable it is that the next token is a factual one, by a probe (training/probe.py), or 0.5.
    saving: nats per token that the partner is expected to save in what comes next (adaptation/saving.py), or 0.0.
    """

    token: int
    call_score: float
    call_logit: float
    uncertainty: float
    entropy: float
    factual: float
    saving: float


def cache_buckets(context: int) -> tuple[int, ...]:
    """Cache lengths in use: 128, 256, 1024, 4096 ... well below the context, and the context itself.

    A length saves time for rows that are shorter, and costs the compilation of all programs once more. Most texts are
    short, so the first two lie closer together than the others.
    """
    lengths = [SMALLEST_BUCKET, 2 * SMALLEST_BUCKET]
    while lengths[-1] < context:
        lengths.append(4 * lengths[-1])
    return (*(length for length in lengths if length * 3 < context * 2), context)


def row_counts(slots: int) -> tuple[int, ...]:
    """For how many rows there are programs: 1, 8, 64 ... below the number of slots, and all of them."""
    counts = [1]
    while counts[-1] * ROWS_FACTOR < slots:
        counts.append(counts[-1] * ROWS_FACTOR)
    return tuple(sorted({*counts, slots}))


def shapes(slots: int, *, length: int) -> dict[int, tuple[int, ...]]:
    """Of the programs that read into a cache of `length` positions: chunk width -> numbers of rows."""
    most = MOST_TOKENS.get(jax.default_backend(), MOST_TOKENS_ELSEWHERE)
    widths = sorted({min(width, length) for width in CHUNKS if width <= most})
    return {t: tuple(r for r in row_counts(slots) if r == 1 or r * t <= most) for t in widths}


def fitting(size: int, options: Sequence[int]) -> int:
    """Which of the ascending `options` `size` things are put in, or else the first part of them."""
    above = next((option for option in options if option >= size), None)
    if above is not None and (above <= MOST_PADDING * size or above == options[0]):
        return above
    return max(option for option in options if option <= size)


def window_start(length: int, *, context: int) -> int:
    """How many of a row's first tokens are out of the model's sight once it holds `length` tokens.

    A model never runs beyond the length it was trained for. When a row outgrows the context, the first
    context // 2 tokens are forgotten in one go, so that prefilling anew is rare. A function of the length
    alone: the same text is seen the same way however it came to be.
    """
    excess = length - (context - 1)
    hop = context // 2
    return max(0, -(-excess // hop)) * hop


def shared_prefix(held: list[int], wanted: list[int]) -> int:
    """Length of the longest common prefix of two lists of ids."""
    same, differs = 0, min(len(held), len(wanted)) + 1
    if held[: differs - 1] == wanted[: differs - 1]:
        return differs - 1
    while differs - same > 1:
        middle = (same + differs) // 2
        if held[same:middle] == wanted[same:middle]:
            same = middle
        else:
            differs = middle
    return same


def encode_text(tokenizer: TextTokenizer, text: str, *, opening: Sequence[int] | None = None) -> list[int]:
    """Ids of a text as the model saw texts in training: after the end of another document, or what it had for that.

    There is always one: where nothing stands before a text, an empty one is the end of another.
    """
    return after_start(tokenizer, tokenizer.encode(text).ids.tolist(), opening=opening)


def after_start(tokenizer: TextTokenizer, ids: list[int], *, opening: Sequence[int] | None = None) -> list[int]:
    """A text's ids, and what stands before them: `opening`, or else what stands before any text; at least one."""
    if opening is None:
        opening = [] if tokenizer.start_id is None else [tokenizer.start_id]
    return [*opening, *ids] or [tokenizer.end_id]


class Engine:
    """A model ready to decode. Stateless but for compiled programs; rows live in sessions."""

    def __init__(self, loaded: LoadedModel, *, compute_dtype: ComputeDtype = "float32", context: int | None = None):
        """A model to decode with.

        Args:
            compute_dtype: float32 makes batched and one-by-one decoding agree to rounding, on any device.
            context: tokens of a row in sight, at most; None: as many as the model was trained for.
        """
        self.config: ModelConfig = replace(loaded.model, compute_dtype=compute_dtype, remat="none")
        # Not the config's: learned positions have an array of its context.
        self.context = min(context or loaded.model.context, loaded.model.context)
        self.tokenizer = loaded.tokenizer
        self.call_id = loaded.tokenizer.call_id
        vocab = decoder.output_matrix(loaded.params).shape[0]
        self.sizes = (self.config, vocab, self.call_id)  # what its programs are compiled for, besides their shapes
        self.token_bytes = [self.tokenizer.decode_bytes([token]) for token in range(self.call_id)]
        bytes_VW, lengths_V = programs.token_bytes(self.token_bytes, vocab=vocab)
        self.most_given = MOST_GIVEN + bytes_VW.shape[1]
        emitted_V = lengths_V > 0
        emitted_V[list(self.tokenizer.end_ids)] = True
        # By name, as the caches are: a program is compiled anew for arrays that only happen to be on a device.
        self.device = jax.local_devices()[0]
        weights = Weights(
            params=decoder.unstack_layers(
                loaded.params, kernels="outward" if self.device.platform == "cpu" else "inward"
            ),
            probes_2E=jnp.asarray(loaded.probes),
            emitted_V=jnp.asarray(emitted_V),
            goes_on_V=jnp.asarray(goes_on(self.token_bytes, vocab=vocab)),
            bytes_VW=jnp.asarray(bytes_VW),
            lengths_V=jnp.asarray(lengths_V),
        )
        self.weights: Weights = jax.device_put(weights, self.device)


def goes_on(tokens: Sequence[bytes], *, vocab: int) -> np.ndarray:
    """Tokens that would go on with a word or number before them (they begin with a letter or digit), bool [vocab]."""
    begins = np.zeros(vocab, bool)
    for token, token_bytes in enumerate(tokens):
        # A byte of a longer character may begin anything: it is let pass.
        begins[token] = bool(_LETTER.match(token_bytes.decode(errors="replace")))
    return begins


def ends_word(text: str) -> bool:
    """Whether the text's last character is one of a word or number that could go on."""
    return bool(_LETTER.match(text[-1:]))
