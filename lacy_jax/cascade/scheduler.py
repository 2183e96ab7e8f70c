"""Rows in slots: continuous batching of requests, with rows that wait for the partner parked.

Rows that call are parked, and the partner is asked for many of them at once, in a thread of its own: the others go on
meanwhile. A row's result depends on nothing but its request, neither on the rows beside it nor on when the
partner answered (unless rows share one account of calls).
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lacy_jax.cascade import budget as budgets
from lacy_jax.cascade.budget import Budget, BudgetState
from lacy_jax.cascade.decoding.engine import Engine, Step, encode_text
from lacy_jax.cascade.decoding.programs import MOST_STEPS
from lacy_jax.cascade.decoding.session import Session
from lacy_jax.cascade.partners.guard import Guard
from lacy_jax.cascade.rows import Completion, Piece, Request, Row, may_call, release, resume, take_own
from lacy_jax.cascade.scores import RankedBy, price_threshold, score_of
from lacy_jax.config import Account, Gate, Span
from lacy_jax.errors import ConfigError

# (text so far, the SLM's own next token as text) -> whether to call: for evaluation, where the truth is known.
Oracle = Callable[[str, str], bool]

# The partner is asked when this share of the live rows waits for it, or when no other row is left; and at last after so
# many rounds, since rows beside a waiting one may never call.
PARKED_SHARE = 0.5
MOST_ROUNDS = 8
# Shared accounts that are kept, one for each budget that was asked for.
MOST_ACCOUNTS = 256
# A round that runs ahead takes about this long at most, seconds: pieces, answers and cancellations wait for its end.
ROUND_SECONDS = 0.1
# How long a round waits for the partner when no row can go on, seconds: then new requests may come in.
PATIENCE = 0.02


@dataclass(frozen=True)
class Calling:
    """Who calls, on what account, and how far the partner writes.

    span: unless it is "token", the partner's words and numbers are whole, and the SLM does not go on with them.
    """

    budget: Budget
    span: Span
    score: RankedBy
    gate: Gate
    account: Account
    warm_scores: tuple[float, ...]
    oracle: Oracle | None


@dataclass(frozen=True)
class Event:
    """What a round brought a request: `pieces` are final, and over all its events make up `completion.text`."""

    id: int
    pieces: tuple[Piece, ...]
    completion: Completion | None = None


class Scheduler:
    """Requests in, events out, round by round. One thread calls everything."""

    def __init__(self, engine: Engine, partner: Guard | None, calling: Calling, *, slots: int):
        self._engine, self._partner, self._calling = engine, partner, calling
        self._session = Session(engine, slots=slots)
        self._waiting: collections.deque[Row] = collections.deque()
        self._rows: dict[int, Row] = {}  # slot -> row
        self._question: tuple[concurrent.futures.Future[list[str]], list[Row]] | None = None
        self._rounds_waited = 0  # by rows that the partner was not asked for yet
        self._shared: collections.OrderedDict[Budget, BudgetState] = collections.OrderedDict()
        self._next_id = 0

    @property
    def running(self) -> int:
        """Rows in slots, those that wait for the partner included."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """Requests that no slot is free for yet."""
        return len(self._waiting)

    def warm_up(self) -> int:
        """Compiles every program that requests may need, the partner's too, and returns how many."""
        if self._partner is None:
            return self._session.warm_up()
        with concurrent.futures.ThreadPoolExecutor(1) as beside:  # XLA compiles a program on one core
            partners = beside.submit(self._partner.warm_up)
            return self._session.warm_up() + partners.result()

    def add(self, request: Request) -> int:
        """Queues a request and returns its id.

        Raises:
            DataError: a prompt that is no valid Unicode text.
            ConfigError: ids of an opening that are no tokens, or a price where the score is no probability.
        """
        budget, tokens = self._calling.budget, self._engine.call_id
        if request.opening is not None and not all(0 <= index < tokens for index in request.opening.ids):
            raise ConfigError(f"opening: its ids must be tokens, 0 to {tokens - 1}")
        if request.budget is not None:
            threshold = budget.threshold if budget.cap == "share" else None
            budget = dataclasses.replace(budget, share=request.budget, threshold=threshold)
        if request.price is not None:
            priced = price_threshold(self._calling.score, request.price)
            budget = dataclasses.replace(budget, threshold=priced, cap="share")
        if self._partner is None:
            budget = dataclasses.replace(budget, share=0.0, threshold=None)
        row = Row(
            id=self._next_id,
            request=request,
            budget=budget,
            state=budgets.start(budget, warm_scores=self._calling.warm_scores),
            text=request.prompt,
            ids=[],
        )
        row.ids = encode_text(self._engine.tokenizer, row.read, opening=row.opening_ids)
        if request.max_new_tokens == 0:
            row.finish = "length"
        self._next_id += 1
        self._waiting.append(row)
        return row.id

    def cancel(self, id: int) -> None:
        """Forgets a request, wherever it stands; no more events of it come. An unknown or ended one is no error."""
        self._waiting = collections.deque(row for row in self._waiting if row.id != id)
        self._rows = {slot: row for slot, row in self._rows.items() if row.id != id}

    def step(self) -> list[Event]:
        """One round: a few tokens for every row that can go on, and the partner's pieces if they are there."""
        for slot in range(self._session.slots):
            if slot not in self._rows and self._waiting:
                self._rows[slot] = self._waiting.popleft()
        running = {slot: row for slot, row in self._rows.items() if row.runs}
        if running:
            self._advance(running)
        self._ask()
        self._collect()
        return list(self._events())

    def _advance(self, running: Mapping[int, Row]) -> None:
        """Runs some steps ahead for all rows at once, and takes of each row's what comes before it calls or ends."""
        steps = self._session.steps(
            {slot: row.ids for slot, row in running.items()},
            ahead=self._ahead(list(running.values())),
            sampling={slot: row.request.sampling for slot, row in running.items()},
            whole=[] if self._calling.span == "token" else [s for s, row in running.items() if row.ends_with_partner],
        )
        for index in range(max(map(len, steps.values()))):
            for slot, row in running.items():
                if row.runs and index < len(steps[slot]):
                    self._decide(row, steps[slot][index])

    def _ahead(self, rows: Sequence[Row]) -> int:
        """How many steps to run: until about half of the rows will have called. No row's result depends on it."""
        rate = sum(budgets.expected_rate(row.budget, row.state, left=self._left(row)) for row in rows) / len(rows)
        until_half = math.log(0.5) / math.log1p(-min(rate, 0.99)) if rate > 0 else MOST_STEPS
        left = max(row.left for row in rows)
        return max(1, round(min(until_half, left, self._session.steps_within(ROUND_SECONDS))))

    def _decide(self, row: Row, step: Step) -> None:
        """The row waits if it calls here; else the SLM's own token is taken."""
        score = self._score(row, step)
        with self._account(row):
            if may_call(row):
                row.state, call = budgets.decide(row.budget, row.state, score, left=self._left(row))
                if call:
                    row.asked = (step, score)
                    return
            take_own(row, step, score, engine=self._engine)

    def _left(self, row: Row) -> float:
        """Tokens until the row's account is closed; one that rows share goes on with others."""
        return row.left if self._calling.account == "row" else math.inf

    def _score(self, row: Row, step: Step) -> float:
        """The score of calling here."""
        calling = self._calling
        if calling.score != "oracle":
            return float(score_of(calling.score, step._asdict(), gate=calling.gate))
        assert calling.oracle is not None
        own = self._engine.token_bytes[step.token].decode(errors="replace")
        return calling.oracle(row.text, own) * (step.factual if calling.gate == "factual" else 1.0)

    @contextlib.contextmanager
    def _account(self, row: Row) -> Iterator[None]:
        """Lets the row act on the account that all rows of its budget share, where they do."""
        if self._calling.account == "row":
            yield
            return
        row.state = self._shared.get(row.budget, row.state)
        yield
        self._shared[row.budget] = row.state
        self._shared.move_to_end(row.budget)
        if len(self._shared) > MOST_ACCOUNTS:
            self._shared.popitem(last=False)

    def _ask(self) -> None:
        """Asks the partner, one batch at a time: when enough rows wait for it, or none else can go on."""
        if self._partner is None or self._question is not None:
            return
        parked = [row for row in self._rows.values() if row.asked]
        live = [row for row in self._rows.values() if row.finish is None]
        self._rounds_waited = self._rounds_waited + 1 if parked else 0
        if parked and (len(parked) >= PARKED_SHARE * len(live) or self._rounds_waited >= MOST_ROUNDS):
            self._question = self._partner.submit([row.text for row in parked]), parked
            self._rounds_waited = 0

    def _collect(self) -> None:
        """Takes up the rows that were answered."""
        if self._question is None:
            return
        future, asked = self._question
        idle = not any(row.runs for row in self._rows.values())
        concurrent.futures.wait([future], timeout=PATIENCE if idle else 0)
        if not future.done():
            return
        self._question = None
        for row, piece in zip(asked, future.result(), strict=True):
            with self._account(row):
                resume(row, piece, engine=self._engine)

    def _events(self) -> Iterator[Event]:
        for slot, row in list(self._rows.items()):
            pieces = release(row)
            if row.finish is not None:
                del self._rows[slot]
            if pieces or row.finish is not None:
                yield Event(row.id, pieces, row.completion() if row.finish is not None else None)
