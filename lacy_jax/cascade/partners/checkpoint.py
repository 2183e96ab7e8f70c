"""A partner that is another checkpoint (ours, a Hugging Face folder or a GGUF file), with its own tokenizer and cache.

The text so far may end within what this tokenizer would write as one token: "born in " before " 1879", "Ein" before
"stein". Continued as given, such an end is one that the model has hardly ever seen (docs/partners.md has figures). So
the text's last begun word, and white space at its end, are taken back and written again: as the tokenizer spells them,
or by one token that spells the rest of them and more. What follows is the piece.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lacy_jax.cascade.decoding.engine import Engine, encode_text, ends_word, shared_prefix, window_start
from lacy_jax.cascade.decoding.session import Session
from lacy_jax.cascade.partners import Wanted
from lacy_jax.cascade.text.extent import IDEOGRAPHS, LETTER, complete_extent
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import ComputeDtype, Span
from lacy_jax.data.tokenizer import TextTokenizer

# Tokens written for one piece, at most; where it is not whole by then there is no answer. A character spelt in bytes
# takes four, an emoji of a family 25, a year in single digits five; of a word, one token after it is needed too.
MAX_TOKENS: dict[Span, int] = {"token": 8, "word": 32, "phrase": 64}
# Tokens of a text that the model sees, at most, as many as a server is sent (remote/address.py). A model made for 8,192
# would have the memory and the programs for them, at every start.
MOST_CONTEXT = 1024
# Rows write on the device for about this long, seconds, before it is looked which of them have their pieces. What is
# written beyond a piece is thrown away: at 0.05 a GPU wrote 16 tokens for each piece of one.
ROUND_SECONDS = 0.005
# Of a longer end than this many characters, only so much is written again.
MOST_TAKEN_BACK = 24
# White space at the end, a begun word with a mark before it ("-Den", which Llama 3 has in one), a few ideographs.
_BEGUN = re.compile(rf"\s*(?:[^\s\w]?{LETTER}+|[{IDEOGRAPHS}]{{1,4}})?\Z")


def from_spec(wanted: Wanted) -> "CheckpointPartner":
    """The partner "checkpoint:PATH". Raises as `load_model`."""
    name = f"checkpoint:{wanted.argument}"
    return CheckpointPartner(load_model(wanted.argument), slots=wanted.batch_size, span=wanted.span, name=name)


class CheckpointPartner:
    """Greedy next tokens, words or phrases of a model."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        span: Span,
        slots: int = 8,
        name: str = "checkpoint",
        compute_dtype: ComputeDtype = "float32",
    ):
        """A text finds the cache that knows most of it, and is fed the rest.

        Args:
            slots: texts worked on at once, each with a cache.
            span: how far it writes; see `complete_extent`.
            compute_dtype: see `Engine`.
        """
        self.name = name
        self._span: Span = span
        self._engine = Engine(loaded, compute_dtype=compute_dtype, context=MOST_CONTEXT)
        self._session = Session(self._engine, slots=slots)
        self._used = [0] * slots  # when each slot was last used
        self._lengths = [0] * slots  # of the text that each works on; its session may have gone some steps further
        self._clock = 0

    def complete(self, texts: Sequence[str]) -> list[str]:
        """See `Partner.complete`. `<CALL>` is never among the pieces; "" where the model ends the document."""
        size = self._session.slots
        groups = [texts[start : start + size] for start in range(0, len(texts), size)]
        return [piece for group in groups for piece in self._complete_group(group)]

    def warm_up(self, texts: Sequence[str] = (), *, more: int = 0) -> int:
        """Compiles what texts may need that begin so and grow by `more` tokens, and returns how many programs that is.

        No texts: what any texts may need. Another tokenizer's tokens may be twice as many here.
        """
        if not texts:
            return self._session.warm_up()
        longest = max(len(encode_text(self._engine.tokenizer, text)) for text in texts)
        return self._session.warm_up(length=longest + 2 * more + MAX_TOKENS[self._span])

    def _complete_group(self, texts: Sequence[str]) -> list[str]:
        answers = self._place([begin(self._engine.tokenizer, text) for text in texts])
        self._write(answers)
        # Going on with the last word came to no end, as in 19191919: what follows it then?
        endless = {slot: answer for slot, answer in answers.items() if self._is_endless(answer)}
        for answer in endless.values():
            answer.take_for_whole()
        self._write(endless)
        for slot, answer in answers.items():
            self._lengths[slot] = len(answer.ids)
        return [answer.piece or "" for answer in answers.values()]

    def _write(self, answers: Mapping[int, "_Answer"]) -> None:
        """Writes until every answer has its piece."""
        while open_rows := {slot: answer for slot, answer in answers.items() if answer.piece is None}:
            steps = self._session.steps(
                {slot: answer.ids for slot, answer in open_rows.items()},
                ahead=self._session.steps_within(ROUND_SECONDS),
                given={slot: answer.given for slot, answer in open_rows.items()},
                whole=[slot for slot, answer in open_rows.items() if answer.whole and not answer.steps],
            )
            for slot, answer in open_rows.items():
                for step in steps[slot]:
                    if answer.piece is None:
                        self._append(answer, step.token)

    def _is_endless(self, answer: "_Answer") -> bool:
        begins = answer.written.decode(errors="replace")[:1]
        return not answer.piece and answer.steps == MAX_TOKENS[self._span] and ends_word(begins)

    def _append(self, answer: "_Answer", token: int) -> None:
        answer.ids.append(token)
        if answer.given and token == answer.given[0]:
            answer.given = answer.given[1:]
            return
        known = sum(len(self._engine.token_bytes[each]) for each in answer.given)
        answer.given, answer.written = (), answer.written + self._engine.token_bytes[token][known:]
        # Bytes that are missing at the end become U+FFFD, which is how complete_extent wants it.
        text = answer.written.decode(errors="replace")
        answer.piece = complete_extent(text, span=self._span, ended=token in self._engine.tokenizer.end_ids)
        answer.steps += 1
        if "\ufffd" in (answer.piece or "") or (answer.piece is None and answer.steps == MAX_TOKENS[self._span]):
            answer.piece = ""

    def _place(self, answers: Sequence["_Answer"]) -> dict[int, "_Answer"]:
        """A slot for every text, in their order: the one whose text it goes on with, else the one idle for longest.

        A text goes on with what a slot holds where that is more than half of it: a common beginning alone would
        cost another text its cache.
        """
        context = self._engine.context
        held = [self._session.held(slot) for slot in range(self._session.slots)]
        known: list[tuple[int, int, int]] = []
        for index, answer in enumerate(answers):
            seen = answer.ids[window_start(len(answer.ids), context=context) :]
            shared = [shared_prefix(ids, seen) for ids in held]
            known += [
                (n, index, slot) for slot, n in enumerate(shared) if 2 * n > min(len(held[slot]), self._lengths[slot])
            ]
        slot_of: dict[int, int] = {}
        free = set(range(self._session.slots))
        for _, index, slot in sorted(known, reverse=True):
            if index not in slot_of and slot in free:
                slot_of[index] = slot
                free.remove(slot)
        for index in range(len(answers)):
            if index not in slot_of:
                slot_of[index] = min(free, key=lambda slot: self._used[slot])
                free.remove(slot_of[index])
            self._clock += 1
            self._used[slot_of[index]] = self._clock
        return {slot_of[index]: answer for index, answer in enumerate(answers)}


@dataclass
class _Answer:
    """A text being continued.

    text_ids: of the text. ids: of the text so far, and growing. given: those of the text's end, still to be written
    again. written: what follows them, in so many steps. whole: whether the text's last word is taken for whole. piece:
    None until it is whole.
    """

    text_ids: list[int]
    ids: list[int]
    given: Sequence[int]
    written: bytes = b""
    steps: int = 0
    whole: bool = False
    piece: str | None = None

    def take_for_whole(self) -> None:
        """Begins once more, after the text's last word."""
        self.ids, self.given, self.written, self.steps = list(self.text_ids), (), b"", 0
        self.whole, self.piece = True, None


def begin(tokenizer: TextTokenizer, text: str) -> _Answer:
    """The ids of a text, those of its begun word and of white space at its end apart."""
    ids = encode_text(tokenizer, text)
    begun = _BEGUN.search(text, max(0, len(text) - MOST_TAKEN_BACK))
    start = len(text) if begun is None else begun.start()
    ends = tokenizer.encode(text).ends
    kept = len(ids) - int(np.count_nonzero(ends > start))
    if kept == 0 or not all(tokenizer.byte_lengths[ids[kept:]]):  # nothing before it, or a token of no bytes
        kept = len(ids)
    return _Answer(text_ids=ids, ids=ids[:kept], given=ids[kept:])
