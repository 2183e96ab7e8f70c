"""The judge's client against a server on loopback."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import JSONResponse, Response

from lacy_jax.errors import JudgeError
from lacy_jax.evidence.judge import Judge, Settings
from tests.evidence.judge_server import JudgeServer, serving

pytestmark = pytest.mark.usefixtures("quick_judge")


def echo(prompt: str, _count: int) -> str:
    return f"said {prompt}"


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with serving(echo) as running:
        yield running


def make(server: JudgeServer, folder: Path, **settings: object) -> Judge:
    return Judge(Settings(server.url, str(folder / "judge.sqlite"), model="m", **settings))  # type: ignore[arg-type]


def test_answers_come_in_order_and_equal_questions_are_asked_once(server: JudgeServer, tmp_path: Path) -> None:
    judge = make(server, tmp_path)
    assert judge.ask(["b", "a", "b"], max_tokens=5) == ["said b", "said a", "said b"]
    assert sorted(server.prompts()) == ["a", "b"]
    assert server.bodies[0] | {"messages": []} == {"model": "m", "temperature": 0, "max_tokens": 5, "messages": []}
    assert "authorization" not in server.headers[0]


def test_the_cost_is_what_is_then_sent(server: JudgeServer, tmp_path: Path) -> None:
    judge = make(server, tmp_path)
    judge.ask(["a" * 8], max_tokens=5)
    before = len(server.bodies)
    cost = judge.cost(["a" * 8, "b" * 9, "b" * 9, "c" * 4], max_tokens=5)
    assert (cost.requests, cost.cached, cost.prompt_tokens, cost.answer_tokens) == (2, 1, 3 + 1, 10)
    assert cost.told(prompt_price=1e6, answer_price=1e5).endswith("about 5.00 at most")
    assert len(server.bodies) == before
    judge.ask(["a" * 8, "b" * 9, "b" * 9, "c" * 4], max_tokens=5)
    assert len(server.bodies) - before == cost.requests
    assert judge.cost(["b" * 9], max_tokens=6).requests == 1  # another question
    assert make(server, tmp_path, body={"seed": 1}).cost(["b" * 9], max_tokens=5).requests == 1
    # A judge that thinks first is given more room; what it may write is what its own entry says.
    longer: dict[str, object] = {"max_tokens": None, "max_completion_tokens": 900}
    assert make(server, tmp_path, body=longer).cost(["b", "c"], max_tokens=5).answer_tokens == 1800


def test_after_an_interruption_only_what_is_missing_is_asked(server: JudgeServer, tmp_path: Path) -> None:
    prompts = [str(index) for index in range(12)]

    class Killed(Exception):
        pass

    def killing(done: int, _total: int) -> None:
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        make(server, tmp_path, concurrent=1).ask(prompts, max_tokens=5, progress=killing)
    first = set(server.prompts())
    assert 5 <= len(first) < 12
    again = make(server, tmp_path)
    assert again.cost(prompts, max_tokens=5).requests == 12 - len(first)
    assert again.ask(prompts, max_tokens=5) == [f"said {prompt}" for prompt in prompts]
    assert max(server.counts.values()) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_faults_are_tried_again(server: JudgeServer, tmp_path: Path, status: int) -> None:
    server.answer = lambda _prompt, count: (
        Response("busy", status_code=status, headers={"Retry-After": "0"}) if count < 3 else "yes"
    )
    assert make(server, tmp_path).ask(["a"], max_tokens=5) == ["yes"]
    assert server.counts["a"] == 3


def test_a_question_that_stays_without_an_answer_is_counted_and_not_kept(server: JudgeServer, tmp_path: Path) -> None:
    answers = {
        "500": Response(status_code=500),
        "400": Response(status_code=400),
        "words": Response("hello"),
        "null": JSONResponse({"choices": [{"message": {"content": None}}]}),
        "none": JSONResponse({"choices": []}),
    }
    server.answer = lambda prompt, _count: answers.get(prompt, "yes")
    judge = make(server, tmp_path)
    assert judge.ask([*answers, "good"], max_tokens=5) == [None] * 5 + ["yes"]
    assert judge.failures == {"status 500": 1, "status 400": 1, "not a chat completion": 3}
    assert server.counts["400"] == 1
    assert sqlite3.connect(tmp_path / "judge.sqlite").execute("SELECT answer FROM answers").fetchall() == [("yes",)]
    assert judge.cost([*answers, "good"], max_tokens=5).requests == 5


def test_a_lost_server_ends_the_work_and_keeps_what_came(server: JudgeServer, tmp_path: Path) -> None:
    server.answer = lambda prompt, _count: "yes" if prompt == "0" else Response(status_code=400)
    prompts = [str(index) for index in range(200)]
    with pytest.raises(JudgeError, match=r"questions in a row unanswered \(status 400\).*goes on from there"):
        make(server, tmp_path, concurrent=1).ask(prompts, max_tokens=5)
    assert len(server.bodies) < 100
    assert make(server, tmp_path).cost(prompts, max_tokens=5).cached == 1


def test_the_guard_refuses_before_anything_is_sent(server: JudgeServer, tmp_path: Path) -> None:
    judge = make(server, tmp_path, max_requests=3)
    judge.ask(["a", "b"], max_tokens=5)
    with pytest.raises(JudgeError, match=r"2 further requests after 2 .*max_requests=3; none of them was sent"):
        judge.ask(["a", "c", "d"], max_tokens=5)
    assert len(server.bodies) == 2
    judge.ask(["a", "c"], max_tokens=5)


def test_keys_come_from_the_environment_and_never_show(
    server: JudgeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LACY_JUDGE_API_KEY", "sk-secret")
    judge = make(server, tmp_path)
    judge.ask(["a"], max_tokens=5)
    assert server.headers[0]["authorization"] == "Bearer sk-secret"
    server.answer = lambda _prompt, _count: Response("sk-secret is wrong", status_code=401)
    with pytest.raises(JudgeError, match=r"refuses us \(status 401\).*LACY_JUDGE_API_KEY") as caught:
        judge.ask(["b"], max_tokens=5)
    assert "sk-secret" not in str(caught.value)
    assert server.counts["b"] == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"address": "localhost"}, "cannot read the judge's address"),
        ({"address": "http://me:secret@x/v1"}, "no name or password in a judge's address.*LACY_JUDGE_API_KEY"),
        ({"address": "http://127.0.0.1:9/v1"}, "no model of the judge"),
        ({"address": "http://127.0.0.1:9/v1#m", "cache": "/dev/null/x"}, "cannot keep answers there"),
    ],
)
def test_wrong_settings(tmp_path: Path, settings: dict[str, str], words: str) -> None:
    with pytest.raises(JudgeError, match=words) as caught:
        Judge(Settings(**({"cache": str(tmp_path / "c.sqlite")} | settings)))
    assert "secret" not in str(caught.value)
