"""Whatever a partner does costs only its own texts, and nobody waits for it for long."""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from lacy_jax.cascade.partners.guard import MAX_PIECE_CHARACTERS, Guard, PartnerStatistics, usable


class Scripted:
    """A partner that answers a text by itself, with what `answer` returns or raises; any odd one spoils its batch."""

    name = "scripted"

    def __init__(self, answer: Callable[[str], Any] = lambda text: f" {text}", *, whole: Any = None):
        self.answer, self.whole = answer, whole
        self.batches: list[list[str]] = []

    def complete(self, texts: Sequence[str]) -> Any:
        self.batches.append(list(texts))
        return [self.answer(text) for text in texts] if self.whole is None else self.whole


class Gate:
    """Blocks partners until it is opened; opened at the test's end in any case."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self, text: str) -> str:
        if text == "hang":
            self.event.wait(20)
        return f" {text}"


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.event.set()


def raising(error: BaseException) -> Any:
    raise error


def test_answers_and_statistics() -> None:
    partner = Scripted(lambda text: {"a": " x", "b": ""}.get(text, " y"))
    guard = Guard(partner)
    assert guard.name == "scripted"
    assert guard.complete(["a", "b", "c"]) == [" x", "", " y"]
    assert guard.complete([]) == []
    assert guard.submit(["a"]).result() == [" x"]
    found = guard.statistics
    assert 0 < found.seconds < 1
    assert found == PartnerStatistics(questions=4, answered=3, empty=1, batches=2, seconds=found.seconds)


class Untellable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


@pytest.mark.parametrize(
    "odd",
    [
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


def test_a_hanging_partner_is_left_alone_until_it_is_back(gate: Gate) -> None:
    partner = Scripted(gate)
    guard = Guard(partner, timeout=0.2, batch_size=1)
    begun = time.monotonic()
    assert guard.complete(["a", "hang", "b"]) == [" a", "", ""]  # what was there in time counts
    assert 0.15 < time.monotonic() - begun < 2
    threads = threading.active_count()
    begun = time.monotonic()
    assert [guard.complete(["c", "d"]) for _ in range(50)] == [["", ""]] * 50
    assert time.monotonic() - begun < 0.15
    assert threading.active_count() <= threads
    assert len(partner.batches) == 2
    gate.event.set()
    for _ in range(100):
        time.sleep(0.01)
        pieces = guard.complete(["e"])
        if pieces != [""]:
            break
    assert pieces == [" e"]
    assert ["b"] not in partner.batches  # nobody waited for it any more
    found = guard.statistics
    assert (found.answered, found.empty, found.failed) == (2, 0, 0)
    assert found.questions == found.answered + found.late


def test_questions_behind_a_hanging_one_are_answered_with_it(gate: Gate) -> None:
    guard = Guard(Scripted(gate), timeout=0.5)
    begun = time.monotonic()
    first = guard.submit(["hang"])
    time.sleep(0.3)
    behind = [guard.submit(["a"]), guard.submit(["b", "c"])]
    assert not first.done()
    assert not behind[0].cancel()
    assert [future.result() for future in (first, *behind)] == [[""], [""], ["", ""]]
    assert 0.45 < time.monotonic() - begun < 0.75  # not 0.8: nobody waits for a partner that hangs
    assert guard.statistics.late == 4


def test_a_late_batch_is_not_asked_again_text_by_text(gate: Gate) -> None:
    def late(text: str) -> str:
        gate("hang")
        raise ValueError(text)

    partner = Scripted(late)
    guard = Guard(partner, timeout=0.1)
    assert guard.complete(["a", "b"]) == ["", ""]
    gate.event.set()
    time.sleep(0.1)
    assert partner.batches == [["a", "b"]]


def test_many_threads_ask_at_once() -> None:
    busy = threading.Lock()

    def answer(text: str) -> str:
        assert busy.acquire(blocking=False), "asked by two questions at once"
        time.sleep(0.0005)
        busy.release()
        if text.endswith("7"):
            raise ValueError(text)
        return f" {text}"

    guard = Guard(Scripted(answer))
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


def test_threads_end_when_nothing_is_asked() -> None:
    partner = Scripted()
    partner.name = "brief"
    guard = Guard(partner, timeout=0.3)
    for _ in range(50):
        assert guard.complete(["a"]) == [" a"]
        names = [thread.name for thread in threading.enumerate() if thread.name.endswith("brief")]
        assert sorted(names) in (["clock of brief", "partner brief"], ["partner brief"])
    deadline = time.monotonic() + 5
    while any(thread.name.endswith("brief") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert guard.complete(["a"]) == [" a"]


def test_no_time_out_strikes_a_partner_that_was_in_time() -> None:
    guard = Guard(Scripted(), timeout=0.02)
    answered = [guard.complete(["a"]) == [" a"] for _ in range(100)]
    time.sleep(0.05)
    assert sum(answered) > 90  # a loaded machine may be late now and then
    assert guard.complete(["b"]) == [" b"]


def test_failures_are_told_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard(Scripted(lambda _: raising(ValueError("what " + "it said " * 100))))
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            guard.complete(["a", "b"])
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("partner scripted failed on 2 text(s): ValueError: what it said")
    assert len(message) < 300


def test_usable_pieces() -> None:
    assert [usable(piece) for piece in (" x", "", "x" * 200, "x" * 201, "\udfff", None, 1)] == [
        True, False, True, False, False, False, False,
    ]  # fmt: skip
