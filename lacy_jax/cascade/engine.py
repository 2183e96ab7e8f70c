"""KV-cached decoding of a batch of rows, each with its own length.

A row is named by its whole list of token ids, every time. The session compares it with what its cache
holds, keeps the longest common prefix and feeds the rest: a prompt, one new token, or the tokens of a
partner's piece are all the same thing, a right-padded chunk. Nothing is rolled back by hand.

Shapes are few, so that XLA compiles few programs: one for each (cache bucket, chunk bucket), where only short
chunks are for all slots at once. The last slot of every cache row is scratch: padding is written there, and no real
query ever sees it.

Axes: R slots (rows of a session), T chunk, S cache length, D model, V vocabulary.
"""

import functools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax.cascade.partners.extent import LETTER
from lacy_jax.cascade.sampling import GREEDY, Sampling, SamplingRows, pick, sampling_rows
from lacy_jax.checkpoint import LoadedModel
from lacy_jax.config import ModelConfig
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.model import decoder
from lacy_jax.model.attention import KVCache, grow_cache

# A character of a word in the sense of partners' pieces, less U+FFFD, which stands for a part of a character.
_LETTER = re.compile(f"(?!\ufffd){LETTER}")
SMALLEST_BUCKET = 128
# Widths of the chunks that rows are fed in: one new token or a short piece together, anything longer alone.
CHUNKS_TOGETHER = (1, 4)
CHUNKS_ALONE = (16, 64, 256)


@dataclass(frozen=True)
class Step:
    """What the model says after a row's last token.

    token: the picked id, text or the end of the document, never `<CALL>`.
    call_score: log-odds of `<CALL>` against everything else (call_logit minus the log-sum-exp of the others).
    uncertainty: 1 - the probability of the best other token, on the softmax without `<CALL>`.
    entropy: of the softmax without `<CALL>`, in nats.
    factual: how probable it is that the next token is a factual one, by the checkpoint's probe (training/probe.py);
        0.5 where it has none.
    """

    token: int
    call_score: float
    call_logit: float
    uncertainty: float
    entropy: float
    factual: float


_SCALARS = ("call_score", "call_logit", "uncertainty", "entropy", "factual")


class _Head(NamedTuple):
    """The same for all slots."""

    token_R: jax.Array
    scalars_R5: jax.Array  # in the order of _SCALARS


def cache_buckets(context: int) -> tuple[int, ...]:
    """Cache lengths in use: 128, 256, 512 ... below the context, and the context itself."""
    buckets: list[int] = []
    while SMALLEST_BUCKET << len(buckets) < context:
        buckets.append(SMALLEST_BUCKET << len(buckets))
    return (*buckets, context)


def window_start(length: int, *, context: int) -> int:
    """How many of a row's first tokens are out of the model's sight once it holds `length` tokens.

    A model never runs beyond the length it was trained for. When a row outgrows the context, the first
    context // 2 tokens are forgotten in one go, so that prefilling anew is rare. A function of the length
    alone: the same text is seen the same way however it came to be.
    """
    excess = length - (context - 1)
    hop = context // 2
    return max(0, -(-excess // hop)) * hop


def shared_prefix(held: Sequence[int], wanted: Sequence[int]) -> int:
    """Length of the longest common prefix of two lists of ids."""
    length = min(len(held), len(wanted))
    differs = np.flatnonzero(np.asarray(held[:length]) != np.asarray(wanted[:length]))
    return int(differs[0]) if differs.size else length


def encode_text(tokenizer: TextTokenizer, text: str) -> list[int]:
    """Ids of a text as the model saw texts in training: after the end of another document, or what it had for that."""
    return [tokenizer.start_id, *tokenizer.encode(text).ids.tolist()]


class Engine:
    """A model ready to decode. Stateless but for compiled programs; rows live in sessions."""

    def __init__(self, loaded: LoadedModel, *, compute_dtype: Literal["float32", "bfloat16"] = "float32"):
        """`compute_dtype`: float32 makes batched and one-by-one decoding agree to rounding, on any device."""
        self.config: ModelConfig = replace(loaded.model, compute_dtype=compute_dtype, remat="none")
        self.tokenizer = loaded.tokenizer
        self.params = decoder.unstack_layers(loaded.params)
        vocab = decoder.output_matrix(loaded.params).shape[0]
        emitted = np.zeros(vocab, bool)
        emitted[: self.tokenizer.call_id] = self.tokenizer.byte_lengths[: self.tokenizer.call_id] > 0
        emitted[self.tokenizer.end_id] = True
        self.emitted = emitted
        self.goes_on = _goes_on(self.tokenizer, vocab)
        probe = loaded.meta.get("factual_probe") or {"weights": [0.0] * self.config.width, "bias": 0.0}
        self.probe = jnp.asarray([*probe["weights"], probe["bias"]], jnp.float32)

    def session(self, slots: int) -> "Session":
        """An empty session for up to `slots` rows at once."""
        return Session(self, slots=slots)


class Session:
    """Rows and their caches. A slot takes any row at any time; what the two rows share is not computed again."""

    def __init__(self, engine: Engine, *, slots: int):
        self._engine = engine
        self._buckets = cache_buckets(engine.config.context)
        self._cache = decoder.new_cache(engine.config, batch=slots, length=self._buckets[0])
        self._held: list[list[int]] = [[] for _ in range(slots)]

    @property
    def slots(self) -> int:
        return len(self._held)

    def held(self, slot: int) -> Sequence[int]:
        """The ids whose keys and values the slot holds."""
        return self._held[slot]

    def step(
        self,
        rows: Mapping[int, Sequence[int]],
        *,
        sampling: Mapping[int, Sampling] | None = None,
        allowed: Mapping[int, np.ndarray] | None = None,
        whole: Collection[int] = (),
    ) -> dict[int, Step]:
        """The model's word after each of `rows` (slot -> all ids of the row so far, at least one).

        Slots that are not named keep what they hold.

        Args:
            sampling: how a slot's token is picked, greedily by default.
            allowed: bool [V], the ids that may be picked in a slot, all that are text by default.
            whole: slots whose last word or number is whole: no token that goes on with it is picked.
        """
        context = self._engine.config.context
        wanted = {slot: list(ids[window_start(len(ids), context=context) :]) for slot, ids in rows.items()}
        self._grow(max(map(len, wanted.values())))
        # The last token is always fed, even where all is known: its hidden state is what is asked for.
        fed = {slot: min(shared_prefix(self._held[slot], ids), len(ids) - 1) for slot, ids in wanted.items()}
        settings = {slot: (sampling or {}).get(slot, GREEDY) for slot in rows}
        picks = _Picks(rows, wanted, settings, allowed or {}, whole)
        steps: dict[int, Step] = {}
        together = [slot for slot, ids in wanted.items() if len(ids) - fed[slot] <= CHUNKS_TOGETHER[-1]]
        if together:
            parts = {slot: wanted[slot][fed[slot] :] for slot in together}
            steps |= self._feed(parts, starts=fed, slots=range(self.slots), picks=picks)
        for slot in wanted.keys() - together:
            # Fed with the others, a long part would make all of them as long.
            while fed[slot] < len(wanted[slot]):
                part = wanted[slot][fed[slot] : fed[slot] + CHUNKS_ALONE[-1]]
                steps |= self._feed({slot: part}, starts=fed, slots=[slot], picks=picks)
                fed[slot] += len(part)
        for slot, ids in wanted.items():
            self._held[slot] = ids
        return steps

    def _feed(
        self, parts: Mapping[int, Sequence[int]], *, starts: Mapping[int, int], slots: Sequence[int], picks: "_Picks"
    ) -> dict[int, Step]:
        """Runs one chunk: `parts` (slot -> ids) at positions `starts`. `slots`: a single one, or all of them."""
        longest = max(map(len, parts.values()))
        chunks = CHUNKS_TOGETHER if longest <= CHUNKS_TOGETHER[-1] else CHUNKS_ALONE
        width = next(chunk for chunk in chunks if chunk >= longest)
        tokens_RT = np.full((len(slots), width), self._engine.tokenizer.end_id, np.int32)
        positions_RT = np.full((len(slots), width), self._cache.length - 1, np.int32)  # the scratch slot
        last_R = np.zeros(len(slots), np.int32)
        for row, slot in enumerate(slots):
            if part := parts.get(slot):
                tokens_RT[row, : len(part)] = part
                positions_RT[row, : len(part)] = starts[slot] + np.arange(len(part))
                last_R[row] = len(part) - 1
        engine = self._engine
        head, self._cache = _advance(
            engine.params,
            self._cache,
            None if len(slots) == self.slots else np.int32(slots[0]),
            tokens_RT,
            positions_RT,
            last_R,
            picks.allowed(slots, default=engine.emitted),
            engine.goes_on,
            np.array([slot in picks.whole for slot in slots]),
            engine.probe,
            picks.sampling(slots, length=self._cache.length),
            config=engine.config,
            call_id=engine.tokenizer.call_id,
        )
        token_R, scalars_R5 = jax.device_get(head)
        return {
            slot: Step(token=int(token_R[row]), **dict(zip(_SCALARS, scalars_R5[row].tolist(), strict=True)))
            for row, slot in enumerate(slots)
            if slot in parts
        }

    def _grow(self, length: int) -> None:
        """Makes room for rows of `length` tokens and the scratch slot."""
        have = self._cache.length
        if length < have:
            return
        more = next(bucket for bucket in self._buckets if bucket > length) - have
        self._cache = grow_cache(self._cache, more=more)


def _goes_on(tokenizer: TextTokenizer, vocab: int) -> np.ndarray:
    """Tokens that would go on with a word or number before them (they begin with a letter or digit), bool [vocab]."""
    begins = np.zeros(vocab, bool)
    for token in range(tokenizer.call_id):
        # A byte of a longer character may begin anything: it is let pass.
        begins[token] = bool(_LETTER.match(tokenizer.decode_bytes([token]).decode(errors="replace")))
    return begins


def ends_word(text: str) -> bool:
    """Whether the text's last character is one of a word or number that could go on."""
    return bool(_LETTER.match(text[-1:]))


@dataclass(frozen=True)
class _Picks:
    """How the next tokens are picked; what is the same for all rows needs no arrays, and no program of its own."""

    rows: Mapping[int, Sequence[int]]
    seen: Mapping[int, Sequence[int]]
    settings: Mapping[int, Sampling]
    masks: Mapping[int, np.ndarray]
    whole: Collection[int]

    def sampling(self, slots: Sequence[int], *, length: int) -> SamplingRows | None:
        """For `slots`; None where all rows are greedy."""
        if all(setting.plain for setting in self.settings.values()):
            return None
        return sampling_rows(
            [(self.settings.get(s, GREEDY), self.seen.get(s, ()), len(self.rows.get(s, ()))) for s in slots],
            length=length,
        )

    def allowed(self, slots: Sequence[int], *, default: np.ndarray) -> np.ndarray:
        """bool [V] or [R, V]."""
        if not any(slot in self.masks for slot in slots):
            return default
        return np.stack([self.masks.get(slot, default) for slot in slots])


@functools.partial(jax.jit, static_argnames=("config", "call_id"), donate_argnums=1)
def _advance(
    params: decoder.Params,
    cache: KVCache,
    slot: jax.Array | None,
    tokens_RT: jax.Array,
    positions_RT: jax.Array,
    last_R: jax.Array,
    allowed: jax.Array,
    goes_on_V: jax.Array,
    whole_R: jax.Array,
    probe: jax.Array,
    drawn: SamplingRows | None,
    *,
    config: ModelConfig,
    call_id: int,
) -> tuple[_Head, KVCache]:
    """Feeds a chunk, to all slots or to one, and reads the head at each row's last real position."""
    rows = cache
    if slot is not None:
        rows = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, slot, 1), cache)
    # Without this, GPUs and TPUs would multiply float32 in fewer bits.
    precision = "float32" if config.compute_dtype == "float32" else None
    with jax.default_matmul_precision(precision):
        hidden_RTD, rows = decoder.forward_cached(
            params, tokens_RT, positions_BT=positions_RT, cache=rows, config=config
        )
        hidden_RD = jnp.take_along_axis(hidden_RTD, last_R[:, None, None], axis=1)[:, 0]
        factual_R = jax.nn.sigmoid(hidden_RD.astype(jnp.float32) @ probe[:-1] + probe[-1])
        matrix_VD = decoder.output_matrix(params).astype(hidden_RD.dtype)
        logits_RV = jnp.einsum("rd,vd->rv", hidden_RD, matrix_VD, preferred_element_type=jnp.float32)
    if slot is None:
        cache = rows
    else:
        cache = jax.tree.map(lambda x, row: jax.lax.dynamic_update_slice_in_dim(x, row, slot, 0), cache, rows)
    allowed = allowed & ~(whole_R[:, None] & goes_on_V)
    own_RV = jnp.where(allowed, logits_RV, -jnp.inf)
    token_R = jnp.argmax(own_RV, axis=-1) if drawn is None else pick(own_RV, drawn)
    return _Head(token_R, _scalars(logits_RV, factual_R, call_id=call_id)), cache


def _scalars(logits_RV: jax.Array, factual_R: jax.Array, *, call_id: int) -> jax.Array:
    """What a `Step` says beside its token, float32 [R, 5] in the order of _SCALARS."""
    call_R = logits_RV[:, call_id]
    others_RV = jnp.where(jnp.arange(logits_RV.shape[1]) < call_id, logits_RV, -jnp.inf)
    lse_R = jax.nn.logsumexp(others_RV, axis=-1)
    probability_RV = jnp.exp(others_RV - lse_R[:, None])
    uncertainty_R = -jnp.expm1(jnp.max(others_RV, axis=-1) - lse_R)
    entropy_R = lse_R - jnp.sum(probability_RV * jnp.where(probability_RV > 0, others_RV, 0.0), axis=-1)
    return jnp.stack([call_R - lse_R, call_R, uncertainty_R, entropy_R, factual_R], axis=-1)
