"""The cascade: an SLM writes, and where it calls, a partner writes instead.

Text is the truth, token ids are a cache of it: the partner is given text and gives text, so the two need
not share a tokenizer. Rows that call are parked, and the partner is asked for many of them at once. A row's
result depends on nothing but its prompt: neither on the rows beside it nor on when the partner was asked.
"""

import codecs
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lacy_jax.cascade import budget as budgets
from lacy_jax.cascade.budget import Budget, BudgetState
from lacy_jax.cascade.engine import Engine, Session, Step, encode_text
from lacy_jax.cascade.partners import Partner
from lacy_jax.checkpoint import LoadedModel
from lacy_jax.data.tokenizer import Tokenizer

Source = Literal["slm", "partner"]
Score = Literal["call_score", "call_logit", "uncertainty"]

# A longer piece is not an answer to "what comes next?": it counts as none.
MAX_PIECE_CHARACTERS = 200
# The partner is asked when this share of the running rows waits for it, or when no other row is left.
PARKED_SHARE = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """A part of the text. `tokens`: how many SLM tokens it took; `score`: the call score where it begins."""

    text: str
    source: Source
    score: float
    tokens: int


@dataclass(frozen=True)
class Counts:
    """SLM tokens, except `calls` and `fallbacks`, which are questions to the partner.

    fallbacks: calls that the partner left unanswered, so that the SLM's own best token was used.
    """

    generated: int = 0
    delegated: int = 0
    calls: int = 0
    fallbacks: int = 0

    @property
    def share(self) -> float:
        """The realised share: delegated tokens / generated tokens (0 where nothing was generated)."""
        return self.delegated / self.generated if self.generated else 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


@dataclass(frozen=True)
class Completion:
    """What became of a prompt: `text` is what follows it, the concatenation of `pieces`.

    finish: "end" where the model ended the document, "length" where max_new_tokens were reached.
    """

    prompt: str
    text: str
    pieces: tuple[Piece, ...]
    counts: Counts
    finish: Literal["end", "length"]


@dataclass
class _Row:
    """A prompt on its way. Invariant: `text` is the text of `ids`, less the bytes held back in `utf8`."""

    index: int
    prompt: str
    text: str
    ids: list[int]
    state: BudgetState
    counts: Counts = Counts()
    pieces: list[Piece] = field(default_factory=list)
    finish: Literal["end", "length"] | None = None
    asked: tuple[Step, float] | None = None  # the step that called, and its score, while parked
    utf8: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))
    held: list[float] = field(default_factory=list)  # scores of the tokens whose character is not complete yet

    def completion(self) -> Completion:
        assert self.finish is not None
        text = self.text[len(self.prompt) :]
        return Completion(self.prompt, text, tuple(self.pieces), self.counts, self.finish)


class Cascade:
    """An SLM, a partner and a budget: `Cascade(load_model(path), partner, budget=0.22).generate(["..."])`."""

    def __init__(
        self,
        slm: LoadedModel,
        partner: Partner | None,
        *,
        budget: float = 0.22,
        window: int = 512,
        score: Score = "call_score",
    ):
        """`partner=None` never calls.

        Args:
            slm: the model that writes; its checkpoint's `call_scores`, if any, start the running quantile.
            partner: who answers calls.
            budget: the share of SLM tokens to delegate, 0 to 1.
            window: how many of a row's last scores rank the next one.
            score: what is ranked; "uncertainty" is the baseline for models trained without `<CALL>`.

        Raises:
            ConfigError: a budget or a window out of range.
        """
        self._engine = Engine(slm)
        self._partner = partner
        asked = Budget(share=budget, window=window)
        self._budget = asked if partner is not None else dataclasses.replace(asked, share=0.0)
        self._score = score
        warm = slm.meta.get("call_scores") if score == "call_score" else None
        self._fresh = budgets.start(self._budget, warm_scores=warm or ())

    @property
    def tokenizer(self) -> Tokenizer:
        return self._engine.tokenizer

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int = 64, batch_size: int = 8) -> list[Completion]:
        """Greedy completions, in the order of the prompts; see `iterate`."""
        done = dict(self.iterate(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size))
        return [done[index] for index in range(len(prompts))]

    def iterate(
        self, prompts: Sequence[str], *, max_new_tokens: int = 64, batch_size: int = 8
    ) -> Iterator[tuple[int, Completion]]:
        """(index, completion) of each prompt, as they finish; at most `batch_size` run at once.

        A partner's piece is never cut, so a row may end some tokens above `max_new_tokens`.

        Raises:
            DataError: a prompt that is no valid Unicode text.
        """
        waiting = [self._row(index, prompt, max_new_tokens) for index, prompt in enumerate(prompts)]
        waiting.reverse()
        slots: dict[int, _Row] = {}
        session = self._engine.session(max(1, min(batch_size, len(prompts))))
        while waiting or slots:
            for slot in range(session.slots):
                if slot not in slots and waiting:
                    slots[slot] = waiting.pop()
            self._round(slots, session, max_new_tokens)
            for slot in [slot for slot, row in slots.items() if row.finish]:
                row = slots.pop(slot)
                yield row.index, row.completion()

    def _row(self, index: int, prompt: str, max_new_tokens: int) -> _Row:
        row = _Row(index=index, prompt=prompt, text=prompt, ids=encode_text(self.tokenizer, prompt), state=self._fresh)
        if max_new_tokens < 1:
            row.finish = "length"
        return row

    def _round(self, slots: dict[int, _Row], session: Session, max_new_tokens: int) -> None:
        """One token for every row that runs, then the partner's pieces if enough rows wait for them."""
        running = {slot: row.ids for slot, row in slots.items() if not row.asked and not row.finish}
        if running:
            for slot, step in session.step(running).items():
                self._decide(slots[slot], step)
        live = [row for row in slots.values() if not row.finish]
        parked = [row for row in live if row.asked]
        if parked and len(parked) >= PARKED_SHARE * len(live):
            assert self._partner is not None
            for row, piece in zip(parked, ask(self._partner, [row.text for row in parked]), strict=True):
                self._resume(row, piece)
        for row in live:
            if not row.asked and not row.finish and row.counts.generated >= max_new_tokens:
                row.finish = "length"

    def _decide(self, row: _Row, step: Step) -> None:
        """Parks the row if it calls here; else the SLM's own token is taken."""
        score: float = getattr(step, self._score)
        if row.held:  # in the middle of a character, nobody else can take over
            self._take_own(row, step, score)
            return
        row.state, call = budgets.decide(self._budget, row.state, score)
        if call:
            row.asked = (step, score)
        else:
            self._take_own(row, step, score)

    def _resume(self, row: _Row, piece: str) -> None:
        """A parked row goes on: with the partner's piece, or with the SLM's own token where there is none."""
        assert row.asked is not None
        (step, score), row.asked = row.asked, None
        if piece:
            row.ids, tokens = splice(self.tokenizer, row.text, piece)
            row.text += piece
            row.pieces.append(Piece(text=piece, source="partner", score=score, tokens=tokens))
            row.counts += Counts(generated=tokens, delegated=tokens, calls=1)
            row.state = budgets.account(row.state, generated=tokens, spent=tokens)
        else:
            row.counts += Counts(calls=1, fallbacks=1)
            self._take_own(row, step, score, spent=1)

    def _take_own(self, row: _Row, step: Step, score: float, *, spent: int = 0) -> None:
        """Appends the SLM's own token; bytes of an incomplete character are held back from the text."""
        row.state = budgets.account(row.state, generated=1, spent=spent)
        if step.token == self.tokenizer.end_id:
            row.finish = "end"
            return
        row.ids.append(step.token)
        row.counts += Counts(generated=1)
        row.held.append(score)
        text = row.utf8.decode(self.tokenizer.decode_bytes([step.token]))
        if text:
            row.text += text
            # Where this token broke off one character and began another, it belongs to the second.
            begun = row.held[-1:] if row.utf8.getstate()[0] else []
            tokens = len(row.held) - len(begun)
            row.pieces.append(Piece(text=text, source="slm", score=row.held[0], tokens=tokens))
            row.held = begun


def splice(tokenizer: Tokenizer, text: str, piece: str) -> tuple[list[int], int]:
    """Ids of `text + piece`, and how many of the tokens hold some of the piece.

    The whole text is encoded anew: a piece may merge with the end of the text ("Ein" + "stein"). The engine
    keeps the keys and values of the ids before the first that changed.
    """
    encoding = tokenizer.encode(text + piece)
    tokens = int(((encoding.ends > len(text)) | (encoding.starts >= len(text))).sum())
    return [tokenizer.end_id, *encoding.ids.tolist()], tokens


def ask(partner: Partner, texts: Sequence[str]) -> list[str]:
    """The partner's piece for each text, "" where it has none to use. Whatever it does, it costs only its own rows."""
    try:
        pieces = partner.complete(texts)
        if len(pieces) != len(texts):
            raise ValueError(f"{len(pieces)} pieces for {len(texts)} texts")
    except Exception as error:  # a partner is foreign code: anything may come
        _log.warning("partner %s failed on %d text(s): %s: %s", partner.name, len(texts), type(error).__name__, error)
        return [""] if len(texts) == 1 else [piece for text in texts for piece in ask(partner, [text])]
    return [piece if usable(piece) else "" for piece in pieces]


def usable(piece: object) -> bool:
    """Whether a piece is text of a sensible length, without lone surrogates."""
    if not isinstance(piece, str) or not 0 < len(piece) <= MAX_PIECE_CHARACTERS:
        return False
    try:
        piece.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
