"""What a run says before it starts: one that takes hours on this CPU says so, and how many."""

import re

import numpy as np
import pytest

from configs import slm_150m, slm_tiny
from lacy_jax.checks import parse
from lacy_jax.config import Config, OptimizerConfig, TrainingConfig
from lacy_jax.training import announce, flops
from lacy_jax.training.state import TrainState


@pytest.fixture(autouse=True)
def _steady_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU of 100 GFLOP/s, whatever the machine does besides; a step is said to reach half of it."""
    monkeypatch.setattr(flops, "matmul_flops", lambda: 1e11)


def test_days_on_a_cpu_are_said() -> None:
    said = announce.describe_long_run(parse(slm_150m.get_config()))
    # 153M parameters, 6 FLOPs each and token, attention, and the forward pass again (remat full).
    by_hand = 120_000 * 32 * 1024 * (6 * 153e6 + 6 * 18 * 768 * 1024) * 4 / 3 / 0.5e11 / 3600 / 24
    days = re.search(r"about ([\d,]+) days on this CPU: 120,000 steps", said)
    assert days, said
    assert float(days[1].replace(",", "")) == pytest.approx(by_hand, rel=0.01)
    assert "\n" not in said


def test_a_budget_of_tokens_is_counted_in_steps() -> None:
    config = slm_150m.get_config()
    config.training.update(steps=0, tokens=100 * 32 * 1024 + 1)
    said = announce.describe_long_run(parse(config))
    assert ": 101 steps of " in said
    assert "a shorter run is --config.training.tokens=" in said


def test_a_run_of_minutes_says_nothing() -> None:
    assert announce.describe_long_run(parse(slm_tiny.get_config())) == ""


def after(step: int, *, tokens: int = 0) -> TrainState:
    """A state of which only the counters matter."""
    counts = {"tokens": np.array([0, tokens]), "ground_truth_tokens": np.array([0, tokens])}
    return TrainState(step=np.int32(step), params={}, optimizer=None, **counts)


def run_of(**budget: int) -> Config:
    return Config(optimizer=OptimizerConfig(learning_rate=1.0, warmup_steps=2), training=TrainingConfig(**budget))


def test_a_longer_run_says_that_its_learning_rate_jumps() -> None:
    said = announce.describe_jump(run_of(steps=40), run_of(steps=20), after(20))
    final = OptimizerConfig().final_share
    half = final + (1 - final) / 2  # half of the cosine's way
    assert f"the budget is 40 steps and was 20 steps: the learning rate jumps from {final:.3g} to {half:.3g}" in said
    assert "at step 21" in said
    assert "\n" not in said
    assert "was 20 steps" in announce.describe_jump(run_of(tokens=4_000), run_of(steps=20), after(20, tokens=1_000))


def test_the_same_budget_says_nothing() -> None:
    for budget in ({"steps": 20}, {"tokens": 4_000}, {"ground_truth_tokens": 4_000}):
        assert announce.describe_jump(run_of(**budget), run_of(**budget), after(10, tokens=2_000)) == ""
    # As many tokens as the steps of the earlier budget: the same course.
    assert announce.describe_jump(run_of(tokens=2_000), run_of(steps=20), after(10, tokens=1_000)) == ""
