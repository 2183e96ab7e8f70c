"""A completions server on loopback with every fault that a server can have, for tests of the http partner."""

import asyncio
import collections
import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lacy_jax.cascade.partners.http import QUESTION, HttpPartner

WAIT = asyncio.wait  # as it is before a test changes it
Answer = Callable[["Handler", dict[str, Any], int], None]
Made = Callable[..., HttpPartner]  # the fixture `made`


class Server(http.server.ThreadingHTTPServer):
    """Answers by `answers[prompt]`, a handler of (request, body, how many times this prompt came)."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.answers: dict[str, Answer] = {}
        self.models: Any = {"data": [{"id": "big-model"}, {"id": "other"}]}
        self.starting = False
        self.requests: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.lock, self.now, self.most = threading.Lock(), 0, 0
        self.ended = threading.Event()  # lets go those that hang
        self.hung = 0  # requests that hang, or did until their client left

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: Any) -> None:
        """Clients that hang up are part of the tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests.append((self.path, {}, dict(self.headers)))
        if self.server.starting:
            self.reply(b"try again later", status=503)
        elif self.path == "/v1/models" and self.server.models is not None:
            self.reply(json.dumps(self.server.models).encode())
        else:
            self.reply(b"no such page", status=404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["prompt"]
        with self.server.lock:
            self.server.requests.append((self.path, body, dict(self.headers)))
            self.server.counts[prompt] += 1
            count = self.server.counts[prompt]
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
        try:
            self.server.answers.get(prompt, says(f" Answer{prompt} and so on"))(self, body, count)
        finally:
            with self.server.lock:
                self.server.now -= 1

    def reply(self, body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def completion(text: Any, finish: Any = "length") -> bytes:
    return json.dumps({"object": "text_completion", "choices": [{"text": text, "finish_reason": finish}]}).encode()


def says(text: Any, finish: Any = "length") -> Answer:
    return lambda handler, _body, _count: handler.reply(completion(text, finish))


def sends(body: bytes, **options: Any) -> Answer:
    return lambda handler, _body, _count: handler.reply(body, **options)


def first(times: int, fault: Answer, then: Answer) -> Answer:
    return lambda handler, body, count: (fault if count <= times else then)(handler, body, count)


def time_is_over_for_what_hangs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The http partner's time is over when nothing but what hangs is left, however long that takes."""

    async def patient(tasks: Any, *, timeout: float) -> Any:  # noqa: ARG001
        before = server.hung
        done, late = await WAIT(tasks, timeout=0.01)
        while len(late) > server.hung - before:
            done, late = await WAIT(tasks, timeout=0.01)
        return done, late

    monkeypatch.setattr("lacy_jax.cascade.partners.http.asyncio.wait", patient)


def hangs(handler: Handler, _body: dict[str, Any], _count: int) -> None:
    with handler.server.lock:
        handler.server.hung += 1
    handler.server.ended.wait()
    handler.close_connection = True


def closes(handler: Handler, _body: dict[str, Any], _count: int) -> None:
    handler.close_connection = True


def breaks_off(handler: Handler, _body: dict[str, Any], _count: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')
    handler.close_connection = True


def drips(handler: Handler, _body: dict[str, Any], _count: int) -> None:
    """A byte now and then: no single read ever takes long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    with handler.server.lock:
        handler.server.hung += 1
    with contextlib.suppress(OSError):  # the client hangs up
        while not handler.server.ended.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()
    handler.close_connection = True


def together(barrier: threading.Barrier, then: Answer) -> Answer:
    """Goes on when as many requests as the barrier is for are there at once; a minute without them breaks it."""

    def answer(handler: Handler, body: dict[str, Any], count: int) -> None:
        barrier.wait(60)
        then(handler, body, count)

    return answer


def no_http(handler: Handler, _body: dict[str, Any], _count: int) -> None:
    handler.wfile.write(b"\x00\xff\xfe hello\r\n\r\n")
    handler.close_connection = True


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def posts(server: Server) -> list[dict[str, Any]]:
    """The questions, less the small one at the start."""
    return [body for _, body, _ in server.requests if body and body["prompt"] != QUESTION]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Our own warnings; asyncio's, about tasks of an earlier test, may come at any time."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("lacy_jax")]
