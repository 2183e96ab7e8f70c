"""Asks a partner, which is foreign code: whatever it does costs only the texts it did it to."""

import collections
import dataclasses
import itertools
import logging
import reprlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from lacy_jax.cascade.partners import Partner
from lacy_jax.cascade.remote.rest import Rest

# A longer piece is not an answer to "what comes next?": it counts as none.
MAX_PIECE_CHARACTERS = 200
# At most one warning in this many seconds: a partner that is away must not fill the log.
WARNING_SECONDS = 5.0
FIRST_REST_SECONDS = 5.0  # how long a partner that is late twice in a row is left alone; doubled by each further time
IDLE_SECONDS = 0.5  # how long the thread that asks waits for another question
# Reasons of a partner's `failures` that lie in what it wrote: the same text would get no answer again.
BROKEN, ENDLESS = "broken characters", "no end of the answer in sight"

_log = logging.getLogger(__name__)


class Clock:
    """Time in seconds. A test passes one that it moves itself."""

    def now(self) -> float:
        return time.monotonic()

    def wait_until(self, moment: float) -> None:
        time.sleep(max(0.0, moment - time.monotonic()))


@dataclass(frozen=True)
class PartnerStatistics:
    """What became of the texts that a partner was asked: questions = answered + empty + failed + late.

    empty: the partner had nothing to say. failed: an exception, or no usable piece. late: no answer in time, or not
    asked because an earlier question still hangs. batches: calls of `complete`. seconds: time it was waited for.
    """

    questions: int = 0
    answered: int = 0
    empty: int = 0
    failed: int = 0
    late: int = 0
    batches: int = 0
    seconds: float = 0.0


@dataclass
class _Question:
    """Texts on their way. `answers`: the partner's texts, _LATE until one is there, _FAILED where it gave none."""

    texts: list[str]
    future: Future[list[str]]
    answers: list[object]
    deadline: float
    begun: float | None = None
    settled: bool = False


_FAILED, _LATE = object(), object()


class Guard:
    """A partner that never raises and always answers in time, with "" where the partner within has no usable piece.

    The partner is called in a thread, by one question at a time. It must answer a question within `timeout` seconds
    of its being asked. While it hangs beyond that, further questions are answered "" at once, without a thread
    more; when it comes back, what it brings is thrown away, and it is asked again. If it is late for a second question
    in a row, it is left alone for a while that grows. There are two threads, one that asks and one that looks at the
    clock. Both end when nothing is asked, and are daemons: a partner that hangs for ever does not keep the program from
    ending.
    """

    def __init__(
        self, partner: Partner, *, timeout: float = 30.0, batch_size: int | None = None, clock: Clock | None = None
    ):
        """`batch_size`: the most texts given to the partner at once; None: all of a question's."""
        self.name = str(partner.name)
        self.timeout = timeout
        self._clock = clock or Clock()
        self._partner, self._batch_size = partner, batch_size
        self._lock = threading.Lock()  # of all below
        self._asked = threading.Condition(self._lock)
        self._queue: collections.deque[_Question] = collections.deque()  # not yet given to the partner
        self._open: collections.deque[_Question] = collections.deque()  # not yet answered, the oldest first
        self._working = self._watching = self._hanging = False
        self._prepared = False
        self._statistics = PartnerStatistics()
        self._warned = float("-inf")
        self._rest: Rest | None = None  # since it was late, until a question is answered in time

    @property
    def statistics(self) -> PartnerStatistics:
        """So far; from any thread, at any time."""
        with self._lock:
            return self._statistics

    @property
    def reasons(self) -> dict[str, int]:
        """Why texts went unanswered, where the partner within says so (`failures`: reason -> number of texts)."""
        try:
            failures = dict(getattr(self._partner, "failures", {}))
            return {str.__str__(reason): int(texts) for reason, texts in failures.items()}
        except Exception:
            return {}

    def complete(self, texts: Sequence[str]) -> list[str]:
        """See `Partner.complete`; never raises."""
        return self.submit(texts).result()

    @property
    def prepares(self) -> bool:
        """Whether the partner can prepare."""
        return hasattr(self._partner, "warm_up")

    def warm_up(self, texts: Sequence[str] = (), *, more: int = 0) -> int:
        """Lets a partner prepare that can (`warm_up() -> number of programs`): before it is first asked.

        The first time it says so in the log, as a program may compile for minutes.

        Args:
            texts: the beginnings of those that it will be asked about, where they are known.
            more: tokens that each may grow by.
        """
        prepare = getattr(self._partner, "warm_up", None)
        if prepare is None:
            return 0
        first, self._prepared, began = not self._prepared, True, self._clock.now()
        if first:
            _log.warning("partner %s compiles its programs before it is first asked", self.name)
        try:
            programs = int(prepare(texts, more=more) if texts else prepare())
        except (Exception, SystemExit) as error:  # Ctrl-C may be the user's
            self._warn(f"could not prepare: {_described(error)}")
            return 0
        if first:
            _log.warning("partner %s: %d programs, %.0f s", self.name, programs, self._clock.now() - began)
        return programs

    def submit(self, texts: Sequence[str]) -> Future[list[str]]:
        """Like `complete`, but does not wait. The future is always fulfilled, within about `timeout` seconds."""
        question = _Question(list(texts), Future(), [_LATE] * len(texts), self._clock.now() + self.timeout)
        question.future.set_running_or_notify_cancel()  # so that nobody can cancel it
        with self._lock:
            resting = self._rest is not None and self._clock.now() < self._rest.until
            ask = bool(question.texts) and not self._hanging and not resting
            if ask:
                self._queue.append(question)
                self._open.append(question)
                self._asked.notify()
                if not self._working:
                    self._working = True
                    threading.Thread(target=self._work, name=f"partner {self.name}", daemon=True).start()
                if not self._watching:
                    self._watching = True
                    threading.Thread(target=self._watch, name=f"clock of {self.name}", daemon=True).start()
        if not ask:
            self._settle(question)
        return question.future

    def _work(self) -> None:
        """The thread that asks, until nothing has been asked for a while."""
        while True:
            with self._lock:
                self._hanging = False
                if not self._queue:
                    self._asked.wait(IDLE_SECONDS)
                if not self._queue:
                    self._working = False
                    return
                question = self._queue.popleft()
                question.begun = self._clock.now()
            self._ask(question)
            self._settle(question)

    def _watch(self) -> None:
        """The thread that looks at the clock; deadlines come in the order of the questions."""
        while True:
            with self._lock:
                if not self._open:
                    self._watching = False
                    return
                question = self._open[0]
            self._clock.wait_until(question.deadline)
            self._expire(question)

    def _ask(self, question: _Question) -> None:
        size = self._batch_size or len(question.texts)
        for start in range(0, len(question.texts), size):
            rows = range(start, min(start + size, len(question.texts)))
            if not self._ask_batch(question, rows) and len(rows) > 1:
                for row in rows:
                    self._ask_batch(question, [row])

    def _ask_batch(self, question: _Question, rows: Sequence[int]) -> bool:
        """One call of the partner; False where it failed as a whole. Nobody waits for a question that is settled."""
        if question.settled:
            return True
        with self._lock:
            self._statistics = dataclasses.replace(self._statistics, batches=self._statistics.batches + 1)
        try:
            given: object = self._partner.complete([question.texts[row] for row in rows])
            pieces = [*itertools.islice(given, len(rows) + 1)] if isinstance(given, list | tuple) else []
            if len(pieces) != len(rows):
                raise ValueError(f"{len(rows)} texts, answered by {reprlib.repr(given)}")
            answers: list[object] = [_plain(piece) for piece in pieces]
            done = True
        except BaseException as error:  # even SystemExit: the thread must live to answer
            self._warn(f"failed on {len(rows)} text(s): {_described(error)}")
            answers, done = [_FAILED] * len(rows), False
        with self._lock:
            if not question.settled:
                for row, answer in zip(rows, answers, strict=True):
                    question.answers[row] = answer
        return done

    def _expire(self, question: _Question) -> None:
        """Time is up: what is there by now counts. Those that wait after it would wait in vain."""
        with self._lock:
            if question.settled:
                return
            self._hanging = True
            self._rest = (
                Rest() if self._rest is None else self._rest.missed(self._clock.now(), first=FIRST_REST_SECONDS)
            )
            unanswered = list(self._open)
        self._warn(f"did not answer within {self.timeout:g} seconds; it is not asked until it comes back")
        for one in unanswered:
            self._settle(one)

    def _settle(self, question: _Question) -> None:
        """Fulfils the question's future, once."""
        with self._lock:
            if question.settled:
                return
            question.settled = True
            if question.begun is not None and _LATE not in question.answers:
                self._rest = None
            while self._open and self._open[0].settled:
                self._open.popleft()
            answers = question.answers
            late = sum(answer is _LATE for answer in answers)
            empty = sum(answer == "" for answer in answers)
            pieces = [answer if isinstance(answer, str) else "" for answer in answers]
            answered = sum(map(bool, pieces))
            seconds = self._clock.now() - question.begun if question.begun is not None else 0.0
            before = self._statistics
            self._statistics = PartnerStatistics(
                questions=before.questions + len(answers),
                answered=before.answered + answered,
                empty=before.empty + empty,
                failed=before.failed + len(answers) - answered - empty - late,
                late=before.late + late,
                batches=before.batches,
                seconds=before.seconds + seconds,
            )
        question.future.set_result(pieces)

    def _warn(self, what: str) -> None:
        with self._lock:
            due = self._clock.now() - self._warned >= WARNING_SECONDS
            if due:
                self._warned = self._clock.now()
        if due:
            _log.warning("partner %s %s", self.name, what)


def usable(piece: object) -> bool:
    """Whether a piece is text of a sensible length, without lone surrogates."""
    if not isinstance(piece, str) or not 0 < len(piece) <= MAX_PIECE_CHARACTERS:
        return False
    try:
        piece.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _plain(piece: object) -> object:
    """A partner's answer as a plain string, since a subclass may run the partner's code; _FAILED if unusable."""
    text = str.__str__(piece) if issubclass(type(piece), str) else None
    return text if text == "" or usable(text) else _FAILED


def _described(error: BaseException) -> str:
    """An exception's type and message, short and in one line; a partner's own exception may fail to give them."""
    try:
        return f"{type(error).__name__}: {' '.join(str.__str__(str(error))[:200].split())}"
    except BaseException:
        return "an exception that cannot say what it is"
