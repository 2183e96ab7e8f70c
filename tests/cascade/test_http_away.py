"""The http partner and servers that refuse it at the start, hang, or are away for a while."""

import asyncio
import contextlib
import logging
import socket
from typing import Any

import pytest

from lacy_jax.cascade.partners.guard import Clock
from lacy_jax.cascade.partners.http import FIRST_REST_SECONDS, NOT_ASKED, QUESTION
from lacy_jax.cascade.remote.server import MOST_TRIES
from lacy_jax.errors import PartnerError
from tests.cascade.http_server import (
    Answer,
    Made,
    Server,
    closes,
    completion,
    hangs,
    no_http,
    posts,
    said,
    sends,
    serving,
    time_is_over_for_what_hangs,
)
from tests.waiting import until


@pytest.mark.parametrize("models", [None, {}, {"data": []}, {"data": [{"id": 7}]}, [], "x"])
def test_servers_without_a_list_of_models(
    server: Server, made: Made, models: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server.models = models
    with caplog.at_level(logging.WARNING):
        partner = made()
    assert "lists no model" in caplog.text
    assert partner.complete(["1"]) == [" Answer1"]
    assert "model" not in posts(server)[0]
    assert [path for path, body, _ in server.requests if not body] == ["/v1/models"]


def test_a_server_that_is_not_ready_yet_is_asked_for_its_models_again(server: Server, made: Made) -> None:
    server.starting = True
    partner = made()
    assert partner.complete(["1"]) == [" Answer1"]
    server.starting = False
    assert partner.complete(["2"]) == partner.complete(["2"]) == [" Answer2"]
    assert [body.get("model") for body in posts(server)] == [None, "big-model", "big-model"]
    assert [path for path, body, _ in server.requests if not body] == ["/v1/models"] * 3


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def test_a_server_that_goes_away_and_comes_back(made: Made, pauses: list[float]) -> None:
    port = free_port()
    with serving(Server(port=port)) as first_one:
        first_one.answers[QUESTION] = sends(completion(" Ulm"), headers={"Connection": "close"})
        partner = made(url=f"http://127.0.0.1:{port}/v1")
    assert partner.complete(["1", "2"]) == ["", ""]
    assert len(pauses) == 2 * (MOST_TRIES - 1)
    for _ in range(20):  # one try each: no time is spent on a server known to be away
        assert partner.complete(["1"]) == [""]
    assert len(pauses) == 2 * (MOST_TRIES - 1)
    assert partner.failures == {"ConnectError": 22}
    with serving(Server(port=port)) as back:
        assert partner.complete(["1"]) == [" Answer1"]
        assert not partner._server.away
        assert posts(back)[0]["model"] == "big-model"


NO_MODEL = b'{"error": {"message": "The model\\n `x` does not exist"}}'


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (sends(b"{}", status=401), r"wants a key: set LACY_PARTNER_API_KEY \(status 401\)"),
        (sends(b"{}", status=403), r"wants a key: set LACY_PARTNER_API_KEY \(status 403\)"),
        (sends(b"<html>no such page", status=404), r"has no /completions \(status 404\); see its address"),
        (sends(NO_MODEL, status=404), r"404: The model `x` does not exist\); the model asked for is 'x'"),
        (sends(b'{"error": "text"}', status=422), r"does not take a question \(status 422: text\); the model"),
        (sends(b"", status=307, headers={"Location": "http://127.0.0.1:9/"}), r"another address \(status 307\)"),
        (sends(b'{"content": " Ulm"}'), "answers, but this is not a completion; see its address"),  # llama.cpp's own
        (sends(b"<html>" * 200_000), "answers, but this is a huge response"),
        (closes, "does not answer as HTTP"),
        (no_http, "does not answer as HTTP"),
    ],
)
def test_what_will_not_change_by_itself_is_an_error_at_the_start(
    server: Server, made: Made, answer: Answer, said: str
) -> None:
    server.answers[QUESTION] = answer
    with pytest.raises(PartnerError, match=said) as refused:
        made(model="x")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("status", [408, 429, 500, 503, 529])
def test_what_may_pass_is_a_warning_at_the_start(
    server: Server, made: Made, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    server.answers[QUESTION] = sends(b"", status=status)
    with caplog.at_level(logging.WARNING):
        partner = made()
    assert f"is not ready yet (status {status})" in caplog.text
    assert partner.complete(["1"]) == [" Answer1"]


def test_a_model_that_is_not_listed_is_warned_of(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made(model="other")
        assert not said(caplog)
        made(model="nobody")  # llama.cpp answers, whatever the name
    assert "has no model 'nobody', it lists ['big-model', 'other']" in caplog.text


class Manual(Clock):
    """Stands still until the test moves it."""

    moment = 0.0

    def now(self) -> float:
        return self.moment


def test_a_server_that_hangs_is_waited_for_once(
    server: Server, made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    time_is_over_for_what_hangs(server, monkeypatch)
    clock, waits = Manual(), []
    wait = asyncio.wait

    async def counted(tasks: Any, **options: Any) -> Any:
        waits.append(len(tasks))
        return await wait(tasks, **options)

    monkeypatch.setattr("lacy_jax.cascade.partners.http.asyncio.wait", counted)
    partner = made(clock=clock)
    for text in "abc":
        server.answers[text] = hangs
    server.answers[QUESTION] = hangs
    assert partner.complete(["a", "b"]) == ["", ""]
    for _ in range(100):
        assert partner.complete(["a", "b", "c"]) == [""] * 3  # nobody waits
    assert waits == [2]
    assert partner.failures == {"late": 2, NOT_ASKED: 300}
    assert server.counts[QUESTION] == 1  # the one at the start
    clock.moment += FIRST_REST_SECONDS
    for _ in range(100):  # one small question finds out whether it is back; nobody waits for it
        assert partner.complete(["a"]) == [""]
    until(lambda: server.counts[QUESTION] == 2)
    del server.answers[QUESTION]
    server.ended.set()  # what hangs is let go: the server closes those connections
    until(lambda: partner._trial is None)
    for rest in (2, 4, 8):  # it grows; what the server answers with is no matter, if it answers
        server.answers[QUESTION] = closes
        count = server.counts[QUESTION]
        clock.moment += rest * FIRST_REST_SECONDS - 0.01
        assert partner.complete(["1"]) == [""]
        assert server.counts[QUESTION] == count
        clock.moment += 0.01
        assert partner.complete(["1"]) == [""]
        until(lambda: partner._trial is None)
        assert server.counts[QUESTION] == count + 1
    del server.answers[QUESTION]
    clock.moment += 16 * FIRST_REST_SECONDS
    assert partner.complete(["1"]) == [""]
    until(lambda: not partner._alone)
    assert partner.complete(["1", "2"]) == [" Answer1", " Answer2"]
    assert waits == [2, 2]
    assert partner._rest.misses == 0
    assert caplog.text.count("does not answer in time") == 1


def test_a_text_that_hangs_among_others_leaves_the_server_in_use(
    server: Server, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_is_over_for_what_hangs(server, monkeypatch)
    server.answers["a"] = hangs
    partner = made(clock=Manual())
    for _ in range(2):
        assert partner.complete(["a", "1"]) == ["", " Answer1"]


def test_a_host_that_never_speaks(made: Made) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        partner = made(url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", timeout=0.5)
        assert partner.complete(["1", "2", "3"]) == ["", "", ""]  # it hung at the start
        assert partner.failures == {NOT_ASKED: 3}


def test_a_host_that_takes_no_connection(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lacy_jax.cascade.remote.server.CONNECT_SECONDS", 0.1)
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):  # its queue is full: what comes now is not even refused
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        partner = made(url=f"http://127.0.0.1:{listening.getsockname()[1]}/v1")
        assert partner._rest.misses == 1  # long before it would be late
        partner._alone = False
        assert partner.complete(["1"]) == [""]
        assert partner.failures == {"ConnectTimeout": 1}


def test_no_proxy_stands_before_this_machine(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert made().complete(["1"]) == [" Answer1"]
