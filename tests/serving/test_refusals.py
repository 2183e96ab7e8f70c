"""What a client is told when something is wrong with its request, in OpenAI's shape."""

import json
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from lacy_jax.errors import ConfigError
from lacy_jax.serving.schema import IGNORED, parse
from lacy_jax.serving.settings import Settings, read_key
from tests.serving.conftest import FakeScheduler, Running, serving


def error_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert "\n" not in body["error"]["message"]
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": [1, 2]}, "prompt", "token ids"),
        ({"prompt": [[1, 2]]}, "prompt", "token ids"),
        ({"prompt": []}, "prompt", "at least one"),
        ({"prompt": 5}, "prompt", "string"),
        ({"prompt": None}, "prompt", "string"),
        ({"prompt": ["a", None]}, "prompt", "string"),
        ({"prompt": "x" * 101}, "prompt", "101 characters; allowed are 100"),
        ({"prompt": ["a"] * 5}, "prompt", "5 choices"),
        ({"n": 5}, "n", "5 choices"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"max_tokens": 51}, "max_tokens", "allowed are 50"),
        ({"max_tokens": -1}, "max_tokens", "greater than or equal to 0"),
        ({"max_tokens": "16"}, "max_tokens", "integer"),
        ({"max_tokens": True}, "max_tokens", "integer"),
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"budget": 1.5}, "budget", "less than or equal to 1"),
        ({"price": -0.5}, "price", "greater than or equal to 0"),
        ({"stop": [""]}, "stop", "at least 1"),
        ({"stop": ["a"] * 17}, "stop", "at most 16"),
        ({"stream": "yes"}, "stream", "boolean"),
        ({"stream_options": 3}, "stream_options", "dictionary"),
        ({"logprobs": 0}, "logprobs", "not supported"),
        ({"best_of": 2}, "best_of", "not supported"),
        ({"suffix": "end"}, "suffix", "not supported"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
        ({"frequency_penalty": 0.5}, "frequency_penalty", "not supported"),
        ({"presence_penalty": -0.5}, "presence_penalty", "not supported"),
        ({"max_token": 5}, "max_token", "unknown parameter 'max_token'; did you mean max_tokens?"),
        ({"something_new": None}, "something_new", "unknown parameter 'something_new'"),
        ({"messages": []}, "messages", "unknown parameter"),
        ({"stream_options": {"includes_usage": True}}, "stream_options.includes_usage", "did you mean include_usage?"),
        ({"x\n" * 50: 1}, ("x\n" * 50)[:80], "unknown parameter"),
        ({"prompt": "refuse"}, None, "prompt: refused, says the scheduler"),
    ],
    ids=str,
)
def test_fields(limited: Running, fields: dict[str, Any], param: str | None, words: str) -> None:
    error = error_of(limited.post({"prompt": "a", **fields}), 400)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    assert words in error["message"]


@pytest.fixture(scope="module")
def limited() -> Any:
    with serving(
        FakeScheduler(), max_choices=4, max_tokens=50, max_prompt_characters=100, max_body_bytes=2000
    ) as running:
        yield running


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\xff"}',
        b"[" * 1900,
        b'{"prompt": "a", "seed": 1e999}',
        b'{"prompt": "a", "seed": ' + b"9" * 1500 + b"}",
    ],
)
def test_bodies_that_are_no_request(limited: Running, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    error_of(limited.post(content=body, headers=headers), 400)
    assert limited.post({"prompt": "a", "max_tokens": 1}).status_code == 200


def test_fields_of_openai_that_change_no_text_are_ignored(limited: Running) -> None:
    plain = limited.post({"prompt": "a", "max_tokens": 3}).json()["choices"]
    for name in IGNORED:
        assert limited.post({"prompt": "a", "max_tokens": 3, name: "x"}).json()["choices"] == plain
    options = {"stream_options": {"include_obfuscation": True, "include_usage": False}, "stream": True}
    assert limited.post({"prompt": "a", "max_tokens": 3, **options}).text.endswith("[DONE]\n\n")
    with pytest.raises(openai.BadRequestError) as caught:
        limited.client().completions.create(model="tiny", prompt="a", extra_body={"top_k": 5})
    assert (caught.value.param, caught.value.code) == ("top_k", "unknown_parameter")


def test_a_length_that_is_not_given_is_within_the_limit() -> None:
    asked = parse(b'{"prompt": "a"}', Settings(max_tokens=8))
    assert [row.max_new_tokens for row in asked.rows] == [8]
    assert [row.max_new_tokens for row in parse(b'{"prompt": "a"}', Settings()).rows] == [16]


def test_large_bodies(limited: Running) -> None:
    large = {"prompt": "a", "user": "x" * 3000}
    assert error_of(limited.post(large), 413)["code"] == "body_too_large"
    parts = (part for part in [json.dumps(large).encode()[i : i + 500] for i in range(0, 3000, 500)])
    headers = {"Content-Type": "application/json"}
    error_of(limited.post(content=parts, headers=headers), 413)  # no length announced


def test_other_routes_methods_and_content_types(limited: Running) -> None:
    assert error_of(limited.get("/v1/completions"), 405)
    assert limited.get("/v1/completions").headers["allow"] == "POST"
    assert error_of(limited.get("/favicon.ico"), 404)
    form = {"Content-Type": "text/plain"}  # what a foreign page may send without asking first
    assert error_of(limited.post(content=b'{"prompt": "a"}', headers=form), 415)


def test_only_local_names_without_a_key(limited: Running) -> None:
    assert error_of(limited.get("/v1/models", headers={"Host": "evil.example"}), 403)["code"] == "host_not_allowed"
    assert error_of(limited.get("/", headers={"Host": "evil.example:80"}), 403)
    for host in ("localhost:80", "127.0.0.1", "[::1]:8000"):
        assert limited.get("/v1/models", headers={"Host": host}).status_code == 200
    with serving(FakeScheduler(), api_key="k") as server:
        headers = {"Host": "example.com", "Authorization": "Bearer k"}
        assert server.get("/v1/models", headers=headers).status_code == 200


def test_a_key() -> None:
    with serving(FakeScheduler(), api_key="sesame") as server:
        for path in ("/v1/models", "/metrics", "/v1/unknown"):
            answer = server.get(path)
            assert error_of(answer, 401)["type"] == "authentication_error"
            assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer", "Bearer sesam", "Bearer sesame2", "Basic sesame", "Bearer sés".encode("latin-1")):
            assert (
                error_of(server.get("/v1/models", headers={"Authorization": wrong}), 401)["code"] == "invalid_api_key"
            )
        error_of(server.post({"prompt": "a"}), 401)
        assert server.get("/health").status_code == 200
        assert server.get("/").status_code == 200
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="sesame", max_retries=0)
        assert client.completions.create(model="tiny", prompt="a", max_tokens=1).choices[0].text == "a0 "
        with pytest.raises(openai.AuthenticationError):
            server.client().models.list()
        assert not server.scheduler.rows


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 0}, "--batch_size=0"),
        ({"port": 70_000}, "--port=70000"),
        ({"port": -1}, "--port=-1"),
        ({"request_seconds": 0.0}, "--request_seconds=0"),
        ({"grace_seconds": float("nan")}, "--grace_seconds=nan"),
        ({"max_choices": 300}, "never fits"),
        ({"max_queue": -1}, "--max_queue=-1"),
        ({"max_connections": 0}, "--max_connections=0"),
    ],
    ids=str,
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Settings(**settings)


def test_the_key_is_not_printed() -> None:
    assert "sesame" not in repr(Settings(api_key="sesame"))


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False)]
)
def test_loopback(host: str, loopback: bool) -> None:
    assert Settings(host=host).loopback is loopback


def test_where_the_key_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LACY_API_KEY", raising=False)
    assert read_key(None) == ""
    monkeypatch.setenv("LACY_API_KEY", " sesame\n")
    assert read_key(None) == "sesame"
    file = tmp_path / "key"
    file.write_text("other\n")
    assert read_key(str(file)) == "other"
    file.write_text("other", encoding="utf-8-sig")
    assert read_key(str(file)) == "other"
    file.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        read_key(str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(str(tmp_path / "absent"))
    monkeypatch.setenv("LACY_API_KEY", "")
    with pytest.raises(ConfigError, match="LACY_API_KEY is empty"):
        read_key(None)
