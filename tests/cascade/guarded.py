"""What the guard's tests put into it: partners that a test scripts or blocks, and a clock that it moves."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from lacy_jax.cascade.partners.guard import Clock


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
    """Blocks partners until it is opened; opened at the test's end in any case. `reached`: one is blocked."""

    def __init__(self) -> None:
        self.event, self.reached = threading.Event(), threading.Event()

    def __call__(self, text: str) -> str:
        if text == "hang":
            self.reached.set()
            self.event.wait(60)
        return f" {text}"


class Manual(Clock):
    """Stands still, however busy the machine is, until the test moves it."""

    def __init__(self) -> None:
        self.moment, self.moved = 0.0, threading.Condition()

    def now(self) -> float:
        return self.moment

    def wait_until(self, moment: float) -> None:
        with self.moved:
            self.moved.wait_for(lambda: self.moment >= moment)

    def advance(self, seconds: float) -> None:
        with self.moved:
            self.moment += seconds
            self.moved.notify_all()
