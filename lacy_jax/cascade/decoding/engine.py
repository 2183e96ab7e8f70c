"""KV-cached decoding of a batch of rows, each with its own length.

A row is named by its whole list of token ids, every time. The session compares it with what its cache
holds, keeps the longest common prefix and feeds the rest: a prompt, one new token, or the tokens of a
partner's piece are all the same thing, a right-padded chunk. Nothing is rolled back by hand. So the session may
also run ahead: it feeds a row what the row itself picks, several tokens on the device at once, and where the row
then goes on differently, that is a changed row like any other.

Shapes are few, so that XLA compiles few programs: one for each cache length and each of its `shapes`.

Axes: R rows, T chunk, S cache length, V vocabulary.
"""

import itertools
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax.cascade.decoding import programs
from lacy_jax.cascade.decoding.programs import MOST_STEPS, Chunk, Start, Weights
from lacy_jax.cascade.decoding.sampling import GREEDY, Sampling, sampling_rows
from lacy_jax.cascade.text.extent import LETTER
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import ComputeDtype, ModelConfig
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.model import decoder
from lacy_jax.model.attention import KVCache, grow_cache

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
        self.token_bytes = [self.tokenizer.decode_bytes([token]) for token in range(self.call_id)]
        bytes_VW, lengths_V = programs.token_bytes(self.token_bytes, vocab=vocab)
        self.most_given = MOST_GIVEN + bytes_VW.shape[1]
        emitted_V = lengths_V > 0
        emitted_V[list(self.tokenizer.end_ids)] = True
        # By name, as the caches are: a program is compiled anew for arrays that only happen to be on a device.
        self.device = jax.local_devices()[0]
        weights = Weights(
            params=decoder.unstack_layers(loaded.params),
            probes_2E=jnp.asarray(loaded.probes),
            emitted_V=jnp.asarray(emitted_V),
            goes_on_V=jnp.asarray(goes_on(self.token_bytes, vocab=vocab)),
            bytes_VW=jnp.asarray(bytes_VW),
            lengths_V=jnp.asarray(lengths_V),
        )
        self.weights: Weights = jax.device_put(weights, self.device)

    def session(self, slots: int) -> "Session":
        """An empty session for up to `slots` rows at once."""
        return Session(self, slots=slots)


@dataclass
class _Going:
    """A row within one call of `Session.steps`.

    ids: those in sight, and after them what was picked and fed in its turn. fed: how many of them the cache has.
    position: of the next token, counted from the row's very first.
    """

    slot: int
    ids: list[int]
    fed: int
    position: int
    sampling: Sampling
    given: Sequence[int]
    whole: bool

    @property
    def unread(self) -> int:
        """Tokens but the last that the cache does not have; the last one is always fed, for what comes after it."""
        return len(self.ids) - 1 - self.fed


class Session:
    """Rows and their caches. A slot takes any row at any time; what the two rows share is not computed again."""

    def __init__(self, engine: Engine, *, slots: int):
        self._engine = engine
        self._buckets = cache_buckets(engine.context)
        self._forget(slots)
        self._step_seconds = float("inf")  # of the last call

    @property
    def slots(self) -> int:
        return len(self._held)

    def held(self, slot: int) -> list[int]:
        """The ids whose keys and values the slot holds."""
        return self._held[slot]

    def steps_within(self, seconds: float) -> int:
        """How many steps ahead take so long, by the last call's: 1 to MOST_STEPS."""
        return max(1, int(min(MOST_STEPS, seconds / self._step_seconds)))

    def steps(
        self,
        rows: Mapping[int, Sequence[int]],
        *,
        ahead: int = 1,
        sampling: Mapping[int, Sampling] | None = None,
        given: Mapping[int, Sequence[int]] | None = None,
        whole: Collection[int] = (),
    ) -> dict[int, list[Step]]:
        """The model's word after each of `rows` (slot -> all ids of the row so far, at least one), and further ones.

        The n-th step of a row is what the model says after the row and the tokens of the steps before. Slots that are
        not named keep what they hold.

        Args:
            ahead: how many steps of each row are wanted, at most MOST_STEPS; there are fewer, but one at least, where
                the row's window moves before.
            sampling: how a slot's tokens are picked, greedily by default.
            given: ids of text that a slot's next tokens must spell: these, or in place of the last ones of them one
                that spells the same and more.
            whole: slots whose last word or number is whole: the next token does not go on with it.
        """
        context = self._engine.context
        seen = {slot: list(ids[window_start(len(ids), context=context) :]) for slot, ids in rows.items()}
        self._grow(min(context - 1, max(map(len, seen.values())) + ahead - 1))
        going = [
            _Going(
                slot=slot,
                ids=ids,
                fed=min(shared_prefix(self._held[slot], ids), len(ids) - 1),
                position=len(rows[slot]),
                sampling=(sampling or {}).get(slot, GREEDY),
                given=(given or {}).get(slot, ()),
                whole=slot in whole,
            )
            for slot, ids in seen.items()
        ]
        try:
            steps = self._run(going, ahead=ahead)
        except BaseException:  # the cache may hold parts of other rows by now, or be gone with what it was donated to
            self._forget(self.slots)
            raise
        for row in going:
            self._held[row.slot] = row.ids
        return steps

    def _run(self, going: Sequence[_Going], *, ahead: int) -> dict[int, list[Step]]:
        """Reads what the cache lacks of each row, and writes."""
        by_width = shapes(self.slots, length=self._cache.length)
        while behind := [row for row in going if row.unread]:
            width = fitting(behind[0].unread, list(by_width))
            alike = [row for row in behind if fitting(row.unread, list(by_width)) == width]
            for part, count in _parts(alike, counts=by_width[width]):
                self._read(part, count=count, width=width)
        began, steps = time.monotonic(), dict[int, list[Step]]()
        for part, count in _parts(going, counts=row_counts(self.slots)):
            steps |= self._write(part, count=count, steps=min(ahead, MOST_STEPS))
        self._step_seconds = (time.monotonic() - began) / ahead
        return steps

    def _forget(self, slots: int) -> None:
        """Starts with empty caches."""
        cache = decoder.new_cache(self._engine.config, batch=slots, length=self._buckets[0])
        self._cache: KVCache = jax.device_put(cache, self._engine.device)
        self._held: list[list[int]] = [[] for _ in range(slots)]

    def warm_up(self, *, length: int | None = None) -> int:
        """Compiles all programs that rows may need, and returns how many; what the session holds is not touched.

        Each is run without a row, `read` for one layer and `write` for no step: that costs nearly nothing.

        length: of the longest row, in tokens; None: any.
        """
        other, count = Session(self._engine, slots=self.slots), 0
        for bucket, shorter in zip(self._buckets, (0, *self._buckets), strict=False):
            if length is not None and length < shorter:
                break
            other._grow(bucket - 1)
            for rows in row_counts(self.slots):
                other._write([], count=rows, steps=0)
            whole, other._cache = other._cache, KVCache(other._cache.layers[:1])
            for width, counts in shapes(self.slots, length=bucket).items():
                for rows in counts:
                    other._read([], count=rows, width=width)
            other._cache = KVCache((*other._cache.layers, *whole.layers[1:]))
            count += sum(map(len, shapes(self.slots, length=bucket).values())) + len(row_counts(self.slots))
        return count

    def _read(self, rows: Sequence[_Going], *, count: int, width: int) -> None:
        """One chunk of up to `width` tokens for each of `rows`, by the program for `count` rows."""
        lined_up, slots = self._line_up(rows, count=count)
        tokens_RT = np.full((count, width), self._engine.tokenizer.end_id, np.int32)
        start_R, count_R = np.zeros((2, count), np.int32)
        for index, row in lined_up:
            part = row.ids[row.fed : min(row.fed + width, len(row.ids) - 1)]
            tokens_RT[index, : len(part)] = part
            start_R[index], count_R[index] = row.fed, len(part)
            row.fed += len(part)
        engine = self._engine
        chunk = Chunk(tokens_RT, start_R, count_R)
        self._cache = programs.read(engine.weights, self._cache, slots, chunk, config=engine.config)

    def _write(self, rows: Sequence[_Going], *, count: int, steps: int) -> dict[int, list[Step]]:
        """Steps of each of `rows`, whose ids are then those that the cache has, by the program for `count` rows."""
        engine, length = self._engine, self._cache.length
        lined_up, slots = self._line_up(rows, count=count)
        token_R, start_R, left_R = np.zeros((3, count), np.int32)
        runs_R, whole_R = np.zeros((2, count), bool)
        given_RG = np.zeros((count, engine.most_given), np.uint8)
        path_RG = np.full((count, engine.most_given), -1, np.int32)
        sampled: list[tuple[Sampling, Sequence[int], int]] = [(GREEDY, (), 0)] * count
        for index, row in lined_up:
            token_R[index], start_R[index] = row.ids[-1], row.fed
            runs_R[index], whole_R[index] = True, row.whole
            for token in row.given:
                spelt = engine.token_bytes[token]
                path_RG[index, left_R[index]] = token
                given_RG[index, left_R[index] : left_R[index] + len(spelt)] = list(spelt)
                left_R[index] += len(spelt)
            sampled[index] = row.sampling, row.ids, row.position
        sampling = sampling_rows(sampled, length=length)
        start = Start(token_R, start_R, runs_R, np.int32(steps), whole_R, given_RG, path_RG, left_R, sampling)
        heads, self._cache = programs.write(
            engine.weights, self._cache, slots, start, config=engine.config, call_id=engine.call_id
        )
        token_AR, scalars_AR6 = jax.device_get(heads)
        tokens_RA, scalars_RA6 = token_AR.T.tolist(), scalars_AR6.swapaxes(0, 1).tolist()
        said = {}
        for index, row in lined_up:
            usable = min(steps, length - len(row.ids))  # a step beyond the room was fed to the scratch slot
            pairs = zip(tokens_RA[index][:usable], scalars_RA6[index], strict=False)
            said[row.slot] = [Step(token, *scalars) for token, scalars in pairs]
            row.ids += tokens_RA[index][: usable - 1]
        return said

    def _line_up(self, rows: Sequence[_Going], *, count: int) -> tuple[list[tuple[int, _Going]], np.ndarray | None]:
        """Where each row stands in a program for `count` rows, and the slots of all that stand there (None: all)."""
        if count == self.slots:
            return [(row.slot, row) for row in rows], None
        named = {row.slot for row in rows}
        others = (slot for slot in range(self.slots) if slot not in named)
        slots = [*(row.slot for row in rows), *itertools.islice(others, count - len(rows))]
        return list(enumerate(rows)), np.array(slots, np.int32)

    def _grow(self, length: int) -> None:
        """Makes room for rows of `length` tokens and the scratch slot."""
        have = self._cache.length
        if length < have:
            return
        more = next(bucket for bucket in self._buckets if bucket > length) - have
        self._cache = grow_cache(self._cache, more=more)


def _parts(rows: Sequence[_Going], *, counts: Sequence[int]) -> Iterator[tuple[Sequence[_Going], int]]:
    """Rows in as few parts as padding allows, each with the number of rows of its program."""
    while rows:
        count = fitting(len(rows), counts)
        yield rows[:count], count
        rows = rows[count:]


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
