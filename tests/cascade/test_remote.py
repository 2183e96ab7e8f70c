"""Addresses of servers, and how long one asks to be left alone; test_http.py asks real ones."""

import http.server
import socket
import threading
from email.utils import formatdate

import pytest

from lacy_jax.cascade.remote.address import PARTNER, Address, describe, parse_address
from lacy_jax.cascade.remote.server import Server, Unanswered, retry_after
from lacy_jax.errors import PartnerError

SECRET = "sk-very-secret-0123456789"


def test_addresses() -> None:
    assert parse_address("http://h:1/v1") == Address("http://h:1/v1")
    assert parse_address("https://h/v1/#org/Model%201") == Address("https://h/v1", model="org/Model 1")
    assert parse_address("http://[::1]:80/v1?max_characters=9#m") == Address("http://[::1]:80/v1", "m", 9)
    for odd in ("http://", "http:///v1", "http://h:x/v1", "http://h:99999/", "http://h/?max_characters=0", "http://h/?x=1",
                "http://h/?max_characters=a", "http://[::1/v1", "http://h/?max_characters",
                "http://a\x01/v1", "http://-x-.é/v1"):  # fmt: skip
        with pytest.raises(PartnerError, match="has the form http://HOST:PORT/v1"):
            parse_address(odd)
    with pytest.raises(PartnerError, match="LACY_PARTNER_API_KEY") as refused:
        parse_address(f"http://me:{SECRET}@h/v1")
    assert SECRET not in str(refused.value)


def test_who_is_asked_is_said_without_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LACY_PARTNER_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    address = parse_address("http://host:8/v1#big")
    assert describe(address) == "the server http://host:8/v1, model big, with no key"
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    assert (
        describe(address, model="other") == "the server http://host:8/v1, model other, with the key in OPENAI_API_KEY"
    )


class Redirecting(http.server.BaseHTTPRequestHandler):
    """Sends every client to another place."""

    to = ""

    def do_GET(self) -> None:
        self.send_response(307)
        self.send_header("Location", f"{self.to}{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None: ...


def test_a_redirect_carries_no_key_to_another_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame")
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as first,
    ):
        other.setblocking(False)
        Redirecting.to = f"http://127.0.0.1:{other.getsockname()[1]}"
        threading.Thread(target=first.serve_forever, daemon=True).start()
        server = Server(f"http://127.0.0.1:{first.server_address[1]}/v1", role=PARTNER)
        with pytest.raises(Unanswered, match="status 307"):
            server.submit(server.post("completions", b"{}", seconds=60)).result()
        server.close()
        first.shutdown()
        with pytest.raises(BlockingIOError):  # nobody called
            other.accept()


def test_what_a_retry_after_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lacy_jax.cascade.remote.server.time.time", lambda: 1_000_000_000.0)
    assert retry_after("2") == retry_after(" 2\x1f") == 2
    assert retry_after(formatdate(1_000_000_010, usegmt=True)) == 10
    for odd in ("", "soon", "\u00b9", "-1", "1e9", "nan", formatdate(0, usegmt=True)):
        assert retry_after(odd) == 0
