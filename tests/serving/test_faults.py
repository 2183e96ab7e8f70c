"""Clients that leave, rounds that fail, queues that are full, time that is over, the end of the server."""

import http.client
import json
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import openai
import pytest

from tests.serving.conftest import FakeScheduler, Running, serving


def held(**settings: object) -> FakeScheduler:
    """A scheduler whose rounds wait."""
    scheduler = FakeScheduler(**settings)  # type: ignore[arg-type]
    scheduler.hold.clear()
    return scheduler


def ask_later(server: Running, **fields: object) -> Future[httpx.Response]:
    pool = ThreadPoolExecutor(1)
    return pool.submit(server.post, {"prompt": "a", "max_tokens": 2, **fields})


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_row(stream: bool) -> None:
    with serving(FakeScheduler(delay=0.02)) as server:
        body = json.dumps({"prompt": "a", "max_tokens": 1000, "stream": stream})
        client = http.client.HTTPConnection(server.url.removeprefix("http://"))
        client.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        server.until(lambda: server.scheduler.rounds > 2)
        client.close()
        server.until(lambda: server.scheduler.cancelled == [0])
        server.until(lambda: server.metric("lacy_rows_running") == 0)
        assert server.metric('lacy_interrupted_total{reason="disconnect"}') == 1
        assert server.post({"prompt": "b", "max_tokens": 1}).json()["choices"][0]["text"] == "b0 "


def test_a_client_that_leaves_before_its_turn(server: Running) -> None:
    server.scheduler.hold.clear()
    first = ask_later(server, prompt="first")
    server.until(lambda: server.worker.round_began is not None)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.url}/v1/completions",
            json={"prompt": "gone"},
            timeout=httpx.Timeout(60, read=0.2),
            trust_env=False,
        )
    server.scheduler.hold.set()
    assert first.result(60).status_code == 200
    server.until(lambda: not server.scheduler.rows)


@pytest.mark.parametrize("fail_at", [1, 3])
def test_a_round_that_fails_answers_everybody(fail_at: int, caplog: pytest.LogCaptureFixture) -> None:
    scheduler = held(fail_at=fail_at)
    with serving(scheduler) as server:
        whole = [ask_later(server, max_tokens=9) for _ in range(3)]
        stream = ask_later(server, max_tokens=9, stream=True)
        # The first request holds the worker in its round; the others wait for it in the queue.
        server.until(lambda: server.worker.round_began is not None)
        scheduler.hold.set()
        assert {future.result(60).status_code for future in whole} <= {500, 503}
        assert whole[0].result().json()["error"]["type"] == "server_error"
        events = stream.result(60)
        assert "[DONE]" not in events.text
        assert '"error"' in events.text
        health = server.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "failed")
        assert server.metric("lacy_ready") == 0
        later = server.post({"prompt": "a"})
        assert (later.status_code, later.json()["error"]["type"]) == (503, "server_error")
    assert "the device is gone" in caplog.text


def test_the_official_client_sees_an_error_in_a_stream() -> None:
    with serving(FakeScheduler(fail_at=3)) as server:
        stream = server.client().completions.create(model="tiny", prompt="a", max_tokens=9, stream=True)
        texts = []
        with pytest.raises(openai.APIError, match="the server failed"):
            texts.extend(chunk.choices[0].text for chunk in stream)


def test_a_request_that_cannot_be_taken_on_fails_alone() -> None:
    with serving(FakeScheduler(delay=0.05)) as server:
        other = ask_later(server, max_tokens=20)
        server.until(lambda: bool(server.scheduler.rows))
        assert server.post({"prompt": ["a", "break", "b"]}).status_code == 500
        assert server.post({"prompt": "refuse"}).status_code == 400
        assert other.result(60).status_code == 200
        server.until(lambda: not server.scheduler.rows)  # what the failed request had begun is cancelled
        assert server.get("/health").status_code == 200


def test_a_full_queue() -> None:
    scheduler = held(slots=2)
    with serving(scheduler, batch_size=2, max_queue=2, max_choices=3) as server:
        first = ask_later(server, prompt=["a", "b", "c"])
        server.until(lambda: server.worker.round_began is not None)
        refused = server.post({"prompt": ["d", "e"]})
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "queue_full"
        second = ask_later(server, prompt="f")
        # All four rows count as waiting until the first round is over.
        server.until(lambda: server.metric("lacy_rows_waiting") == 4)
        assert server.post({"prompt": "g"}).status_code == 429
        scheduler.hold.set()
        assert [choice["text"] for choice in first.result(60).json()["choices"]] == ["a0 a1 ", "b0 b1 ", "c0 c1 "]
        assert second.result(60).status_code == 200
        assert server.post({"prompt": ["a", "b", "c"], "max_tokens": 1}).status_code == 200


def test_a_client_that_does_not_read_holds_no_place() -> None:
    scheduler = FakeScheduler(slots=1)
    scheduler.always = "x" * 100_000
    with serving(scheduler, batch_size=1, max_queue=0, max_choices=1) as server:
        body = {"prompt": "a", "max_tokens": 100, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60, trust_env=False):
            server.until(lambda: not scheduler.rows)
            scheduler.always = "y"
            server.until(lambda: server.post({"prompt": "b", "max_tokens": 1}).status_code == 200)


def test_the_time_limit_gives_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = 0.0  # by which the service's clock is ahead
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed)
    monkeypatch.setattr("lacy_jax.serving.service.time", clock)
    with serving(FakeScheduler(delay=0.05), request_seconds=3600.0) as server:
        future = ask_later(server, max_tokens=1000)
        server.until(lambda: server.metric("lacy_first_piece_seconds_count") == 1)
        passed = 3600.0
        choice = future.result(60).json()["choices"][0]
        pieces = choice["lacy"]["pieces"]
        assert choice["text"] == "".join(f"a{number} " for number in range(len(pieces)))
        assert (choice["finish_reason"], choice["lacy"]["finish"]) == ("length", "time")
        assert choice["lacy"]["generated"] == len(pieces) < 1000
        server.until(lambda: server.scheduler.cancelled == [0])
        passed = 0.0
        chunks = []
        for chunk in server.client().completions.create(model="tiny", prompt="a", max_tokens=1000, stream=True):
            chunks.append(chunk.choices[0])
            passed = 3600.0
        assert (chunks[-1].finish_reason, chunks[-1].text) == ("length", "")
        assert len(chunks) < 1000
        server.until(lambda: server.scheduler.cancelled == [0, 1])
        assert server.metric('lacy_interrupted_total{reason="time"}') == 2
        assert 'reason="disconnect"' not in server.get("/metrics").text


@pytest.mark.parametrize("stream", [False, True])
def test_time_that_is_over_before_the_first_piece_is_an_error(stream: bool) -> None:
    scheduler = held()
    with serving(scheduler, request_seconds=0.3) as server:
        answer = server.post({"prompt": "a", "stream": stream})
        error = answer.json() if answer.status_code == 503 else json.loads(answer.text.removeprefix("data: "))
        assert error["error"]["code"] == "timeout"
        scheduler.hold.set()
        server.until(lambda: server.scheduler.cancelled == [0])


def test_health_tells_of_a_round_that_hangs() -> None:
    scheduler = held()
    with serving(scheduler) as server:
        future = ask_later(server)
        server.until(lambda: server.get("/health").json()["round_seconds"] > 0.05)
        assert server.metric("lacy_round_seconds") > 0.05
        scheduler.hold.set()
        assert future.result(60).status_code == 200


def test_a_round_that_outlasts_any_request_turns_health_red() -> None:
    scheduler = held()
    with serving(scheduler, request_seconds=0.2) as server:
        first = ask_later(server)
        server.until(lambda: server.get("/health").status_code == 503)
        assert server.get("/health").json()["status"] == "stuck"
        assert first.result(60).json()["error"]["code"] == "timeout"
        later = server.post({"prompt": "a"})
        assert (later.status_code, later.json()["error"]["code"]) == (503, None)  # at once, not after its time
        scheduler.hold.set()
        server.until(lambda: server.get("/health").status_code == 200)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_is_gone_turns_health_red_and_answers_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise SystemExit

    with serving(FakeScheduler(fail_at=1)) as server:
        monkeypatch.setattr(server.worker, "_end_all", die)  # where no error of the worker's is caught any more
        lost = server.post({"prompt": "a", "max_tokens": 5})
        assert (lost.status_code, lost.json()["error"]["type"]) == (503, "server_error")
        health = server.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "failed")
        assert server.post({"prompt": "a"}).status_code == 503


def drain(server: Running) -> None:
    """As the main thread's signal handler does it."""
    server.server.handle_exit(15, None)


def test_draining_finishes_what_runs_and_refuses_what_comes() -> None:
    scheduler = held()
    with serving(scheduler) as server:
        open_request = ask_later(server)
        server.until(lambda: server.worker.round_began is not None)
        drain(server)
        refused = server.post({"prompt": "b"})
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, "the server is shutting down")
        assert refused.headers["retry-after"]
        assert server.get("/health").json()["status"] == "draining"
        scheduler.hold.set()
        assert open_request.result(60).json()["choices"][0]["text"] == "a0 a1 "
        server.until(lambda: not server.worker.alive)
        assert len(scheduler.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_the_grace_time_is_an_end(stream: bool) -> None:
    with serving(FakeScheduler(delay=0.05), grace_seconds=0.5) as server:
        future = ask_later(server, max_tokens=1000, stream=stream)
        server.until(lambda: bool(server.scheduler.rows))
        began = time.monotonic()
        drain(server)
        answer = future.result(60)
        assert "shutting down" in answer.text
        assert answer.status_code == (200 if stream else 503)
        assert time.monotonic() - began >= 0.5
        assert server.scheduler.rounds < 1000
        server.until(lambda: not server.worker.alive)


def test_a_second_signal_ends_at_once() -> None:
    with serving(FakeScheduler(delay=0.05), grace_seconds=60) as server:
        future = ask_later(server, max_tokens=1000)
        server.until(lambda: bool(server.scheduler.rows))
        drain(server)
        drain(server)
        assert future.result(60).status_code == 503
        server.until(lambda: not server.worker.alive)


def test_no_thread_and_no_row_stays_behind() -> None:
    before = threading.active_count()
    with serving(FakeScheduler()) as server:
        for _ in range(5):
            server.post({"prompt": "a", "max_tokens": 3})
        assert not server.worker._rows
        assert not server.scheduler.rows
    server.until(lambda: threading.active_count() <= before + 1)


def test_requests_while_it_warms_up_are_told_to_come_back() -> None:
    compiled = threading.Event()
    with serving(FakeScheduler(), warm_up=lambda: assert_set(compiled)) as server:
        health = server.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "starting")
        refused = server.post({"prompt": "a"})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "5"
        assert "starting" in refused.json()["error"]["message"]
        compiled.set()
        server.until(lambda: server.get("/health").status_code == 200)
        assert server.post({"prompt": "a", "max_tokens": 1}).json()["choices"][0]["text"] == "a0 "


def assert_set(event: threading.Event) -> None:
    assert event.wait(60)
