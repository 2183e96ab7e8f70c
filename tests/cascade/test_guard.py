"""Whatever a partner does costs only its own texts, and nobody waits for it for long."""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lacy_jax.cascade.partners.guard import (
    FIRST_REST_SECONDS,
    MAX_PIECE_CHARACTERS,
    WARNING_SECONDS,
    Guard,
    PartnerStatistics,
    usable,
)
from tests.cascade.guarded import Gate, Manual, Scripted
from tests.waiting import until


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.event.set()


@pytest.fixture
def clock() -> Iterator[Manual]:
    clock = Manual()
    yield clock
    clock.advance(1e6)


def threads_of(name: str) -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.endswith(name))


def raising(error: BaseException) -> Any:
    raise error


def test_answers_and_statistics(clock: Manual) -> None:
    def answer(text: str) -> str:
        clock.advance(0.25)
        return {"a": " x", "b": ""}.get(text, " y")

    guard = Guard(Scripted(answer), clock=clock)
    assert guard.name == "scripted"
    assert guard.complete(["a", "b", "c"]) == [" x", "", " y"]
    assert guard.complete([]) == []
    assert guard.submit(["a"]).result() == [" x"]
    assert guard.statistics == PartnerStatistics(questions=4, answered=3, empty=1, batches=2, seconds=1.0)


class Untellable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


class Untold(Exception):
    def __str__(self) -> str:
        raise SystemExit(4)


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise SystemExit(5)


class Unnamed(Exception, metaclass=Nameless):
    pass


class OddText(str):
    """Text whose every method is the partner's own code."""

    __slots__ = ()

    def fail(self, *_: object) -> Any:
        raise SystemExit(6)

    __eq__ = __ne__ = __len__ = __bool__ = __str__ = __repr__ = __format__ = __getitem__ = __iter__ = fail
    __hash__ = str.__hash__
    encode = strip = split = fail


class Pretender:
    """No text, though it says so."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return str


class Unasked:
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise SystemExit(7)


@pytest.mark.parametrize(
    "odd",
    [
        lambda: raising(Untold()),
        lambda: raising(Unnamed("x")),
        lambda: raising(MemoryError()),
        lambda: raising(RecursionError()),
        Pretender,
        Unasked,
        lambda: OddText(" \ud800"),
        lambda: OddText("x" * 201),
        lambda: raising(ValueError("broken")),
        lambda: raising(SystemExit(3)),
        lambda: raising(KeyboardInterrupt()),
        lambda: raising(StopIteration()),
        lambda: raising(Untellable()),
        lambda: None,
        lambda: 7,
        lambda: b" bytes",
        lambda: " \ud800",
        lambda: "x" * (MAX_PIECE_CHARACTERS + 1),
        lambda: ["x"],
    ],
)
def test_an_odd_text_costs_only_itself(odd: Callable[[], Any]) -> None:
    guard = Guard(Scripted(lambda text: odd() if text == "odd" else f" {text}"))
    assert guard.complete(["a", "odd", "b"]) == [" a", "", " b"]
    assert guard.complete(["odd"]) == [""]
    found = guard.statistics
    assert (found.questions, found.answered, found.failed) == (4, 2, 2)


def test_text_of_a_class_of_the_partners_becomes_plain_text() -> None:
    guard = Guard(Scripted(lambda text: OddText("" if text == "b" else f" {text}")))
    answers = guard.complete(["a", "b", "c"])
    assert answers == [" a", "", " c"]
    assert [type(each) for each in answers] == [str] * 3
    assert (guard.statistics.answered, guard.statistics.empty, guard.statistics.batches) == (2, 1, 1)


class LongerThanItSays(list):
    def __len__(self) -> int:
        return 3


class Endless(list):
    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(" x")


class Unreadable(list):
    def __iter__(self) -> Iterator[Any]:
        raise SystemExit(8)

    def __repr__(self) -> str:
        raise SystemExit(9)


@pytest.mark.parametrize("whole", [LongerThanItSays("ab"), LongerThanItSays("abcd"), Endless("abc"), Unreadable("abc")])
def test_a_list_of_the_partners_own_kind_costs_only_its_texts(whole: Any) -> None:
    partner = Scripted(whole=whole)
    guard = Guard(partner)
    assert guard.complete(["a", "b", "c"]) == ["", "", ""]
    assert guard.statistics.failed == 3
    partner.whole = None
    assert guard.complete(["d"]) == [" d"]  # it lives


@pytest.mark.parametrize("failures", [3, {"a": "b"}, {3: 1}, [("x",)], None])
def test_reasons_of_another_form_are_none(failures: Any) -> None:
    partner = Scripted()
    partner.failures = failures  # type: ignore[attr-defined]
    assert Guard(partner).reasons == {}
    partner.failures = {"late": 2}  # type: ignore[attr-defined]
    assert Guard(partner).reasons == {"late": 2}


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3)])
def test_a_partner_that_cannot_prepare_is_asked_all_the_same(error: BaseException) -> None:
    partner = Scripted()
    partner.warm_up = lambda: raising(error)  # type: ignore[attr-defined]
    guard = Guard(partner)
    assert guard.warm_up() == 0
    assert guard.complete(["a"]) == [" a"]


@pytest.mark.parametrize("whole", [[], ["x"], ["x"] * 4, "abc", b"abc", 3, {"a": 1}, iter("abc"), object()])
def test_an_answer_of_another_form_is_none(whole: Any) -> None:
    partner = Scripted(whole=whole)
    guard = Guard(partner)
    single = " x".strip() if whole == ["x"] else ""
    assert guard.complete(["a", "b", "c"]) == [single] * 3
    assert partner.batches == [["a", "b", "c"], ["a"], ["b"], ["c"]]
    assert guard.statistics.batches == 4


def test_batches() -> None:
    partner = Scripted()
    assert Guard(partner, batch_size=2).complete(list("abcde")) == [" a", " b", " c", " d", " e"]
    assert partner.batches == [["a", "b"], ["c", "d"], ["e"]]


def test_a_hanging_partner_is_left_alone_until_it_is_back(gate: Gate, clock: Manual) -> None:
    partner = Scripted(gate)
    guard = Guard(partner, timeout=30.0, batch_size=1, clock=clock)
    first = guard.submit(["a", "hang", "b"])
    assert gate.reached.wait(60)
    clock.advance(29.0)
    assert not first.done()
    clock.advance(1.0)
    assert first.result(60) == [" a", "", ""]  # what was there in time counts
    threads = threading.active_count()
    for _ in range(50):
        question = guard.submit(["c", "d"])
        assert question.done()  # nobody waits
        assert question.result() == ["", ""]
    assert threading.active_count() <= threads
    assert len(partner.batches) == 2
    gate.event.set()
    until(lambda: guard.complete(["e"]) == [" e"])
    assert ["b"] not in partner.batches  # nobody waited for it any more
    found = guard.statistics
    assert (found.answered, found.empty, found.failed) == (2, 0, 0)
    assert found.questions == found.answered + found.late


def test_a_partner_that_is_late_again_and_again_is_left_alone_for_longer_and_longer(clock: Manual) -> None:
    """A partner that comes back only to hang anew: each question would wait for all of the timeout."""
    gates = [Gate() for _ in range(5)]
    asked: list[int] = []

    def answer(_: str) -> str:
        asked.append(len(asked))
        return gates[asked[-1]]("hang")

    guard = Guard(Scripted(answer), timeout=30.0, clock=clock)
    for number, rest in enumerate([0, 1, 2, 4]):
        question = guard.submit(["a"])
        assert gates[number].reached.wait(60)
        clock.advance(30.0)
        assert question.result(60) == [""]
        gates[number].event.set()  # it comes back
        until(lambda: not guard._hanging)
        if rest:
            clock.advance(rest * FIRST_REST_SECONDS - 0.01)
            assert all(guard.submit(["b"]).done() for _ in range(50))  # nobody waits
            clock.advance(0.01)
    assert len(asked) == 4
    gates[4].event.set()
    assert guard.complete(["a"]) == [" hang"]
    assert guard._rest is None


def test_questions_behind_a_hanging_one_are_answered_with_it(gate: Gate, clock: Manual) -> None:
    guard = Guard(Scripted(gate), timeout=0.5, clock=clock)
    first = guard.submit(["hang"])
    assert gate.reached.wait(60)
    clock.advance(0.3)
    behind = [guard.submit(["a"]), guard.submit(["b", "c"])]
    assert not first.done()
    assert not behind[0].cancel()
    clock.advance(0.2)  # not 0.5: nobody waits for a partner that hangs
    assert [future.result(60) for future in (first, *behind)] == [[""], [""], ["", ""]]
    assert guard.statistics.late == 4


def test_a_late_batch_is_not_asked_again_text_by_text(gate: Gate, clock: Manual) -> None:
    def late(text: str) -> str:
        gate("hang")
        raise ValueError(text)

    partner = Scripted(late)
    partner.name = "tardy"
    guard = Guard(partner, timeout=0.1, clock=clock)
    question = guard.submit(["a", "b"])
    assert gate.reached.wait(60)
    clock.advance(0.1)
    assert question.result(60) == ["", ""]
    gate.event.set()
    until(lambda: not threads_of("tardy"))  # whoever would ask again has ended
    assert partner.batches == [["a", "b"]]


def test_many_threads_ask_at_once(clock: Manual) -> None:
    busy = threading.Lock()

    def answer(text: str) -> str:
        assert busy.acquire(blocking=False), "asked by two questions at once"
        time.sleep(0.0005)
        busy.release()
        if text.endswith("7"):
            raise ValueError(text)
        return f" {text}"

    guard = Guard(Scripted(answer), clock=clock)
    wrong: list[str] = []

    def ask(thread: int) -> None:
        for number in range(10):
            texts = [f"{thread}-{number}-{row}" for row in range(5, 9)]
            if guard.complete(texts) != ["" if text.endswith("7") else f" {text}" for text in texts]:
                wrong.append(str(texts))

    threads = [threading.Thread(target=ask, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    found = guard.statistics
    assert (found.questions, found.answered, found.failed, found.late) == (320, 240, 80, 0)


def test_threads_end_when_nothing_is_asked(clock: Manual) -> None:
    partner = Scripted()
    partner.name = "brief"
    guard = Guard(partner, timeout=0.3, clock=clock)
    for _ in range(50):
        assert guard.complete(["a"]) == [" a"]
        assert threads_of("brief") in (["clock of brief", "partner brief"], ["clock of brief"], ["partner brief"])
    clock.advance(0.3)
    until(lambda: not threads_of("brief"))
    assert guard.complete(["a"]) == [" a"]


def test_no_time_out_strikes_a_partner_that_was_in_time(clock: Manual) -> None:
    guard = Guard(Scripted(), timeout=0.02, clock=clock)
    for _ in range(100):
        assert guard.complete(["a"]) == [" a"]
        clock.advance(0.02)
    clock.advance(1.0)
    assert guard.complete(["b"]) == [" b"]
    assert guard.statistics.late == 0


def test_the_clock_is_the_worlds_unless_a_test_brings_one(gate: Gate) -> None:
    assert Guard(Scripted(gate), timeout=0.05).complete(["hang"]) == [""]


def test_failures_are_told_once_in_a_while(caplog: pytest.LogCaptureFixture, clock: Manual) -> None:
    guard = Guard(Scripted(lambda _: raising(ValueError("what " + "it said " * 100))), clock=clock)
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            guard.complete(["a", "b"])
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("partner scripted failed on 2 text(s): ValueError: what it said")
    assert len(message) < 300
    clock.advance(WARNING_SECONDS)
    with caplog.at_level(logging.WARNING):
        guard.complete(["a", "b"])
    assert len(caplog.records) == 2


def test_usable_pieces() -> None:
    assert [usable(piece) for piece in (" x", "", "x" * 200, "x" * 201, "\udfff", None, 1)] == [
        True, False, True, False, False, False, False,
    ]  # fmt: skip
