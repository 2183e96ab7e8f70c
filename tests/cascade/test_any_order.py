"""Whatever comes when, and however far the SLM runs ahead: each request is completed as it is alone.

Random mixes of requests arrive at random rounds, some are cancelled at random rounds, rows wait for a partner whose
answers take a random time, and every round runs a random number of steps ahead.
"""

import dataclasses
import random
import time
from collections.abc import Callable, Sequence

import pytest

from lacy_jax.cascade import Cascade, Completion, Request, Sampling, scheduler
from lacy_jax.cascade.decoding.session import Session
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import Span
from tests.cascade.test_cascade import PROMPTS, Fake, assert_same

Model = Callable[..., LoadedModel]


class Slow(Fake):
    """Answers as ever, but after a random time."""

    random = random.Random(0)

    def complete(self, texts: Sequence[str]) -> list[str]:
        time.sleep(self.random.choice((0, 0, 0.002, 0.02)))
        return super().complete(texts)


def any_request(rng: random.Random) -> Request:
    drawn = Sampling(
        temperature=rng.choice((0.0, 0.7, 1.5)),
        top_p=rng.choice((1.0, 0.8)),
        seed=rng.randrange(100),
        repetition_penalty=rng.choice((1.0, 1.0, 1.3)),
    )
    return Request(
        rng.choice(PROMPTS),
        max_new_tokens=rng.choice((0, 1, 2, 7, 20, 45)),
        budget=rng.choice((None, 0.0, 0.05, 0.3, 0.8, 1.0)),
        sampling=rng.choice((Sampling(), drawn)),
    )


def with_stop(rng: random.Random, request: Request, alone: Completion) -> Request:
    """The request with stop strings, one of them from what it writes anyway."""
    start = rng.randrange(len(alone.text)) if alone.text else 0
    stop = alone.text[start : start + rng.choice((1, 2, 5))]
    return dataclasses.replace(request, stop=("never there", stop) if stop else ())


def run(
    cascade: Cascade, requests: Sequence[Request], *, rng: random.Random, slots: int
) -> tuple[dict[int, Completion], set[int]]:
    """Completions by index, checked against the streamed pieces; and the indices of the cancelled."""
    queue = cascade.scheduler(slots=slots)
    ids: dict[int, int] = {}
    streamed: dict[int, str] = {}
    done: dict[int, Completion] = {}
    cancelled: set[int] = set()
    left = list(enumerate(requests))
    while left or queue.running or queue.waiting:
        for index, request in left[: rng.choice((0, 0, 1, 3))]:
            ids[queue.add(request)] = index
            left.remove((index, request))
        if ids and rng.random() < 0.05:
            id = rng.choice(list(ids))
            queue.cancel(id)
            cancelled |= {ids[id]} - done.keys()
        for event in queue.step():
            index = ids[event.id]
            assert index not in cancelled
            assert index not in done
            streamed[index] = streamed.get(index, "") + "".join(piece.text for piece in event.pieces)
            if event.completion is not None:
                done[index] = event.completion
                assert streamed[index] == event.completion.text
    return done, cancelled


@pytest.mark.parametrize(
    ("style", "context", "slots", "span"),
    # Far beyond the context, many times; and over a cache's edge, with grouped heads.
    [("gpt2", 24, 9, "word"), pytest.param("llama", 140, 3, "token", marks=pytest.mark.slow)],
)
def test_each_request_is_completed_as_it_is_alone(
    model: Model, monkeypatch: pytest.MonkeyPatch, style: str, context: int, slots: int, span: Span
) -> None:
    cascade = Cascade(model(style, context=context), Slow(), budget=0.3, span=span)
    rng = random.Random(context)
    monkeypatch.setattr(Session, "steps_within", lambda *_: 1)
    requests = [any_request(rng) for _ in range(24)]
    free = [cascade.generate([request])[0] for request in requests]
    requests += [with_stop(rng, request, row) for request, row in zip(requests, free, strict=True)]
    alone = free + [cascade.generate([request])[0] for request in requests[len(free) :]]
    assert {row.finish for row in alone} >= {"length", "stop"}

    monkeypatch.setattr(Session, "steps_within", lambda *_: rng.randint(1, 16))
    monkeypatch.setattr(scheduler.Scheduler, "_ahead", lambda self, _: self._session.steps_within(1))
    compared = 0
    for _ in range(6):
        monkeypatch.setattr(scheduler, "PARKED_SHARE", rng.choice((0.0, 0.5, 1.0)))
        order = rng.sample(range(len(requests)), len(requests))
        done, cancelled = run(cascade, [requests[index] for index in order], rng=rng, slots=slots)
        assert done.keys() | cancelled == set(range(len(requests)))
        assert_same([done[n] for n in sorted(done)], [alone[order[n]] for n in sorted(done)])
        compared += len(done)
    assert compared > 150
