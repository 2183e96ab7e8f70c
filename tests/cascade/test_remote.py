"""Addresses of servers, and how long one asks to be left alone; test_http.py asks real ones."""

from email.utils import formatdate

import pytest

from lacy_jax.cascade.remote.address import Address, parse_address
from lacy_jax.cascade.remote.server import retry_after
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


def test_what_a_retry_after_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lacy_jax.cascade.remote.server.time.time", lambda: 1_000_000_000.0)
    assert retry_after("2") == 2
    assert retry_after(formatdate(1_000_000_010, usegmt=True)) == 10
    for odd in ("", "soon", "-1", "1e9", "nan", formatdate(0, usegmt=True)):
        assert retry_after(odd) == 0
