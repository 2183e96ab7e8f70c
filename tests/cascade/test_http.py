"""The http partner against real servers on loopback, with every fault that an answer can have."""

import collections
import logging
import threading

import pytest

from lacy_jax.cascade.partners import make_partner
from lacy_jax.cascade.partners.guard import Guard
from lacy_jax.cascade.partners.http import HttpPartner, fitted
from lacy_jax.cascade.remote.server import CONCURRENT, MAX_RESPONSE_BYTES, MOST_TRIES
from lacy_jax.config import CorpusConfig
from lacy_jax.errors import PartnerError
from tests.cascade.http_server import (
    Answer,
    Made,
    Server,
    breaks_off,
    closes,
    completion,
    drips,
    first,
    hangs,
    no_http,
    posts,
    said,
    says,
    sends,
    time_is_over_for_what_hangs,
    together,
)

SECRET = "sk-very-secret-0123456789"


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
