"""KV-cached decoding of a batch of rows, each with its own length.

A row is named by its whole list of token ids, every time. The session compares it with what its cache
holds, keeps the longest common prefix and feeds the rest: a prompt, one new token, or the tokens of a
partner's piece are all the same thing, a right-padded chunk. Nothing is rolled back by hand.

Shapes are few, so that XLA compiles few programs: one for each (slots, cache bucket, chunk bucket). The last
slot of every cache row is scratch: padding is written there, and no real query ever sees it.

Axes: R slots (rows of a session), T chunk, S cache length, D model, V vocabulary.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax.cascade.sampling import GREEDY, Sampling, SamplingRows, pick, sampling_rows
from lacy_jax.checkpoint import LoadedModel
from lacy_jax.config import ModelConfig
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.model import decoder
from lacy_jax.model.attention import KVCache, grow_cache

SMALLEST_BUCKET = 128
CHUNKS = (1, 4, 16, 64, 256)


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
        self.emitted = jnp.asarray(emitted)
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
        self, rows: Mapping[int, Sequence[int]], *, sampling: Mapping[int, Sampling] | None = None
    ) -> dict[int, Step]:
        """The model's word after each of `rows` (slot -> all ids of the row so far, at least one).

        Slots that are not named keep what they hold. `sampling`: how a slot's token is picked, greedily by default.
        """
        context = self._engine.config.context
        wanted = {slot: list(ids[window_start(len(ids), context=context) :]) for slot, ids in rows.items()}
        self._grow(max(map(len, wanted.values())))
        # The last token is always fed, even where all is known: its hidden state is what is asked for.
        fed = {slot: min(shared_prefix(self._held[slot], ids), len(ids) - 1) for slot, ids in wanted.items()}
        steps: dict[int, Step] = {}
        while len(steps) < len(wanted):
            parts = {slot: ids[fed[slot] : fed[slot] + CHUNKS[-1]] for slot, ids in wanted.items()}
            drawn = self._sampling(rows, wanted, sampling or {})
            head = self._feed(parts, starts=fed, drawn=drawn)
            for slot, part in parts.items():
                fed[slot] += len(part)
                if part and fed[slot] == len(wanted[slot]):
                    scalars = dict(zip(_SCALARS, head.scalars_R5[slot].tolist(), strict=True))
                    steps[slot] = Step(token=int(head.token_R[slot]), **scalars)
        for slot, ids in wanted.items():
            self._held[slot] = ids
        return steps

    def _sampling(
        self, rows: Mapping[int, Sequence[int]], seen: Mapping[int, Sequence[int]], sampling: Mapping[int, Sampling]
    ) -> SamplingRows | None:
        """What the device must know to draw; None where all are greedy, which needs no program of its own."""
        if all(sampling.get(slot, GREEDY).plain for slot in rows):
            return None
        every = range(self.slots)
        settings = [(sampling.get(slot, GREEDY), seen.get(slot, ()), len(rows.get(slot, ()))) for slot in every]
        return sampling_rows(settings, length=self._cache.length)

    def _feed(
        self, parts: Mapping[int, Sequence[int]], *, starts: Mapping[int, int], drawn: SamplingRows | None
    ) -> _Head:
        """Runs one chunk: `parts` (slot -> ids, may be empty) at positions `starts`, all other slots padding."""
        longest = max(map(len, parts.values()))
        width = next(chunk for chunk in CHUNKS if chunk >= longest)
        scratch = self._cache.length - 1
        tokens_RT = np.full((self.slots, width), self._engine.tokenizer.end_id, np.int32)
        positions_RT = np.full((self.slots, width), scratch, np.int32)
        last_R = np.zeros(self.slots, np.int32)
        for slot, part in parts.items():
            tokens_RT[slot, : len(part)] = part
            positions_RT[slot, : len(part)] = starts[slot] + np.arange(len(part))
            last_R[slot] = max(0, len(part) - 1)
        engine = self._engine
        head, self._cache = _advance(
            engine.params,
            self._cache,
            tokens_RT,
            positions_RT,
            last_R,
            engine.emitted,
            engine.probe,
            drawn,
            config=engine.config,
            call_id=engine.tokenizer.call_id,
        )
        return jax.device_get(head)

    def _grow(self, length: int) -> None:
        """Makes room for rows of `length` tokens and the scratch slot."""
        have = self._cache.length
        if length < have:
            return
        more = next(bucket for bucket in self._buckets if bucket > length) - have
        self._cache = grow_cache(self._cache, more=more)


@functools.partial(jax.jit, static_argnames=("config", "call_id"), donate_argnums=1)
def _advance(
    params: decoder.Params,
    cache: KVCache,
    tokens_RT: jax.Array,
    positions_RT: jax.Array,
    last_R: jax.Array,
    emitted_V: jax.Array,
    probe: jax.Array,
    drawn: SamplingRows | None,
    *,
    config: ModelConfig,
    call_id: int,
) -> tuple[_Head, KVCache]:
    """Feeds a chunk and reads the head at each row's last real position."""
    # Without this, GPUs and TPUs would multiply float32 in fewer bits.
    precision = "float32" if config.compute_dtype == "float32" else None
    with jax.default_matmul_precision(precision):
        hidden_RTD, cache = decoder.forward_cached(
            params, tokens_RT, positions_BT=positions_RT, cache=cache, config=config
        )
        hidden_RD = jnp.take_along_axis(hidden_RTD, last_R[:, None, None], axis=1)[:, 0]
        factual_R = jax.nn.sigmoid(hidden_RD.astype(jnp.float32) @ probe[:-1] + probe[-1])
        logits_RV = hidden_RD.astype(jnp.float32) @ decoder.output_matrix(params).astype(jnp.float32).T
    own_RV = jnp.where(emitted_V, logits_RV, -jnp.inf)
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
