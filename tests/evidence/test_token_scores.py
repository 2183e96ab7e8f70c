"""Scores of every held-out token against a plain float64 loop over the documents, and against the cascade's own."""

import dataclasses
import itertools
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from lacy_jax.checkpoints.loading import load_model
from lacy_jax.data.documents import Spans, full_text
from lacy_jax.data.prepared import Prepared
from lacy_jax.evidence import token_scores
from lacy_jax.evidence.reading import OTHER
from lacy_jax.evidence.token_scores import TokenScores
from lacy_jax.measures import intervals, separation
from lacy_jax.model import decoder
from lacy_jax.model.probe import Probe


def test_every_token_is_scored_as_by_a_plain_loop(small_run: Path, small_data: Prepared) -> None:
    slm = load_model(str(small_run))
    weights = np.random.default_rng(0).normal(size=slm.model.width)
    slm = dataclasses.replace(slm, factual_probe=Probe(weights=tuple(weights), bias=-1.0))
    # Spans by hand: the context holds too little of a document for spaCy to mark several kinds in it.
    no = np.zeros(2, bool)
    spans = Spans(np.array([2, 20]), np.array([9, 31]), ("PERSON", "DATE"), subject=no, repeated=no)
    documents = [(document, spans) for document, _ in itertools.islice(small_data.validation_documents(), 3)]
    found = token_scores.score_documents(slm, documents)
    matrix = np.asarray(decoder.output_matrix(slm.params), np.float64).T
    call = slm.tokenizer.call_id
    kinds: list[str] = []
    rows: list[dict[str, float]] = []
    ranks: list[tuple[int, int]] = []  # the lowest and the highest, as rounding may decide
    for document, spans in documents:
        text = full_text(document)
        encoding = slm.tokenizer.encode(text)
        ids = [slm.tokenizer.start_id, *encoding.ids.tolist()][: slm.model.context + 1]
        hidden = np.asarray(decoder.forward(slm.params, jnp.array([ids[:-1]]), config=slm.model), np.float64)[0]
        for at, target in enumerate(ids[1:]):
            logits = hidden[at] @ matrix
            p = np.exp(logits[:call]) / np.exp(logits[:call]).sum()
            gate = 1 / (1 + np.exp(1.0 - hidden[at] @ weights))
            call_score = logits[call] - np.log(np.exp(logits[:call]).sum())
            row = {"nll": -np.log(p[target]), "wrong": p.argmax() != target, "factual": gate}
            row |= {"uncertainty": 1 - p.max(), "entropy": -(p * np.log(p)).sum()}
            row |= {"call_score": call_score, "call_logit": logits[call]}
            row |= {f"{name}, gated": row[name] * gate for name in ("uncertainty", "entropy")}
            row |= {f"{name}, gated": row[name] + np.log(gate) for name in ("call_score", "call_logit")}
            rows.append(row)
            lead = np.log(p) - np.log(p[target])
            ranks.append((1 + int((lead > 1e-4).sum()), int((lead > -1e-4).sum())))
            covered = [
                kind
                for start, end, kind in zip(spans.starts, spans.ends, spans.kinds, strict=True)
                if text[max(start, encoding.starts[at]) : min(end, encoding.ends[at])].strip()
            ]
            kinds.append(covered[0] if covered else OTHER)
    assert found.kinds.tolist() == kinds
    assert len({*kinds}) > 2
    for name in rows[0]:
        own = getattr(found, name) if name in ("nll", "wrong") else found.scores[name]
        np.testing.assert_allclose(own, [row[name] for row in rows], atol=2e-3, err_msg=name)
    assert {*found.scores} == {*rows[0]} - {"nll", "wrong"}
    assert all(low <= rank <= high for rank, (low, high) in zip(found.rank, ranks, strict=True))
    assert np.ptp(found.rank) > 50
    assert ((found.rank == 1) == ~found.wrong).all()


def test_a_gate_that_is_shut_ranks_as_in_the_cascade(small_run: Path) -> None:
    slm = load_model(str(small_run))
    names = ("uncertainty", "entropy", "call_score", "call_logit")
    values = {"factual": np.zeros(2, np.float32)} | {name: np.ones(2, np.float32) for name in names}
    gated = token_scores.cascade_scores(slm, values)["call_score, gated"]
    np.testing.assert_allclose(gated, 1 + np.log(1e-30), rtol=1e-5)


def test_separation_and_classes_by_hand() -> None:
    kinds = np.array(["DATE", "other", "GPE", "other", "DATE"])
    wrong = np.array([True, True, False, False, True])
    scores = np.array([0.9, 0.8, 0.3, 0.1, 0.2])
    tokens = TokenScores(
        kinds, np.zeros(5, np.int64), np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.ones(5, int), wrong, {"s": scores}
    )
    found = token_scores.separate(tokens, "s", budget=0.4)
    assert found is not None
    # Pairs in order: facts 0.9, 0.3, 0.2 against 0.8, 0.1; wrong 0.9, 0.8, 0.2 against 0.3, 0.1; both 0.9, 0.2.
    assert (found.area_factual, found.area_wrong, found.area_both) == pytest.approx((4 / 6, 5 / 6, 4 / 6))
    assert (found.precision, found.recall) == (0.5, 0.5)
    assert found.called == {"DATE": 0.5, "other": 0.5}
    assert token_scores.nll_by_kind(tokens) == {"DATE": 3.0, "GPE": 3.0, "other": 3.0, "factual": 3.0, "all": 3.0}
    assert token_scores.separate(dataclasses.replace(tokens, wrong=~wrong & False), "s", budget=0.4) is None


def test_intervals_are_those_of_documents_drawn_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "RESAMPLES", 60)
    random, size = np.random.default_rng(3), 400
    documents = np.sort(random.integers(12, size=size))
    kinds = np.where(random.random(size) < 0.3, "DATE", "other")
    scores = np.round(random.normal(size=size) + (kinds == "DATE"), 1)  # with ties
    nll, wrong = random.random(size), random.random(size) < 0.6
    tokens = TokenScores(kinds, documents, nll, np.ones(size, int), wrong, {"s": scores})
    found = token_scores.token_intervals(tokens, budget=0.22)["s"]

    whole = token_scores.separate(tokens, "s", budget=0.22)
    assert whole is not None
    by_kind = token_scores.nll_by_kind(tokens)
    estimates = (by_kind["factual"], by_kind["other"], whole.area_both, whole.precision, whole.recall)
    assert [each.estimate for each in found.values()] == pytest.approx(estimates)
    threshold = np.sort(scores)[-round(0.22 * size)]
    drawn = []
    for counts in np.concatenate([*intervals.resamples(12)]):
        rows = np.concatenate([np.flatnonzero(documents == d) for d in np.repeat(np.arange(12), counts)])
        factual, both = tokens.factual[rows], (tokens.factual & tokens.wrong)[rows]
        called, nll = scores[rows] >= threshold, tokens.nll[rows]
        curve = separation.roc_curve(scores[rows], both)
        assert curve is not None
        drawn.append((nll[factual].mean(), nll[~factual].mean(), curve.area, both[called].mean(), called[both].mean()))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    np.testing.assert_allclose([each.low for each in found.values()], low, rtol=1e-12)
    np.testing.assert_allclose([each.high for each in found.values()], high, rtol=1e-12)
