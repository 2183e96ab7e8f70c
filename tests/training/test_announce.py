"""What a run says before it starts: one that takes hours on this CPU says so, and how many."""

import re

import pytest

from configs import slm_150m, slm_tiny
from lacy_jax.checks import parse
from lacy_jax.training import announce, flops


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
