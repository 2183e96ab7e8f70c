"""A partner that is another lacy_jax checkpoint, with its own tokenizer and its own key-value cache."""

import codecs
from collections.abc import Sequence
from typing import Literal

from lacy_jax.cascade.engine import Engine, encode_text, shared_prefix, window_start
from lacy_jax.checkpoint import LoadedModel

# A character has at most four bytes, and a space may stand before it.
MAX_TOKENS = 8


class CheckpointPartner:
    """Greedy next pieces of a model: one token, and more only until it is a whole character that is no space."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        slots: int = 8,
        name: str = "checkpoint",
        span: Literal["token", "word", "phrase"] = "word",
    ):
        """`slots`: texts worked on at once, each with a cache; a text finds the cache that knows most of it."""
        self.name = name
        self._span = span
        self._engine = Engine(loaded)
        self._session = self._engine.session(slots)
        self._used = [0] * slots  # when each slot was last used
        self._clock = 0

    def complete(self, texts: Sequence[str]) -> list[str]:
        """See `Partner.complete`. `<CALL>` is never among the pieces; "" where the model ends the document."""
        size = self._session.slots
        groups = [texts[start : start + size] for start in range(0, len(texts), size)]
        return [piece for group in groups for piece in self._complete_group(group)]

    def _complete_group(self, texts: Sequence[str]) -> list[str]:
        rows = self._place([encode_text(self._engine.tokenizer, text) for text in texts])
        written = dict.fromkeys(rows, b"")
        pieces: dict[int, str] = {}
        for _ in range(MAX_TOKENS):
            open_rows = {slot: ids for slot, ids in rows.items() if slot not in pieces}
            if not open_rows:
                break
            for slot, step in self._session.step(open_rows).items():
                if step.token == self._engine.tokenizer.end_id:
                    pieces[slot] = ""
                    continue
                rows[slot].append(step.token)
                written[slot] += self._engine.tokenizer.decode_bytes([step.token])
                piece = whole_piece(written[slot])
                if piece is not None:
                    pieces[slot] = piece
        return [pieces.get(slot, "") for slot in rows]

    def _place(self, all_ids: Sequence[list[int]]) -> dict[int, list[int]]:
        """A slot for every row, in order: the free one that holds most of it, else the one idle for longest."""
        context = self._engine.config.context
        free = set(range(self._session.slots))
        placed: dict[int, list[int]] = {}
        for ids in all_ids:
            seen = ids[window_start(len(ids), context=context) :]
            known = {slot: shared_prefix(self._session.held(slot), seen) for slot in free}
            slot = max(free, key=lambda slot: (known[slot], -self._used[slot]))
            free.remove(slot)
            placed[slot] = ids
            self._clock += 1
            self._used[slot] = self._clock
        return placed


def whole_piece(written: bytes) -> str | None:
    """The text of a piece's bytes; None while a character is incomplete or nothing but spaces is there.

    Bytes that are no UTF-8 give "": no answer.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    try:
        text = decoder.decode(written)
    except UnicodeDecodeError:
        return ""
    return None if decoder.getstate()[0] or not text.strip(" ") else text
