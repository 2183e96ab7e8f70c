"""Requests that we are sent, and answers of servers that we ask."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacy_jax.cascade.partners.http import written_of
from lacy_jax.cascade.remote.address import parse_address
from lacy_jax.cascade.remote.server import Unanswered, retry_after
from lacy_jax.errors import PartnerError
from lacy_jax.evidence.judge import answer_of
from lacy_jax.serving.chat_sandbox import answer
from lacy_jax.serving.errors import ApiError
from lacy_jax.serving.schema import parse, parse_chat
from lacy_jax.serving.settings import Settings
from tests.fuzz.values import changed_bytes, changed_json, fuzz, refused
from tests.serving.chats import SMOLLM2
from tests.serving.test_connections import Clients

REQUEST = {
    "model": "slm", "prompt": ["a", "b"], "max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "n": 2, "seed": 3,
    "stop": ["x"], "stream": True, "stream_options": {"include_usage": True}, "echo": False, "budget": 0.5,
    "repetition_penalty": 1.2, "user": "me", "logprobs": None, "logit_bias": {}, "suffix": "",
}  # fmt: skip
CHAT_REQUEST: dict[str, Any] = {
    "model": "slm", "max_completion_tokens": 5, "n": 2, "seed": 3, "stop": ["x"], "stream": True, "tools": [],
    "stream_options": {"include_usage": True}, "budget": 0.5, "user": "me", "logprobs": False,
    "messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
        {"role": "assistant", "content": "I", "refusal": None, "lacy": {"pieces": []}},
        {"role": "user", "content": "a"},
    ],
}  # fmt: skip
COMPLETION = {"id": "x", "choices": [{"text": " Ulm", "index": 0, "finish_reason": "length", "logprobs": None}]}
CHAT = {"choices": [{"message": {"role": "assistant", "content": "Yes"}}]}
HTTP = (
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n"
    b'{"prompt": "a"}GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n'
)


@pytest.mark.parametrize(("request_", "read"), [(REQUEST, parse), (CHAT_REQUEST, parse_chat)])
@fuzz
@given(st.data())
def test_the_body_of_a_request(request_: dict[str, Any], read: Callable[..., object], data: st.DataObject) -> None:
    body = data.draw(changed_json(request_)).encode("utf-8", "surrogatepass")
    body = data.draw(st.just(body) | changed_bytes(body))
    said = None
    try:
        read(body, Settings())
    except ApiError as error:
        said = error
    if said is not None:
        assert said.status in (400, 404)
        json.dumps(said.body, ensure_ascii=False).encode()
        assert len(said.message) < 2_000
        assert "\n" not in said.message


@fuzz
@given(changed_json(CHAT_REQUEST["messages"]), changed_bytes(SMOLLM2.encode()).map(lambda text: text.decode("latin-1")))
def test_a_chat_template(messages: str, source: str) -> None:
    """Whatever it says, and whatever it is asked, the answer is a text or one line."""
    with contextlib.suppress(ValueError, RecursionError):  # our side writes the messages, so they are JSON
        question = {"source": source, "names": {}, "messages": json.loads(messages)}
        said = answer(question)
        assert list(said) in (["text"], ["error"])
        assert said.get("error", "") == "" or ("\n" not in said["error"] and len(said["error"]) <= 160)
        json.dumps(said).encode()


@fuzz
@given(st.lists(st.just(HTTP) | changed_bytes(HTTP) | st.binary(), min_size=1, max_size=4), st.data())
def test_the_bytes_of_a_connection(parts: list[bytes], data: st.DataObject) -> None:
    """Whatever comes in whatever pieces, nothing is raised, and what waits for a head has a time for it."""
    clients = Clients(most=3)
    client, transport = clients.connect()
    for part in parts:
        cut = data.draw(st.integers(0, len(part)))
        for piece in (part[:cut], part[cut:]):
            if piece and not transport.ended:
                client.data_received(piece)
    waits = client.cycle is None or client.cycle.response_complete
    assert bool(clients.timers.left) == (waits and not transport.ended)
    client.connection_lost(None)
    assert not clients.timers.left
    assert not clients.state.connections


@fuzz
@given(changed_json(COMPLETION).map(str.encode) | changed_bytes(json.dumps(COMPLETION).encode()) | st.binary())
def test_what_a_partner_on_a_server_answers(body: bytes) -> None:
    with refused(Unanswered):
        assert isinstance(written_of(body)[0], str)


@fuzz
@given(changed_json(CHAT).map(str.encode) | changed_bytes(json.dumps(CHAT).encode()) | st.binary())
def test_what_a_judge_answers(body: bytes) -> None:
    with refused(Unanswered):
        assert isinstance(answer_of(body), str)


@fuzz
@given(st.text() | changed_bytes(b"120").map(lambda value: value.decode("latin-1")))
def test_how_long_a_server_wants_to_be_left_alone(value: str) -> None:
    assert retry_after(value) >= 0


@fuzz
@given(changed_bytes(b"http://host:80/v1?max_characters=9#m").map(lambda value: value.decode("latin-1")) | st.text())
def test_an_address(spec: str) -> None:
    with refused(PartnerError):
        assert parse_address(spec).url
