"""The table of scores: formulas against the C library's arithmetic and NumPy's, to the last bit."""

import math
from typing import get_args

import numpy as np
import pytest

from lacy_jax.cascade.decoding.engine import Step
from lacy_jax.cascade.scores import CALL_SCORES, LEAST_GATE, score_of
from lacy_jax.config import CascadeConfig, Score, ScoreSetting


def random_steps(rng: np.random.Generator, count: int) -> list[Step]:
    """What `Session.steps` gives: floats of float32's precision, also far beyond where exponentials overflow."""
    values = rng.normal(size=(count, 6)).astype(np.float32) * np.float32([20, 20, 1, 3, 1, 3])
    values[:, 2], values[:, 4] = rng.random((2, count))
    values[:, 3] = np.abs(values[:, 3])
    values[:, 3] = np.abs(values[:, 3])
    values[:8, 0] = [0.0, -0.0, 88.0, -88.0, 1e4, -1e4, 1e-30, 14.0]
    values[:4, 4] = [0.0, 1.0, 1e-38, 0.5]
    values[:6, 5] = [0.0, 1e-6, 20.0, -30.0, 200.0, -200.0]
    return [Step(7, *row) for row in values.tolist()]


def expected(name: str, step: Step, gate: float) -> float:
    """The formulas of docs/cascade.md by the C library."""
    return {
        "call_score": lambda: step.call_score + math.log(max(gate, 1e-30)),
        "call_logit": lambda: step.call_logit + math.log(max(gate, 1e-30)),
        "call_probability": lambda: gate * 0.5 * (1.0 + math.tanh(0.5 * step.call_score)),
        "uncertainty": lambda: gate * step.uncertainty,
        "entropy": lambda: gate * step.entropy,
        "factual": lambda: step.factual,
        "expected_saving": lambda: (gate if step.saving > 0 else 1.0) * -math.expm1(min(-step.saving, 80.0)),
    }[name]()


def test_the_table_has_the_names_that_settings_may_have() -> None:
    assert {*CALL_SCORES} == {*get_args(Score)} == {*get_args(ScoreSetting)} - {"auto"}
    assert all(score.ranks_as is None or score.ranks_as in CALL_SCORES for score in CALL_SCORES.values())
    assert len({score.title for score in CALL_SCORES.values()}) == len(CALL_SCORES)
    assert CascadeConfig().score == "auto"


@pytest.mark.parametrize("name", CALL_SCORES)
def test_of_one_token_to_the_last_bit(rng: np.random.Generator, name: Score) -> None:
    for step in random_steps(rng, 500):
        assert score_of(name, step._asdict(), gate="none") == expected(name, step, 1.0)
        assert score_of(name, step._asdict(), gate="factual") == expected(name, step, step.factual)


@pytest.mark.parametrize("name", CALL_SCORES)
@pytest.mark.parametrize("gate", ["none", "factual"])
def test_of_many_tokens_as_of_each(rng: np.random.Generator, name: Score, gate: str) -> None:
    steps = random_steps(rng, 500)
    arrays = {field: np.array([getattr(step, field) for step in steps], np.float32) for field in Step._fields[1:]}
    kept = {field: values.copy() for field, values in arrays.items()}
    found = score_of(name, arrays, gate=gate)  # type: ignore[arg-type]
    each = [expected(name, step, step.factual if gate == "factual" else 1.0) for step in steps]
    np.testing.assert_allclose(found, each, rtol=1e-5, atol=1e-6)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float32
    for field, values in arrays.items():
        np.testing.assert_array_equal(values, kept[field])


def test_a_shut_gate_leaves_a_finite_score() -> None:
    said = {"call_score": 2.0, "factual": 0.0}
    assert score_of("call_score", said, gate="factual") == 2.0 + math.log(LEAST_GATE)


def test_what_ranks_as_another_does(rng: np.random.Generator) -> None:
    """Only the sign of a difference matters to a budget; in float32 far scores become equal, never reversed."""
    steps = random_steps(rng, 300)
    for name, score in CALL_SCORES.items():
        if score.ranks_as is not None:
            pairs = sorted((score_of(score.ranks_as, s._asdict(), gate="none"), s) for s in steps)
            values = [score_of(name, step._asdict(), gate="none") for _, step in pairs]
            assert values == sorted(values)
