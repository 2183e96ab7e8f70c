"""What becomes of one prompt: its text, who wrote which part of it, and what that took.

Text is the truth, token ids are a cache of it. Bytes of an incomplete character are held back from the text,
and stop strings never enter it.
"""

import codecs
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from lacy_jax.cascade import budget as budgets
from lacy_jax.cascade.budget import Budget, BudgetState
from lacy_jax.cascade.decoding.engine import Step, after_start, ends_word
from lacy_jax.cascade.decoding.sampling import GREEDY, Sampling
from lacy_jax.cascade.text.extent import complete_extent
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.errors import ConfigError

Source = Literal["slm", "partner"]
Finish = Literal["end", "length", "stop"]


@dataclass(frozen=True)
class Opening:
    """What the SLM reads in place of a prompt: `ids`, and then `text`, which is encoded in one with what is written.

    A chat is one: control tokens stand between its messages, and the text after the last of them goes on.
    """

    ids: tuple[int, ...]
    text: str


@dataclass(frozen=True)
class Request:
    """A prompt, and how it is to be completed.

    opening: what the SLM reads, where that is not the prompt itself; the partner reads the prompt in any case.
    budget: share of tokens to delegate; None: the cascade's own. price: calls where the score, a probability, is above
        it, and the budget is the most that is spent; None: as the cascade does.
    stop: the text ends before the first of these strings.

    Raises:
        ConfigError: a value out of range.
    """

    prompt: str
    max_new_tokens: int = 64
    budget: float | None = None
    price: float | None = None
    sampling: Sampling = GREEDY
    stop: tuple[str, ...] = ()
    opening: Opening | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0:
            raise ConfigError(f"max_new_tokens={self.max_new_tokens}: allowed is 0 or more")
        if self.budget is not None:
            Budget(share=self.budget)
        if self.price is not None and not 0.0 <= self.price <= 1.0:
            raise ConfigError(f"price={self.price}: allowed is a probability, 0 to 1")
        if not all(self.stop):
            raise ConfigError("stop: an empty string would stop every text before it begins; leave it out")


@dataclass(frozen=True)
class Piece:
    """A part of the text. `tokens`: how many SLM tokens it took; `score`: the score of calling where it begins."""

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
        return Counts(
            generated=self.generated + other.generated,
            delegated=self.delegated + other.delegated,
            calls=self.calls + other.calls,
            fallbacks=self.fallbacks + other.fallbacks,
        )


@dataclass(frozen=True)
class Completion:
    """What became of a prompt: `text` is what follows it, the concatenation of `pieces`.

    finish: "end" where the model ended the document, "length" where max_new_tokens were reached, "stop" at a stop
    string, which is not part of the text (its tokens are counted all the same).
    """

    prompt: str
    text: str
    pieces: tuple[Piece, ...]
    counts: Counts
    finish: Finish


class Writes(Protocol):
    """What is asked of the model that writes: an `Engine`, or what runs elsewhere.

    token_bytes: the UTF-8 bytes of each token.
    """

    @property
    def tokenizer(self) -> TextTokenizer: ...

    @property
    def token_bytes(self) -> Sequence[bytes]: ...


@dataclass
class Row:
    """A prompt on its way. Invariant: `read` is the text of `ids`, less the bytes held back in `utf8`.

    text: the prompt and what was written, which is what the partner reads.
    """

    id: int
    request: Request
    budget: Budget
    state: BudgetState
    text: str
    ids: list[int]
    counts: Counts = Counts()
    pieces: list[Piece] = field(default_factory=list)
    released: int = 0  # pieces that were handed out
    finish: Finish | None = None
    asked: tuple[Step, float] | None = None  # the step that called, and its score, while the row waits
    in_vain: int | None = None  # where the text ended at the last question without an answer
    utf8: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))
    held: list[float] = field(default_factory=list)  # scores of the tokens whose character is not complete yet

    @property
    def read(self) -> str:
        """What the SLM reads as text: `text`, or that of an opening and what was written."""
        opening = self.request.opening
        return self.text if opening is None else opening.text + self.text[len(self.request.prompt) :]

    @property
    def opening_ids(self) -> tuple[int, ...] | None:
        """Those before `read`; None: what stands before any text."""
        return None if self.request.opening is None else self.request.opening.ids

    @property
    def ends_with_partner(self) -> bool:
        """Whether the text ends with a letter or digit that the partner wrote."""
        return not self.held and bool(self.pieces) and self.pieces[-1].source == "partner" and ends_word(self.text)

    @property
    def runs(self) -> bool:
        """Whether the SLM can go on with it."""
        return self.finish is None and self.asked is None

    @property
    def left(self) -> int:
        """Tokens until its length."""
        return self.request.max_new_tokens - self.counts.generated

    def completion(self) -> Completion:
        assert self.finish is not None
        prompt = self.request.prompt
        return Completion(prompt, self.text[len(prompt) :], tuple(self.pieces), self.counts, self.finish)


def may_call(row: Row) -> bool:
    """Whether the row may call here, whatever the score.

    In the middle of a character nobody else can take over. At a price, a question that was left unanswered is not
    asked again before the phrase that was asked for has ended (the paper's quantile asks whenever it wants to).
    """
    if row.held:
        return False
    if row.budget.cap == "none" or row.in_vain is None:
        return True
    return complete_extent(row.text[row.in_vain :], span="phrase", ended=False) is not None


def take_own(row: Row, step: Step, score: float, *, engine: Writes, spent: int = 0) -> None:
    """Appends the SLM's own token; bytes of an incomplete character are held back from the text."""
    row.state = budgets.account(row.state, generated=1, spent=spent)
    if step.token in engine.tokenizer.end_ids:
        row.finish = "end"
        return
    row.ids.append(step.token)
    row.counts += Counts(generated=1)
    row.held.append(score)
    text = row.utf8.decode(engine.token_bytes[step.token])
    if text:
        # Where this token broke off one character and began another, it belongs to the second.
        begun = row.held[-1:] if row.utf8.getstate()[0] else []
        _append(row, Piece(text=text, source="slm", score=row.held[0], tokens=len(row.held) - len(begun)))
        row.held = begun
    _end_at_length(row)


def resume(row: Row, piece: str, *, engine: Writes) -> None:
    """A row that waits goes on: with the partner's piece, or with the SLM's own token where that is ""."""
    assert row.asked is not None
    (step, score), row.asked = row.asked, None
    if not piece:
        row.counts += Counts(calls=1, fallbacks=1)
        row.in_vain = len(row.text)
        take_own(row, step, score, engine=engine, spent=1)
        return
    row.ids, tokens = splice(engine.tokenizer, row.read, piece, opening=row.opening_ids)
    row.counts += Counts(generated=tokens, delegated=tokens, calls=1)
    row.state = budgets.account(row.state, generated=tokens, spent=tokens)
    _append(row, Piece(text=piece, source="partner", score=score, tokens=tokens))
    _end_at_length(row)


def splice(
    tokenizer: TextTokenizer, text: str, piece: str, *, opening: Sequence[int] | None = None
) -> tuple[list[int], int]:
    """Ids of `text + piece`, and how many of the tokens hold some of the piece, at least one.

    `opening`: ids that stand before the text, as in `after_start`.
    The whole text is encoded anew: a piece may merge with the end of the text ("Ein" + "stein"). The engine
    keeps the keys and values of the ids before the first that changed.
    """
    encoding = tokenizer.encode(text + piece)
    tokens = int(((encoding.ends > len(text)) | (encoding.starts >= len(text))).sum())
    # A tokenizer that drops characters may write none; a row of such pieces would never reach its length.
    return after_start(tokenizer, encoding.ids.tolist(), opening=opening), max(1, tokens)


def release(row: Row) -> tuple[Piece, ...]:
    """The pieces that are final and were not handed out before: none that a stop string might still cut."""
    if row.finish is None:
        generated = row.text[len(row.request.prompt) :]
        unsure = max((_overlap(generated, stop) for stop in row.request.stop), default=0)
        count, left = len(row.pieces), unsure
        while left > 0:
            count -= 1
            left -= len(row.pieces[count].text)
    else:
        count = len(row.pieces)
    fresh, row.released = tuple(row.pieces[row.released : count]), max(row.released, count)
    return fresh


def _append(row: Row, piece: Piece) -> None:
    """Adds a piece to the text, and ends both before a stop string."""
    row.text += piece.text
    row.pieces.append(piece)
    begin, grown = len(row.request.prompt), len(piece.text)
    starts = [row.text.find(stop, max(begin, len(row.text) - grown - len(stop) + 1)) for stop in row.request.stop]
    end = min((start for start in starts if start >= 0), default=None)
    if end is None:
        return
    excess, row.text, row.finish = len(row.text) - end, row.text[:end], "stop"
    while excess:
        last = row.pieces.pop()
        kept = last.text[: max(0, len(last.text) - excess)]
        excess -= len(last.text) - len(kept)
        if kept:
            row.pieces.append(dataclasses.replace(last, text=kept))


def _end_at_length(row: Row) -> None:
    if row.finish is None and row.left <= 0:
        row.finish = "length"


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
