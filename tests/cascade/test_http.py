"""The http partner against real servers on loopback, with every fault that a server can have."""

import asyncio
import collections
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lacy_jax.cascade.partners import make_partner
from lacy_jax.cascade.partners.guard import Clock, Guard
from lacy_jax.cascade.partners.http import FIRST_REST_SECONDS, NOT_ASKED, QUESTION, HttpPartner, fitted
from lacy_jax.cascade.remote.address import Address
from lacy_jax.cascade.remote.server import CONCURRENT, MAX_RESPONSE_BYTES, MOST_TRIES
from lacy_jax.config import CorpusConfig, Span
from lacy_jax.errors import PartnerError
from tests.cascade.http_server import (
    Answer,
    Server,
    breaks_off,
    closes,
    completion,
    drips,
    first,
    hangs,
    no_http,
    says,
    sends,
    serving,
    time_is_over_for_what_hangs,
    together,
)
from tests.waiting import until

SECRET = "sk-very-secret-0123456789"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LACY_PARTNER_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("lacy_jax.cascade.remote.server.BACKOFF_SECONDS", 0.01)
    for name in ("LIST_SECONDS", "QUESTION_SECONDS"):  # a busy machine is no server that hangs
        monkeypatch.setattr(f"lacy_jax.cascade.partners.http.{name}", 60.0)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the partner slept between tries, in seconds; it does not really sleep."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("lacy_jax.cascade.partners.http.asyncio.sleep", sleep)
    return slept


Made = Callable[..., HttpPartner]


@pytest.fixture
def made(server: Server) -> Iterator[Made]:
    partners = []

    def make(
        span: Span = "word", *, url: str = "", timeout: float = 60.0, clock: Clock | None = None, **address: Any
    ) -> HttpPartner:
        where = Address(url or server.url, **address)
        partners.append(HttpPartner(where, span=span, timeout=timeout, clock=clock))
        return partners[-1]

    yield make
    for partner in partners:
        partner.close()


def posts(server: Server) -> list[dict[str, Any]]:
    """The questions, less the small one at the start."""
    return [body for _, body, _ in server.requests if body and body["prompt"] != QUESTION]


def test_a_question(server: Server, made: Made) -> None:
    server.answers["Einstein was born in"] = says(" Ulm, in the")
    partner = made()
    assert partner.complete(["Einstein was born in", "1"]) == [" Ulm", " Answer1"]
    assert partner.complete([]) == []
    assert posts(server)[0] | {"prompt": ""} == {
        "model": "big-model", "prompt": "", "max_tokens": 8, "temperature": 0, "stream": False,
    }  # fmt: skip
    assert partner.failures == {}
    assert made(model="mine").complete(["1"]) == [" Answer1"]
    assert posts(server)[-1]["model"] == "mine"


def test_spans(server: Server, made: Made) -> None:
    server.answers["x"] = says(" 14 March 1879 in Ulm")
    assert made("phrase").complete(["x"]) == [" 14 March 1879"]
    assert made("word").complete(["x"]) == [" 14"]
    assert posts(server)[0]["max_tokens"] > posts(server)[1]["max_tokens"]
    server.answers["token"] = lambda handler, body, _: handler.reply(
        completion({1: " Ein", 8: " Einstein was so"}[body["max_tokens"]])
    )
    assert made("token").complete(["token"]) == [" Ein"]
    for begun in (" ", "\ufffd", ""):
        server.answers["token"] = lambda handler, body, _, begun=begun: handler.reply(
            completion(begun if body["max_tokens"] == 1 else " é was so")
        )
        assert made("token").complete(["token"]) == [" é"]


def test_more_is_asked_for_until_the_end_is_certain(server: Server, made: Made) -> None:
    long = " Rindfleischetikettierungsüberwachungsaufgabe"
    server.answers["x"] = lambda handler, body, _: handler.reply(
        completion((long + "nübertragungsgesetz is")[: 4 * body["max_tokens"]])
    )
    assert made().complete(["x"]) == [long + "nübertragungsgesetz"]
    assert [body["max_tokens"] for body in posts(server)] == [8, 24]
    server.answers["cut"] = lambda handler, body, _: handler.reply(
        completion(" caf\ufffd" if body["max_tokens"] == 8 else " café au lait")
    )
    server.answers["endless"] = says(" aaaaaaaaaaaaaaa")
    server.answers["ended"] = says(" Ulm", "stop")
    server.answers["silent"] = says("", "stop")
    server.answers["eos"] = says(" Ulm", "eos_token")
    partner = made()
    assert partner.complete(["cut", "endless", "ended", "silent", "eos"]) == [" café", "", " Ulm", "", " Ulm"]
    assert partner.failures == {"no end of the answer in sight": 1}


def test_white_space_is_not_doubled(server: Server, made: Made) -> None:
    server.answers["in "] = says(" Ulm so")
    server.answers["in\n"] = says("\nUlm so")
    assert made().complete(["in ", "in\n"]) == ["Ulm", "\nUlm"]


FAULTS: dict[str, tuple[Answer, str]] = {
    "no": (sends(b"bad request", status=400), "status 400"),
    "forbidden": (sends(b"{}", status=401), "status 401"),
    "away": (sends(b"{}", status=404), "status 404"),
    "redirect": (sends(b"", status=307, headers={"Location": "http://127.0.0.1:9/v1/completions"}), "status 307"),
    "500": (sends(b"oh", status=500), "status 500"),
    "junk": (sends(b"\x00\x01<html>"), "not a completion"),
    "empty": (sends(b""), "not a completion"),
    "utf8": (sends(b'{"choices": [{"text": "\xff\xfe\x80"}]}'), "not a completion"),
    "list": (sends(b"[]"), "not a completion"),
    "null": (sends(b"null"), "not a completion"),
    "no choices": (sends(b'{"choices": []}'), "not a completion"),
    "odd choices": (sends(b'{"choices": {"0": 1}}'), "not a completion"),
    "chat": (sends(b'{"choices": [{"message": {"content": "hi"}}]}'), "not a completion"),
    "number": (says(7), "not a completion"),
    "nothing": (says(None), "not a completion"),
    "deep": (sends(b"[" * 100_000), "not a completion"),
    "huge": (sends(completion("x" * 2 * MAX_RESPONSE_BYTES)), "a huge response"),
    "broken": (says(" \ufffd\ufffdabc\ufffdd e f"), "broken characters"),
    "closed": (closes, "RemoteProtocolError"),
    "broken off": (breaks_off, "RemoteProtocolError"),
    "no http": (no_http, "RemoteProtocolError"),
    "hangs": (hangs, "late"),
    "drips": (drips, "late"),
    "wait": (sends(b"", status=429, headers={"Retry-After": "3600"}), "status 429"),
}


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Our own warnings; asyncio's, about tasks of an earlier test, may come at any time."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("lacy_jax")]


def test_every_fault_costs_only_its_own_text(server: Server, made: Made, caplog: pytest.LogCaptureFixture) -> None:
    faults = {prompt: fault for prompt, fault in FAULTS.items() if fault[1] != "late"}
    server.answers |= {prompt: answer for prompt, (answer, _) in faults.items()}
    texts = [text for number, fault in enumerate(faults) for text in (f"{number}", fault)]
    partner = made()
    with caplog.at_level(logging.WARNING):
        pieces = partner.complete(texts)
    assert pieces == [piece for number in range(len(faults)) for piece in (f" Answer{number}", "")]
    assert partner.failures == collections.Counter(reason for _, reason in faults.values())
    assert len(said(caplog)) == len(partner.failures)  # each reason once
    assert {prompt: server.counts[prompt] for prompt in faults} == {
        prompt: MOST_TRIES if reason == "status 500" or reason == "RemoteProtocolError" else 1
        for prompt, (_, reason) in faults.items()
    } | {"broken": 1}
    guard = Guard(made())
    for prompt in ("junk", "utf8", "fine"):  # each alone, and in a cascade's guard
        assert guard.complete([prompt]) == [" Answerfine" if prompt == "fine" else ""]


def test_what_hangs_costs_only_its_own_text_and_its_time_once(
    server: Server, made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_is_over_for_what_hangs(server, monkeypatch)
    late = {prompt: answer for prompt, (answer, reason) in FAULTS.items() if reason == "late"}
    both = threading.Barrier(len(late))
    server.answers |= {prompt: together(both, answer) for prompt, answer in late.items()}
    partner = made()
    assert partner.complete(["1", *late, "2"]) == [" Answer1", *[""] * len(late), " Answer2"]
    assert partner.failures == {"late": len(late)}
    assert not both.broken


def test_it_gives_up_by_itself_and_before_a_guard(server: Server, made: Made) -> None:
    server.answers["hangs"] = hangs
    partner = made(timeout=0.5)
    assert partner._seconds < 0.5
    guard = Guard(partner, timeout=60.0)
    assert guard.complete(["hangs"]) == [""]
    assert guard.statistics.late == 0


def test_pieces_that_no_text_can_hold_are_stopped_by_the_guard(server: Server, made: Made) -> None:
    server.answers["surrogate"] = sends(b'{"choices": [{"text": " \\ud800x y", "finish_reason": "stop"}]}')
    server.answers["long"] = says(" " + "x" * 5000 + " y")
    assert Guard(made()).complete(["surrogate", "1", "long"]) == ["", " Answer1", ""]
    assert made().complete(["lone \ud800 surrogate"]) == [" Answerlone"]


@pytest.mark.parametrize(
    "fault", [sends(b"", status=500), sends(b"", status=503), sends(b"", status=429), closes, breaks_off]
)
def test_what_may_pass_is_tried_again(server: Server, made: Made, fault: Answer) -> None:
    server.answers["x"] = first(MOST_TRIES - 1, fault, says(" Ulm is"))
    partner = made()
    assert partner.complete(["x"]) == [" Ulm"]
    assert server.counts["x"] == MOST_TRIES
    assert partner.failures == {}


def test_retry_after_is_honoured(server: Server, made: Made, pauses: list[float]) -> None:
    server.answers["x"] = first(1, sends(b"", status=429, headers={"Retry-After": "7"}), says(" Ulm is"))
    assert made().complete(["x"]) == [" Ulm"]
    assert pauses == [7.0]


def test_requests_run_at_once_and_are_bounded(server: Server, made: Made) -> None:
    full = threading.Barrier(CONCURRENT)  # none is answered before as many as may be are there
    texts = [str(number) for number in range(4 * CONCURRENT)]
    for text in texts:
        server.answers[text] = together(full, says(f" Answer{text} so"))
    partner = made()
    assert partner.complete(texts) == [f" Answer{text}" for text in texts]
    assert server.most == CONCURRENT


def test_questions_from_several_threads(made: Made) -> None:
    partner, wrong = made(), []

    def ask(thread: int) -> None:
        texts = [f"{thread}x{number}" for number in range(10)]
        if partner.complete(texts) != [f" Answer{text}" for text in texts]:
            wrong.append(thread)

    threads = [threading.Thread(target=ask, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_key_comes_from_the_environment_and_is_never_shown(
    server: Server, made: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "another")
    monkeypatch.setenv("LACY_PARTNER_API_KEY", SECRET)
    server.answers |= {prompt: answer for prompt, (answer, reason) in FAULTS.items() if reason != "late"}
    with caplog.at_level(logging.DEBUG):
        partner = made()
        partner.complete(["1", *FAULTS])
    assert {headers.get("Authorization") for _, _, headers in server.requests} == {f"Bearer {SECRET}"}
    assert SECRET not in caplog.text + repr(partner) + str(vars(partner)) + str(partner.failures)
    monkeypatch.delenv("LACY_PARTNER_API_KEY")
    made().complete(["1"])
    assert server.requests[-1][2]["Authorization"] == "Bearer another"
    monkeypatch.delenv("OPENAI_API_KEY")
    made().complete(["1"])
    assert "Authorization" not in server.requests[-1][2]
    for odd in (f"{SECRET}\nX-Other: 1", f"{SECRET}é"):
        monkeypatch.setenv("LACY_PARTNER_API_KEY", odd)
        with pytest.raises(PartnerError, match="LACY_PARTNER_API_KEY") as refused:
            made()
        assert SECRET not in str(refused.value)


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


def test_long_texts_are_cut_at_a_border(server: Server, made: Made) -> None:
    assert fitted("abc", max_characters=3) == "abc"
    assert fitted("one two three four", max_characters=10) == "three four"
    assert fitted("one two three four", max_characters=11) == "three four"
    assert fitted("One. Two is. Three is a number and so on", max_characters=31) == "Three is a number and so on"
    assert fitted("One\nTwo. Three is a number and so on", max_characters=34) == "Two. Three is a number and so on"
    assert fitted("x" * 50, max_characters=7) == "x" * 7
    text = " ".join(str(number) for number in range(5000))
    made(max_characters=100).complete([text])
    prompt = posts(server)[0]["prompt"]
    assert text.endswith(" " + prompt)
    assert 75 <= len(prompt) <= 100


def test_made_from_a_spec(server: Server) -> None:
    spec = f"{server.url}?max_characters=50#named"
    partner = make_partner(spec, corpus=CorpusConfig(), directory=".", span="phrase", timeout=3.0)
    assert isinstance(partner, HttpPartner)
    assert partner.name == spec
    assert partner.complete(["1"]) == [" Answer1"]
    assert posts(server)[0]["model"] == "named"
    partner.close()
