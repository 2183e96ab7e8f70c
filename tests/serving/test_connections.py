"""Clients that open connections and send nothing, half of a request, or nonsense; and what the log has of them."""

import contextlib
import logging
import resource
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from lacy_jax.errors import ConfigError
from lacy_jax.serving import connections
from lacy_jax.serving.connections import HEAD_SECONDS, QUIET_SECONDS, Connection, Connections, Quiet, most_connections
from tests.serving.conftest import FakeScheduler, Running, serving

HALF = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le"


class Timers:
    """An event loop's clock that stands still: what was to be called later is called by `pass_time`."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Callable[[], object], SimpleNamespace]] = []

    def call_later(self, seconds: float, call: Callable[[], object]) -> SimpleNamespace:
        handle = SimpleNamespace(cancelled=False)
        handle.cancel = lambda: setattr(handle, "cancelled", True)
        self.waiting.append((seconds, call, handle))
        return handle

    @property
    def left(self) -> list[float]:
        return [seconds for seconds, _, handle in self.waiting if not handle.cancelled]

    def pass_time(self) -> None:
        """Calls all that waits."""
        waiting, self.waiting = self.waiting, []
        for _, call, handle in waiting:
            if not handle.cancelled:
                call()

    def create_task(self, work: Any) -> Mock:
        """The request is under way, and stays so."""
        work.close()
        return Mock()


class Transport:
    """What a connection does to its socket."""

    def __init__(self) -> None:
        self.written, self.ended = b"", ""

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = self.ended or "aborted"

    def is_closing(self) -> bool:
        return bool(self.ended)

    def get_extra_info(self, _name: str) -> None:
        return None

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Clients:
    """Connections of one server, without sockets and without a clock."""

    def __init__(self, *, most: int):
        self.shared, self.timers, self.state = Connections(most), Timers(), ServerState()
        self.config = uvicorn.Config(lambda: None, log_config=None, lifespan="off")

    def connect(self) -> tuple[Connection, Transport]:
        made = self.shared.protocol(
            config=self.config,
            server_state=self.state,
            app_state={},
            _loop=self.timers,  # type: ignore[arg-type]
        )
        transport = Transport()
        made.connection_made(transport)  # type: ignore[arg-type]
        return made, transport


WHOLE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_a_head_that_does_not_come_ends_the_connection() -> None:
    clients = Clients(most=9)
    silent, half, whole = clients.connect(), clients.connect(), clients.connect()
    for byte in HALF:  # one by one: what trickles in does not start the time anew
        half[0].data_received(bytes([byte]))
    whole[0].data_received(WHOLE)
    assert clients.timers.left == [HEAD_SECONDS, HEAD_SECONDS]
    clients.timers.pass_time()
    assert [transport.ended for _, transport in (silent, half, whole)] == ["aborted", "aborted", ""]


def test_a_second_head_has_its_time_too() -> None:
    clients = Clients(most=9)
    client, transport = clients.connect()
    client.data_received(WHOLE)
    assert clients.timers.left == []
    client.cycle.response_complete = True
    client.on_response_complete()
    assert clients.timers.left == [client.timeout_keep_alive]
    client.data_received(b"G")
    assert clients.timers.left == [HEAD_SECONDS]
    clients.timers.pass_time()
    assert transport.ended == "aborted"


def test_too_many_connections_close_the_one_that_waits_longest() -> None:
    clients = Clients(most=3)
    busy, first, second = clients.connect(), clients.connect(), clients.connect()
    busy[0].data_received(WHOLE)
    third = clients.connect()
    assert [transport.ended for _, transport in (busy, first, second, third)] == ["", "aborted", "", ""]
    second[0].data_received(WHOLE)
    third[0].data_received(WHOLE)
    refused = clients.connect()
    assert [transport.ended for _, transport in (busy, second, third, refused)] == ["", "", "", "closed"]
    assert refused[1].written.startswith(b"HTTP/1.1 503 ")
    assert not clients.shared.waiting
    busy[0].connection_lost(None)
    assert clients.connect()[1].ended == ""


def test_how_many_connections_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections.os, "listdir", lambda _: ["0"] * 20)
    for allowed, asked, most in ((1024, 1000, 1024 - 20 - 64), (1024, 5, 5), (85, 9, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, allowed=allowed: (allowed, allowed))
        assert most_connections(asked) == most
    monkeypatch.setattr(resource, "getrlimit", lambda _: (84, 84))
    with pytest.raises(ConfigError, match="ulimit"):
        most_connections(9)


def test_the_log_has_one_line_of_a_kind() -> None:
    seconds = [0.0]
    quiet = Quiet(now=lambda: seconds[0])

    def said(message: str, *values: object) -> str | None:
        record = logging.LogRecord("n", logging.WARNING, "file", 1, message, values, None)
        return record.getMessage() if quiet.filter(record) else None

    assert said("lost %s", "a") == "lost a"
    assert [said("lost %s", name) for name in "bcd"] == [None] * 3
    assert said("other") == "other"
    seconds[0] += QUIET_SECONDS
    assert said("lost %s", "e") == "lost e (3 more like it)"
    assert said("lost %s", "f") is None


@contextlib.contextmanager
def sockets(server: Running, count: int) -> Iterator[list[socket.socket]]:
    address = httpx.URL(server.url)
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(socket.create_connection((address.host, address.port), timeout=60))
            for _ in range(count)
        ]


def test_half_requests_keep_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    with serving(FakeScheduler(), max_connections=20) as server, sockets(server, 100) as clients:
        for client in clients:
            with contextlib.suppress(OSError):  # closed already
                client.sendall(HALF)
        assert server.post({"prompt": "a", "max_tokens": 2}).json()["choices"][0]["text"] == "a0 a1 "
        assert len(server.server.server_state.connections) <= 20
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_clients_that_hang_up_leave_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    beginnings = [
        b"",
        HALF,
        head + b"Content-Length: 100\r\n\r\n{",
        head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        head + b'Content-Length: 15\r\n\r\n{"prompt": "a"}',
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ]
    with serving(FakeScheduler()) as server:
        for beginning in beginnings:
            with sockets(server, 1) as (client,):
                client.sendall(beginning)
        server.until(lambda: not server.server.server_state.tasks)
        assert server.post({"prompt": "a", "max_tokens": 1}).status_code == 200
        assert 'lacy_requests_total{route="/v1/completions",status="499"}' in server.get("/metrics").text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\r\n\r\n\x00\xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nnonsense\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nA: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
    ids=["no HTTP", "after a request", "a chunk", "a chunk of an unknown route", "a huge head"],
)
def test_nonsense_is_answered_without_a_traceback(nonsense: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with serving(FakeScheduler()) as server:
        with sockets(server, 1) as (client,), contextlib.suppress(ConnectionError):
            client.sendall(nonsense)
            while client.recv(1 << 16):  # until the server ends it
                pass
        assert server.get("/health").status_code == 200
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_client_that_sends_all_of_a_large_body_reads_its_413(connection: str, framing: str) -> None:
    body = b"x" * 30_000_000  # more than the buffers of two sockets hold
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n"
    head += "Content-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n" if framing == "length" else "Transfer-Encoding: chunked\r\n\r\n"
    sent = body if framing == "length" else b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    with serving(FakeScheduler(), max_body_bytes=2000) as server, sockets(server, 1) as (client,):
        client.sendall(head.encode() + sent)
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 413 ")


def test_a_client_that_asks_before_it_sends_is_answered_at_once() -> None:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with serving(FakeScheduler(), max_body_bytes=2000) as server, sockets(server, 2) as (large, small):
        large.sendall(head + b"Content-Length: 3000\r\nExpect: 100-continue\r\n\r\n")
        assert large.recv(1 << 16).startswith(b"HTTP/1.1 413 ")
        small.sendall(head + b"Content-Length: 31\r\nExpect: 100-continue\r\n\r\n")
        assert small.recv(1 << 16).startswith(b"HTTP/1.1 100 ")
        small.sendall(b'{"prompt": "a", "max_tokens":1}')
        assert small.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
