"""The official client against a server: what it gets, streaming and not."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from lacy_jax.cascade import make_partner
from lacy_jax.cascade.partners.http import QUESTION
from lacy_jax.config import CorpusConfig
from tests.serving.conftest import FakeScheduler, Measured, Running, serving


def test_a_completion(server: Running) -> None:
    answer = server.client().completions.create(model="tiny", prompt="a", max_tokens=4)
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason, choice.index, choice.logprobs) == ("a0 a1 a2 a3 ", "length", 0, None)
    assert (answer.object, answer.model) == ("text_completion", "tiny")
    assert answer.id.startswith("cmpl-")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (1, 4, 5)
    lacy = choice.model_extra["lacy"]
    assert [piece["source"] for piece in lacy["pieces"]] == ["slm", "slm", "partner", "slm"]
    assert "".join(piece["text"] for piece in lacy["pieces"]) == choice.text
    assert [piece["score"] for piece in lacy["pieces"]] == [None, 1.25, 1.25, 1.25]  # JSON has no infinity
    assert (lacy["share"], lacy["calls"], lacy["unanswered"], lacy["delegated"]) == (0.25, 1, 0, 1)


def test_a_stream_adds_up_to_the_completion(server: Running) -> None:
    whole = server.client().completions.create(model="tiny", prompt="é😀\u2028", max_tokens=5)
    stream = server.client().completions.create(model="tiny", prompt="é😀\u2028", max_tokens=5, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 4 + ["length"]
    assert len({chunk.id for chunk in chunks}) == 1
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].model_extra["lacy"]["pieces"]]
    assert pieces == whole.choices[0].model_extra["lacy"]["pieces"]
    last = chunks[-1].choices[0].model_extra["lacy"]
    assert {**last, "pieces": pieces} == whole.choices[0].model_extra["lacy"]


def test_usage_of_a_stream_comes_when_asked_for(server: Running) -> None:
    options = {"include_usage": True}
    chunks = list(
        server.client().completions.create(
            model="tiny", prompt="a b", max_tokens=3, stream=True, stream_options=options
        )
    )
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * 3
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (2, 3)


def test_the_bytes_of_a_stream(server: Running) -> None:
    answer = server.post({"prompt": "\u2028é", "stream": True, "max_tokens": 2})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert answer.text.isascii()
    assert json.loads(events[0].removeprefix("data: "))["choices"][0]["text"] == "\u2028é0 "


def test_many_prompts_and_several_choices_of_each(server: Running) -> None:
    answer = server.client().completions.create(model="tiny", prompt=["a", "b"], n=2, max_tokens=2, seed=7)
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, "a0 a1 "),
        (1, "a0 a1 "),
        (2, "b0 b1 "),
        (3, "b0 b1 "),
    ]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 8)
    assert [request.sampling.seed for request in server.scheduler.requests.values()] == [7, 8, 9, 10]


def test_a_stream_of_several_choices(server: Running) -> None:
    texts = ["", "", ""]
    for chunk in server.client().completions.create(
        model="tiny", prompt=["a", "b", "c"], max_tokens=3, stream=True, echo=True
    ):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["aa0 a1 a2 ", "bb0 b1 b2 ", "cc0 c1 c2 "]


def test_what_is_asked_reaches_the_scheduler(server: Running) -> None:
    server.client().completions.create(
        model="tiny",
        prompt="p",
        max_tokens=1,
        temperature=0.5,
        top_p=0.9,
        seed=-1,
        stop=["x", "y"],
        user="somebody",
        extra_body={"budget": 0.125, "price": 0.5, "repetition_penalty": 1.2, "metadata": {"a": "b"}, "store": False},
    )
    request = server.scheduler.requests[0]
    assert (request.prompt, request.max_new_tokens, request.stop) == ("p", 1, ("x", "y"))
    assert (request.budget, request.price) == (0.125, 0.5)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.repetition_penalty) == (0.5, 0.9, 1.2)
    assert sampling.seed == 2**32 - 1
    server.client().completions.create(model="tiny", prompt="p")
    request = server.scheduler.requests[1]
    assert (request.max_new_tokens, request.budget, request.sampling.temperature, request.stop) == (16, None, 0.0, ())


def test_unseeded_requests_differ_and_null_is_not_given(server: Running) -> None:
    for _ in range(3):
        nothing = dict.fromkeys(["seed", "stop", "n", "temperature", "logprobs", "suffix", "best_of", "stream"])
        assert server.post({"prompt": "a", "max_tokens": 1, **nothing}).status_code == 200
    assert len({request.sampling.seed for request in server.scheduler.requests.values()}) == 3


def test_models(server: Running) -> None:
    models = server.client().models.list()
    assert [model.id for model in models.data] == ["tiny"]
    assert server.client().models.retrieve("tiny").owned_by == "lacy_jax"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        server.client().models.retrieve("other/one")
    with pytest.raises(openai.NotFoundError) as caught:
        server.client().completions.create(model="other", prompt="a")
    assert caught.value.code == "model_not_found"


def test_sixty_four_at_once_get_their_own_answers() -> None:
    with serving(FakeScheduler(slots=8), max_queue=64) as server:
        client = server.client()

        def ask(index: int) -> str:
            prompt = f"p{index}:"
            if index % 2:
                return client.completions.create(model="tiny", prompt=prompt, max_tokens=20).choices[0].text
            chunks = client.completions.create(model="tiny", prompt=prompt, max_tokens=20, stream=True)
            return "".join(chunk.choices[0].text for chunk in chunks)

        with ThreadPoolExecutor(64) as pool:
            texts = list(pool.map(ask, range(64)))
        assert texts == ["".join(f"p{index}:{k} " for k in range(20)) for index in range(64)]


def test_it_is_a_partner_for_another_cascade(server: Running) -> None:
    partner = make_partner(f"{server.url}/v1", corpus=CorpusConfig(), directory="", span="word")
    assert partner is not None
    assert partner.complete(["Ein", "東京 is"]) == ["Ein0", "東"]
    assert {request.prompt for request in server.scheduler.requests.values()} == {QUESTION, "Ein", "東京 is"}


def test_metrics() -> None:
    with serving(FakeScheduler(), partner=Measured()) as server:
        server.post({"prompt": "a b", "max_tokens": 7})
        server.post({"prompt": "a", "max_tokens": 6, "stream": True})
        server.post({})
        assert server.metric('lacy_requests_total{route="/v1/completions",status="200"}') == 2
        assert server.metric('lacy_requests_total{route="/v1/completions",status="400"}') == 1
        assert server.metric('lacy_tokens_total{source="slm"}') == 5 + 4
        assert server.metric('lacy_tokens_total{source="partner"}') == 4
        assert server.metric("lacy_prompt_tokens_total") == 3
        assert server.metric("lacy_calls_total") == 4
        assert server.metric("lacy_calls_unanswered_total") == 0
        assert server.metric("lacy_partner_questions_total") == 3
        assert server.metric("lacy_partner_seconds_total") == 0.5
        assert server.metric('lacy_partner_unanswered_total{reason="503 of \\"x\\""}') == 2
        assert server.metric("lacy_first_piece_seconds_count") == 2
        assert server.metric("lacy_completion_seconds_count") == 2
        assert (server.metric("lacy_rows_running"), server.metric("lacy_rows_waiting")) == (0, 0)
        assert server.metric("lacy_ready") == 1


def test_answers_are_not_cached_or_shared_with_other_sites(server: Running) -> None:
    answer = server.get("/v1/models", headers={"Origin": "https://example.com"})
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    preflight = httpx.options(
        f"{server.url}/v1/completions", headers={"Origin": "https://example.com"}, trust_env=False
    )
    assert preflight.status_code == 405
