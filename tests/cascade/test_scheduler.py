"""Requests that come and go, streams, stop strings, and rows that wait while others go on."""

import dataclasses
import itertools
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from lacy_jax.cascade import Cascade, Completion, Counts, Event, Request, Scheduler
from lacy_jax.cascade.budget import CAP_HORIZON
from lacy_jax.cascade.decoding.engine import encode_text
from lacy_jax.cascade.decoding.session import Session
from lacy_jax.cascade.text.extent import complete_extent
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import Score, Span
from lacy_jax.errors import ConfigError
from lacy_jax.model.probe import Probe
from tests.cascade.test_cascade import PROMPTS, Fake, assert_same

Model = Callable[..., LoadedModel]


def drain(scheduler: Scheduler) -> list[Event]:
    events: list[Event] = []
    while scheduler.running or scheduler.waiting:
        events += scheduler.step()
    return events


def completions(events: Sequence[Event]) -> dict[int, Completion]:
    return {event.id: event.completion for event in events if event.completion is not None}


def test_requests_that_come_later_change_nothing(model: Model) -> None:
    cascade = Cascade(model(), Fake(), budget=0.3)
    scheduler, events = cascade.scheduler(slots=3), []
    ids = []
    for prompt in PROMPTS:
        ids.append(scheduler.add(Request(prompt, max_new_tokens=25)))
        for _ in range(4):
            events += scheduler.step()
    done = completions(events + drain(scheduler))
    alone = [cascade.generate([prompt], max_new_tokens=25)[0] for prompt in PROMPTS]
    assert_same([done[id] for id in ids], alone)


def test_events_add_up_to_the_completion(model: Model) -> None:
    scheduler = Cascade(model(), Fake(), budget=0.3).scheduler(slots=4)
    for prompt in PROMPTS:
        scheduler.add(Request(prompt, max_new_tokens=25, stop=("e", "qu")))
    events = drain(scheduler)
    done = completions(events)
    assert len(done) == len(PROMPTS)
    for id, completion in done.items():
        pieces = [piece for event in events if event.id == id for piece in event.pieces]
        assert tuple(pieces) == completion.pieces
        assert "".join(piece.text for piece in pieces) == completion.text
    last = {event.id: event for event in events}
    assert all(event.completion is not None for event in last.values())


def test_stop_strings_end_the_text_before_them(model: Model) -> None:
    cascade = Cascade(model(), Fake(), budget=0.4)
    free = cascade.generate(PROMPTS, max_new_tokens=40)
    for row in free:
        for size in (1, 3):
            # A string of the text itself, from within pieces and across them.
            stop = row.text[len(row.text) // 2 :][:size]
            if not stop:
                continue
            cut = cascade.generate([Request(row.prompt, max_new_tokens=40, stop=(stop, "never there"))])[0]
            assert cut.text == row.text[: row.text.index(stop)]
            assert cut.finish == "stop"
            assert "".join(piece.text for piece in cut.pieces) == cut.text
            assert all(piece.text for piece in cut.pieces)


def test_a_stop_string_in_the_prompt_is_no_stop(model: Model) -> None:
    cascade = Cascade(model(), None)
    free = cascade.generate(["a stop here"], max_new_tokens=8)[0]
    assert cascade.generate([Request("a stop here", max_new_tokens=8, stop=("stop", "re" + free.text[0]))])[0] == free


def test_a_cancelled_request_is_gone_wherever_it_stands(model: Model) -> None:
    release = threading.Event()

    class Slow(Fake):
        def complete(self, texts: Sequence[str]) -> list[str]:
            release.wait(10)
            return super().complete(texts)

    scheduler = Cascade(model(), Slow(), budget=1.0).scheduler(slots=1)
    asked, waiting, kept = (scheduler.add(Request(prompt, max_new_tokens=5)) for prompt in PROMPTS[:3])
    scheduler.step()
    scheduler.cancel(asked)
    scheduler.cancel(waiting)
    scheduler.cancel(99)
    release.set()
    assert set(completions(drain(scheduler))) == {kept}


def test_rows_go_on_while_the_partner_is_asked(model: Model) -> None:
    """One row's question takes long; the rows that do not call are finished before it is answered."""
    answered = threading.Event()

    class Late(Fake):
        def complete(self, texts: Sequence[str]) -> list[str]:
            answered.wait(20)
            return [" Ulm"] * len(texts)

    scheduler = Cascade(model(), Late(), budget=0.0).scheduler(slots=3)
    caller = scheduler.add(Request(PROMPTS[0], max_new_tokens=3, budget=1.0))
    # Alone, so that it is asked at once.
    scheduler.step()
    others = [scheduler.add(Request(prompt, max_new_tokens=12)) for prompt in PROMPTS[1:5]]
    done: dict[int, Completion] = {}
    while len(done) < len(others):
        done |= completions(scheduler.step())
    assert set(done) == set(others)
    answered.set()
    assert completions(drain(scheduler))[caller].counts.delegated >= 3


def test_a_row_that_waits_is_asked_for_also_beside_rows_that_never_call(model: Model) -> None:
    partner = Fake(lambda _: " Ulm")
    scheduler = Cascade(model(), partner, budget=0.0).scheduler(slots=8)
    caller = scheduler.add(Request(PROMPTS[0], max_new_tokens=1, budget=1.0))
    done: dict[int, Completion] = {}
    lengths = itertools.cycle(range(40, 140, 17))  # never many that end in one round
    for _ in range(40):
        while scheduler.running + scheduler.waiting < 8:  # there are always others
            scheduler.add(Request(PROMPTS[1], max_new_tokens=next(lengths)))
        done |= completions(scheduler.step())
    assert done[caller].text == " Ulm"


def test_a_partner_that_hangs_costs_its_rows_their_answers_and_no_more(model: Model) -> None:
    ended = threading.Event()

    class Hangs(Fake):
        def complete(self, texts: Sequence[str]) -> list[str]:
            ended.wait()
            return [" late"] * len(texts)

    cascade = Cascade(model(), Hangs(), budget=0.5, timeout=0.2)
    rows = cascade.generate(PROMPTS, max_new_tokens=20)
    alone = Cascade(model(), None).generate(PROMPTS, max_new_tokens=20)
    assert [row.text for row in rows] == [row.text for row in alone]
    assert all(row.counts.fallbacks == row.counts.calls > 0 for row in rows)
    assert cascade.partner is not None
    assert cascade.partner.statistics.late == sum(row.counts.calls for row in rows)
    ended.set()  # until here it has hung, and nobody has waited for it


def test_a_budget_of_its_own_for_each_request(model: Model) -> None:
    cascade = Cascade(model(), Fake(lambda _: " Ulm"), budget=0.22)
    shares = (0.0, 0.1, 0.5, 1.0)
    rows = cascade.generate([Request("The river", max_new_tokens=200, budget=share) for share in shares])
    assert [row.counts.share for row in rows] == pytest.approx(list(shares), abs=0.05)


def test_a_shared_account_keeps_the_budget_over_all_rows(model: Model) -> None:
    cascade = Cascade(model(), Fake(lambda _: "x"), budget=0.22, account="shared")
    rows = cascade.generate([f"{number} rivers" for number in range(50)], max_new_tokens=25, batch_size=8)
    counts = sum((row.counts for row in rows), start=Counts())
    assert counts.generated >= 1000
    assert counts.share == pytest.approx(0.22, abs=0.01)
    # Rows may differ: that is what it is for.
    assert np.std([row.counts.share for row in rows]) > 0.01


@pytest.mark.parametrize("price", [0.0, 1.0])
def test_at_a_price_a_shared_account_is_a_cap_over_all_rows(model: Model, price: float) -> None:
    """Spent where the price allows it, and never for its own sake."""
    cascade = Cascade(model(), Fake(lambda _: "x"), budget=0.22, account="shared", policy="price", price=price)
    rows = cascade.generate([f"{number} rivers" for number in range(50)], max_new_tokens=25, batch_size=8)
    counts = sum((row.counts for row in rows), start=Counts())
    most = 0.22 * (counts.generated + CAP_HORIZON) + 8  # each of the rows at work may be at its last call
    assert (counts.delegated == 0) if price else (0.22 * counts.generated <= counts.delegated <= most)


@pytest.mark.parametrize("score", ["call_score", "uncertainty"])
def test_a_threshold_calls_wherever_the_score_is_above_it(model: Model, score: Score) -> None:
    free = Cascade(model(), None, score=score).generate(["The river"], max_new_tokens=60)[0]
    middle = float(np.median([piece.score for piece in free.pieces]))
    cascade = Cascade(model(), Fake(lambda _: "x"), score=score, threshold=middle)
    row = cascade.generate(["The river"], max_new_tokens=60)[0]
    # A token in the middle of a character is nobody else's: broken ones and those after them do not count here.
    texts = ["", *(piece.text for piece in row.pieces)]
    whole = [piece for before, piece in zip(texts, row.pieces, strict=False) if "\ufffd" not in before + piece.text]
    assert {piece.source for piece in whole if piece.score > middle} == {"partner"}
    assert {piece.source for piece in whole if piece.score <= middle} == {"slm"}


@pytest.mark.parametrize("score", ["call_score", "call_probability", "uncertainty"])
def test_a_price_is_a_probability_and_the_budget_is_the_most_that_is_spent(model: Model, score: Score) -> None:
    free = Cascade(model(), None, score=score).generate(["The river"], max_new_tokens=60)[0]
    middle = float(np.median([piece.score for piece in free.pieces]))
    price = 1 / (1 + np.exp(-middle)) if score == "call_score" else middle
    same = Cascade(model(), Fake(lambda _: "x"), score=score, threshold=middle).generate(["The river"])[0]
    priced = Cascade(model(), Fake(lambda _: "x"), score=score, policy="price", price=float(price), budget=1.0)
    row = priced.generate(["The river"])[0]
    assert [(piece.text, piece.source) for piece in row.pieces] == [(p.text, p.source) for p in same.pieces]
    assert row.counts.delegated > 0
    unpriced = Cascade(model(), Fake(lambda _: "x"), score=score, budget=1.0)
    asked = unpriced.generate([Request("The river", price=float(price))])[0]  # a request's own price
    assert [(piece.text, piece.source) for piece in asked.pieces] == [(p.text, p.source) for p in row.pieces]
    capped = priced.generate([Request("The river", max_new_tokens=200, budget=0.01)])[0]
    assert capped.counts.delegated <= 0.01 * (200 + CAP_HORIZON) + 1
    assert priced.generate([Request("The river", budget=0.0)])[0].counts.calls == 0


def test_at_a_price_what_is_not_answered_is_not_asked_again_within_its_phrase(model: Model) -> None:
    silent, prompt = Fake(lambda _: ""), "The river"
    priced = Cascade(model(), silent, policy="price", price=0.0, budget=1.0)
    row = priced.generate([prompt], max_new_tokens=120)[0]
    asked = [len(text) for (text,) in silent.batches]
    expected, text, last = list[int](), prompt, None
    for piece in row.pieces:
        if last is None or complete_extent(text[last:], span="phrase", ended=False) is not None:
            expected.append(len(text))
            last = len(text)
        text += piece.text
    assert asked == expected
    assert 1 < len(asked) == row.counts.fallbacks < len(row.pieces)
    quantile = Cascade(model(), Fake(lambda _: ""), policy="quantile", budget=1.0)
    assert quantile.generate([prompt], max_new_tokens=120)[0].counts.calls > len(asked)  # the paper's asks again


def test_a_price_needs_a_probability(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"^price: the score entropy is no probability; take one of "):
        Cascade(model(), None, score="entropy", policy="price")
    scheduler = Cascade(model(), Fake(), score="entropy").scheduler()
    with pytest.raises(ConfigError, match=r"^price: the score entropy is no probability; take one of "):
        scheduler.add(Request("The river", price=0.3))
    with pytest.raises(ConfigError, match=r"^price=1.5: allowed is a probability, 0 to 1"):
        Request("The river", price=1.5)


def test_an_oracle_calls_where_it_says(model: Model) -> None:
    asked: list[tuple[str, str]] = []

    def oracle(text: str, own: str) -> bool:
        asked.append((text, own))
        return text.endswith("r")

    cascade = Cascade(model(), Fake(lambda _: " r"), score="oracle", oracle=oracle, threshold=0.5)
    row = cascade.generate(["The river"], max_new_tokens=10)[0]
    assert {piece.source for piece in row.pieces} == {"partner"}
    assert all(text.startswith("The river") and isinstance(own, str) for text, own in asked)


@pytest.mark.parametrize("score", ["uncertainty", "call_score", "entropy", "call_probability", "factual"])
def test_a_gate_weighs_the_score_by_the_probability_of_a_fact(
    model: Model, rng: np.random.Generator, score: Score
) -> None:
    plain = model()
    probe = Probe(weights=tuple(0.1 * rng.normal(size=plain.model.width)), bias=0.0)
    loaded = dataclasses.replace(plain, factual_probe=probe)
    row = Cascade(loaded, None, score=score, gate="factual").generate(["The river"], max_new_tokens=1)[0]
    step = Session(Cascade(loaded, None)._engine, slots=1).steps({0: encode_text(loaded.tokenizer, "The river")})[0][0]
    probability = 1 / (1 + np.exp(-step.call_score))
    gated = {
        "uncertainty": step.factual * step.uncertainty,
        "entropy": step.factual * step.entropy,
        "call_score": step.call_score + np.log(step.factual),
        "call_probability": step.factual * probability,
        "factual": step.factual,
    }
    assert 0.001 < step.factual < 0.999
    assert row.pieces[0].score == pytest.approx(gated[score], rel=1e-5)


def test_settings_that_do_not_go_together(model: Model) -> None:
    with pytest.raises(ConfigError, match="oracle"):
        Cascade(model(), None, score="oracle")
    with pytest.raises(ConfigError, match="gate='factual': "):
        Cascade(model(), None, gate="factual")
    with pytest.raises(ConfigError, match="score='factual': "):
        Cascade(model(), None, score="factual")
    with pytest.raises(ConfigError, match="max_new_tokens=-1"):
        Request("x", max_new_tokens=-1)
    with pytest.raises(ConfigError, match="budget=2"):
        Request("x", budget=2.0)
    with pytest.raises(ConfigError, match="stop"):
        Request("x", stop=("",))


def test_auto_asks_by_uncertainty_where_no_call_was_learned(model: Model) -> None:
    loaded = model()
    config = dataclasses.replace(loaded.config, objective=dataclasses.replace(loaded.config.objective, rule="none"))
    untaught = dataclasses.replace(loaded, config=config)
    assert Cascade(loaded, None)._calling.score == "call_score"
    assert Cascade(untaught, None)._calling.score == "uncertainty"


def test_the_slm_does_not_go_on_with_a_partners_word_or_number(model: Model) -> None:
    def after_numbers(span: Span) -> list[str]:
        texts = []
        for seed in range(4):
            cascade = Cascade(model(seed=seed), Fake(lambda _: " 1879"), budget=0.3, span=span)
            texts += [row.text for row in cascade.generate(PROMPTS, max_new_tokens=40)]
        return [text[at + 5 : at + 6] for text in texts for at in range(len(text)) if text.startswith(" 1879", at)]

    whole, parts = after_numbers("word"), after_numbers("token")
    assert len(whole) > 50
    assert not any(character.isalnum() and character.isascii() for character in whole)
    # With pieces that may be parts of words it does.
    assert any(character.isalnum() for character in parts)
