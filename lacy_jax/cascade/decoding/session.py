"""KV-cached decoding of a batch of rows, each with its own length.

A row is named by its whole list of token ids, every time. The session compares it with what its cache
holds, keeps the longest common prefix and feeds the rest: a prompt, one new token, or the tokens of a
partner's piece are all the same thing, a right-padded chunk. Nothing is rolled back by hand. So the session may
also run ahead: it feeds a row what the row itself picks, several tokens on the device at once, and where the row
then goes on differently, that is a changed row like any other.

Axes: R rows, T chunk, A steps ahead, G bytes of given text.
"""

import itertools
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from lacy_jax.cascade.decoding import programs
from lacy_jax.cascade.decoding.engine import (
    SMALLEST_BUCKET,
    Engine,
    Step,
    cache_buckets,
    fitting,
    row_counts,
    shapes,
    shared_prefix,
    window_start,
)
from lacy_jax.cascade.decoding.programs import MOST_STEPS, Chunk, Start
from lacy_jax.cascade.decoding.sampling import GREEDY, Sampling, sampling_rows
from lacy_jax.model import decoder
from lacy_jax.model.attention import KVCache, grow_cache
from lacy_jax.runtime.cores import cores

FEWEST_ROWS = 4  # of a group


class Session:
    """Rows and their caches. A slot takes any row at any time; what the two rows share is not computed again.

    On a CPU the slots are shared out over groups, which threads decode at once: XLA multiplies a row's query with its
    keys on one core, one row after the other (docs/cascade.md).
    """

    def __init__(self, engine: Engine, *, slots: int, groups: int | None = None):
        """Empty rows. groups: how many groups of equal size; None: as many as `group_count` says."""
        self.slots = slots
        self._count = group_count(engine, slots) if groups is None else groups
        self._groups = [_Group(engine, slots=-(-slots // self._count)) for _ in range(self._count)]
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="decoding")
        self._step_seconds = float("inf")  # of the last call

    def held(self, slot: int) -> list[int]:
        """The ids whose keys and values the slot holds."""
        return self._groups[slot % self._count].held(slot // self._count)

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
        given, sampling = given or {}, sampling or {}
        asked: list[list[Asked]] = [[] for _ in self._groups]
        for slot, ids in rows.items():
            row = Asked(slot // self._count, ids, sampling.get(slot, GREEDY), given.get(slot, ()), slot in whole)
            asked[slot % self._count].append(row)
        busy = [index for index, those in enumerate(asked) if those]
        if len(busy) == 1:  # in this thread, which costs nothing
            said = [self._groups[busy[0]].steps(asked[busy[0]], ahead=ahead)]
        else:
            futures = [self._threads.submit(self._groups[index].steps, asked[index], ahead=ahead) for index in busy]
            try:
                wait(futures)  # whatever failed: no group may still be at work when the next call comes
            except BaseException:
                wait(futures)
                raise
            said = [future.result() for future in futures]
        self._step_seconds = max(self._groups[index].step_seconds for index in busy)
        return {
            slot * self._count + index: steps
            for index, those in zip(busy, said, strict=True)
            for slot, steps in those.items()
        }

    def warm_up(self, *, length: int | None = None) -> int:
        """Compiles all programs that rows may need, and returns how many; what the session holds is not touched.

        length: of the longest row, in tokens; None: any.
        """
        return self._groups[0].warm_up(length=length)  # the groups are alike


@dataclass(frozen=True)
class Asked:
    """A row that `_Group.steps` goes on with, and how: see `Session.steps`. slot: that of the group."""

    slot: int
    ids: Sequence[int]
    sampling: Sampling
    given: Sequence[int]
    whole: bool


@dataclass
class _Going:
    """A row within one call of `_Group.steps`.

    ids: those in sight, and after them what was picked and fed in its turn. fed: how many of them the cache has.
    """

    asked: Asked
    ids: list[int]
    fed: int

    @property
    def slot(self) -> int:
        return self.asked.slot

    @property
    def unread(self) -> int:
        """Tokens but the last that the cache does not have; the last one is always fed, for what comes after it."""
        return len(self.ids) - 1 - self.fed


class _Group:
    """Some of a session's rows, and their caches, which lie in one array for each layer."""

    def __init__(self, engine: Engine, *, slots: int):
        self._engine = engine
        self._buckets = cache_buckets(engine.context)
        self._forget(slots)
        self.step_seconds = float("inf")  # of the last call

    @property
    def slots(self) -> int:
        return len(self._held)

    def held(self, slot: int) -> list[int]:
        """See `Session.held`."""
        return self._held[slot]

    def steps(self, rows: Sequence[Asked], *, ahead: int) -> dict[int, list[Step]]:
        """See `Session.steps`."""
        context = self._engine.context
        seen = [list(row.ids[window_start(len(row.ids), context=context) :]) for row in rows]
        self._grow(min(context - 1, max(map(len, seen)) + ahead - 1))
        going = [
            _Going(row, ids=ids, fed=min(shared_prefix(self._held[row.slot], ids), len(ids) - 1))
            for row, ids in zip(rows, seen, strict=True)
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
        self.step_seconds = (time.monotonic() - began) / ahead
        return steps

    def _forget(self, slots: int) -> None:
        """Starts with empty caches."""
        cache = decoder.new_cache(self._engine.config, batch=slots, length=self._buckets[0])
        self._cache: KVCache = jax.device_put(cache, self._engine.device)
        self._held: list[list[int]] = [[] for _ in range(slots)]

    def warm_up(self, *, length: int | None = None) -> int:
        """See `Session.warm_up`.

        Each program is run without a row, `read` for one layer and `write` for no step: that costs nearly nothing.
        """
        other, count = _Group(self._engine, slots=self.slots), 0
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
        with programs.compiled_once("read", *engine.sizes, self.slots, self._cache.length, count, width):
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
            runs_R[index], whole_R[index] = True, row.asked.whole
            for token in row.asked.given:
                spelt = engine.token_bytes[token]
                path_RG[index, left_R[index]] = token
                given_RG[index, left_R[index] : left_R[index] + len(spelt)] = list(spelt)
                left_R[index] += len(spelt)
            sampled[index] = row.asked.sampling, row.ids, len(row.asked.ids)
        sampling = sampling_rows(sampled, length=length)
        start = Start(token_R, start_R, runs_R, np.int32(steps), whole_R, given_RG, path_RG, left_R, sampling)
        with programs.compiled_once("write", *engine.sizes, self.slots, length, count):
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


def group_count(engine: Engine, slots: int) -> int:
    """How many groups the rows of a session are decoded in; 1 but on CPUs.

    A group reads all weights anew, and gains what several cores read of the caches. Measured with two groups on two
    cores (docs/cascade.md): it pays from where the caches have half as many bytes as the weights.
    """
    if jax.default_backend() != "cpu":
        return 1
    return max(1, min(cores(), slots // FEWEST_ROWS, 1 + int(2 * cache_ratio(engine, slots))))


def cache_ratio(engine: Engine, slots: int) -> float:
    """Bytes of the caches of so many rows, of the least length, over those of the weights."""
    cache = jax.eval_shape(lambda: decoder.new_cache(engine.config, batch=slots, length=SMALLEST_BUCKET))
    return _bytes(cache) / _bytes(engine.weights.params)


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _parts(rows: Sequence[_Going], *, counts: Sequence[int]) -> Iterator[tuple[Sequence[_Going], int]]:
    """Rows in as few parts as padding allows, each with the number of rows of its program."""
    while rows:
        count = fitting(len(rows), counts)
        yield rows[:count], count
        rows = rows[count:]
