"""A server in a thread, on a free port of the loopback, over a scheduler that does what a test wants."""

import contextlib
import dataclasses
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from lacy_jax.cascade import Completion, Counts, Event, Piece, Request
from lacy_jax.errors import DataError
from lacy_jax.serving.app import make_app
from lacy_jax.serving.chat import Chat
from lacy_jax.serving.server import make_server
from lacy_jax.serving.settings import Settings
from lacy_jax.serving.worker import Worker


class FakeScheduler:
    """The scheduler's interface without a model: a row writes "<prompt>0 ", "<prompt>1 ", every third by the partner.

    slots: rows that get a token a round. delay: seconds a round takes. fail_at: the round that raises; hold: rounds
    wait until it is set.
    """

    def __init__(self, *, slots: int = 8, delay: float = 0.0, fail_at: int | None = None):
        self.slots, self.delay, self.fail_at = slots, delay, fail_at
        self.hold = threading.Event()
        self.hold.set()
        self.rounds = 0
        self.cancelled: list[int] = []
        self.requests: dict[int, Request] = {}
        self.rows: dict[int, list[Piece]] = {}
        self.always: str | None = None  # what every piece is, if not that

    @property
    def running(self) -> int:
        return min(self.slots, len(self.rows))

    @property
    def waiting(self) -> int:
        return len(self.rows) - self.running

    def add(self, request: Request) -> int:
        if "\ud800" in request.prompt or request.prompt == "refuse":
            raise DataError("prompt: refused,\n    says the scheduler")
        if request.prompt == "break":
            raise RuntimeError("add is broken")
        identity = len(self.requests)
        self.requests[identity] = request
        self.rows[identity] = []
        return identity

    def cancel(self, id: int) -> None:
        self.cancelled.append(id)
        self.rows.pop(id, None)

    def step(self) -> list[Event]:
        assert self.hold.wait(60)
        time.sleep(self.delay)
        self.rounds += 1
        if self.fail_at is not None and self.rounds >= self.fail_at:
            raise RuntimeError("the device is gone")
        return [self._write(id) for id in list(self.rows)[: self.slots]]

    def _write(self, id: int) -> Event:
        request, pieces = self.requests[id], self.rows[id]
        source = "partner" if len(pieces) % 3 == 2 else "slm"
        piece = Piece(
            self.always or f"{request.prompt}{len(pieces)} ", source, float("-inf") if not pieces else 1.25, 1
        )
        pieces.append(piece)
        if len(pieces) < request.max_new_tokens:
            return Event(id, (piece,))
        del self.rows[id]
        calls = sum(piece.source == "partner" for piece in pieces)
        counts = Counts(generated=len(pieces), delegated=calls, calls=calls)
        text = "".join(piece.text for piece in pieces)
        return Event(id, (piece,), Completion(request.prompt, text, tuple(pieces), counts, "length"))


@dataclass
class Running:
    """A server that answers."""

    url: str
    scheduler: Any
    worker: Worker
    server: Any

    def client(self, **more: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60, **more)

    def post(self, json: Any = None, *, path: str = "/v1/completions", **more: Any) -> httpx.Response:
        return httpx.post(f"{self.url}{path}", json=json, timeout=60, trust_env=False, **more)

    def get(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=60, trust_env=False, **more)

    def metric(self, name: str) -> float:
        lines = [line for line in self.get("/metrics").text.splitlines() if line.startswith(f"{name} ")]
        assert len(lines) == 1, name
        return float(lines[0].split()[-1])

    def until(self, condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextlib.contextmanager
def serving(
    scheduler: Any,
    *,
    partner: Any = None,
    warm_up: Callable[[], None] | None = None,
    chat: Chat | None = None,
    **settings: Any,
) -> Iterator[Running]:
    bound = socket.create_server(("127.0.0.1", 0))
    chosen = Settings(**{"model": "tiny", **settings})
    worker = Worker(scheduler, warm_up=warm_up)
    app = make_app(worker, chosen, count_tokens=lambda text: len(text.split()), chat=chat, partner=partner)
    server = make_server(app, chosen)
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]), daemon=True)
    thread.start()
    running = Running(f"http://127.0.0.1:{bound.getsockname()[1]}", scheduler, worker, server)
    try:
        running.until(lambda: server.started)
        yield running
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def server() -> Iterator[Running]:
    """Over a fake scheduler that writes at once."""
    with serving(FakeScheduler()) as running:
        yield running


@dataclasses.dataclass(frozen=True)
class Statistics:
    questions: int = 3
    seconds: float = 0.5


class Measured:
    """What a guard shows of its partner."""

    def __init__(self) -> None:
        self.statistics = Statistics()
        self.reasons = {'503 of "x"': 2}
