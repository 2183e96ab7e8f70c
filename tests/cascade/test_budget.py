"""The budget on synthetic score streams: the share it realises, what it chooses, and a brute-force account."""

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.budget import clustered, iid
from lacy_jax.cascade import budget as budgets
from lacy_jax.cascade.budget import Budget, BudgetState
from lacy_jax.errors import ConfigError

Stream = Callable[[np.random.Generator, int], np.ndarray]
NORMAL_QUANTILES = np.quantile(np.random.default_rng(1).normal(size=4000), np.linspace(0, 1, 65)).tolist()


STREAMS: dict[str, Stream] = {
    "iid": iid,
    "clustered": clustered,
    "rising": lambda rng, n: rng.normal(size=n) + np.arange(n) / 20,
    "falling": lambda rng, n: rng.normal(size=n) - np.arange(n) / 20,
    "waves": lambda rng, n: rng.normal(size=n) + 3 * np.sin(np.arange(n) / 30),
    "ties": lambda rng, n: np.round(rng.normal(size=n)),
    "constant": lambda _, n: np.zeros(n),
    "infinite": lambda rng, n: np.where(rng.random(n) < 0.5, -np.inf, np.nan),
}


def run(
    scores: np.ndarray, budget: Budget, *, tokens: int, cost: Callable[[], int], warm: list[float] | None = None
) -> tuple[BudgetState, list[bool]]:
    """Generates at least `tokens` tokens; a call makes `cost()` of them, any other step one."""
    state, calls = budgets.start(budget, warm_scores=warm or ()), []
    for score in scores:
        state, call = budgets.decide(budget, state, float(score), left=tokens - state.generated)
        made = cost() if call else 1
        state = budgets.account(state, generated=made, spent=made if call else 0)
        calls.append(call)
        if state.generated >= tokens:
            break
    return state, calls


@pytest.mark.parametrize("share", [0.05, 0.22, 0.5, 0.8])
@pytest.mark.parametrize("name", sorted(STREAMS))
@pytest.mark.parametrize("mean_cost", [1, 2])
def test_share_of_tokens_within_a_point_over_1000(
    rng: np.random.Generator, name: str, share: float, mean_cost: int
) -> None:
    for _ in range(3):
        scores = STREAMS[name](rng, 1000)
        state, _ = run(scores, Budget(share), tokens=1000, cost=lambda: int(rng.geometric(1 / mean_cost)))
        assert state.spent / state.generated == pytest.approx(share, abs=0.01)


# With pieces of several tokens at 0.05 a call or two are all that a row of 64 may spend, of a size not known before.
@pytest.mark.parametrize(("share", "most"), [(0.05, 1), (0.22, 1), (0.8, 1), (0.22, 3), (0.8, 3)])
@pytest.mark.parametrize("warm", [0.0, 1.0, None])
@pytest.mark.parametrize("name", ["iid", "clustered", "waves", "ties"])
def test_share_over_many_short_rows(
    rng: np.random.Generator, name: str, warm: float | None, share: float, most: int
) -> None:
    """Also where validation scores, which start the quantile, are higher than those met."""
    quantiles = None if warm is None else [score + warm for score in NORMAL_QUANTILES]
    states = []
    for _ in range(64):
        scores = STREAMS[name](rng, 64)
        cost = lambda: int(rng.integers(1, most + 1))  # noqa: E731
        states.append(run(scores, Budget(share), tokens=64, cost=cost, warm=quantiles)[0])
    realised = sum(state.spent for state in states) / sum(state.generated for state in states)
    assert realised == pytest.approx(share, abs=0.01)


def test_share_holds_from_the_first_row_on(rng: np.random.Generator) -> None:
    for row in range(20):
        state, _ = run(rng.normal(size=100) + row, Budget(0.22), tokens=100, cost=lambda: 1, warm=NORMAL_QUANTILES)
        assert state.spent / state.generated == pytest.approx(0.22, abs=0.1)


@pytest.mark.parametrize(("share", "calls"), [(0.0, False), (1.0, True)])
@pytest.mark.parametrize("name", sorted(STREAMS))
def test_never_and_always(rng: np.random.Generator, share: float, calls: bool, name: str) -> None:
    _, decisions = run(STREAMS[name](rng, 200), Budget(share), tokens=200, cost=lambda: 3, warm=NORMAL_QUANTILES)
    assert set(decisions) == {calls}


def test_high_scores_are_the_ones_that_call(rng: np.random.Generator) -> None:
    scores = rng.normal(size=2000)
    _, calls = run(scores, Budget(0.22), tokens=2000, cost=lambda: 1)
    best = np.sort(scores)[-sum(calls) :].mean()
    assert scores[calls].mean() > 0.9 * best


def test_decisions_equal_a_brute_force_account(rng: np.random.Generator) -> None:
    """The same rule written out with lists and fractions of tokens, at every step."""
    share, window, cost = 0.3, 40, 2
    budget, state = Budget(share, window=window), None
    state = budgets.start(budget)
    history: list[float] = []
    generated = delegated = calls = 0
    for step in range(400):
        score = float(np.float32(np.round(rng.normal(), 1)))
        mean_cost = (2 * 1.5 + delegated) / (2 + calls)
        level = share / (share + mean_cost * (1 - share))
        left = 700 - generated
        owed = share * generated - delegated - (mean_cost - 1) * (1 - share)
        effective = min(1.0, max(0.0, level + owed / max(1, min(8, left))))
        higher = len([s for s in history if s > score])
        equal = len([s for s in history if s == score]) + 1
        place = (higher + ((step + 1) * (5**0.5 - 1) / 2 % 1) * equal) / (len(history) + 1)
        state, call = budgets.decide(budget, state, score, left=left)
        assert call == (place < effective)
        history = [*history, score][-window:]
        made = cost if call else 1
        generated, delegated, calls = generated + made, delegated + made * call, calls + call
        state = budgets.account(state, generated=made, spent=made * call)
    assert (state.generated, state.spent, state.calls) == (generated, delegated, calls)


@pytest.mark.parametrize("name", ["iid", "clustered", "rising", "falling", "waves"])
@pytest.mark.parametrize("share", [0.05, 0.22, 0.6])
def test_a_price_calls_above_it_and_its_cap_is_the_most_that_is_spent(
    rng: np.random.Generator, name: str, share: float
) -> None:
    scores, budget = STREAMS[name](rng, 4000), Budget(share=share, threshold=0.5, cap="share")
    _, calls = run(scores, budget, tokens=3000, cost=lambda: 3)
    generated = spent = 0
    for score, call in zip(scores, calls, strict=False):
        room = spent < share * (generated + budgets.CAP_HORIZON)
        assert call == (score > 0.5 and room)
        generated, spent = generated + (3 if call else 1), spent + (3 if call else 0)
        assert spent <= share * (generated + budgets.CAP_HORIZON) + 3
    high, _ = run(scores, Budget(share=1.0, threshold=1e9, cap="share"), tokens=500, cost=lambda: 1)
    assert high.calls == 0  # nothing is spent for its own sake
    never, _ = run(scores, Budget(share=0.0, threshold=-1e9, cap="share"), tokens=500, cost=lambda: 1)
    assert never.calls == 0


def test_the_place_is_a_running_quantile(rng: np.random.Generator) -> None:
    scores = rng.normal(size=511)
    for effective in (0.1, 0.22, 0.7):
        threshold = np.quantile(scores, 1 - effective)
        for score in rng.normal(size=200):
            place = budgets.place_from_top(np.sort(scores).tolist(), score, tie_breaker=0.5)
            if abs(place - effective) > 1 / 512:  # the two definitions may differ by one rank
                assert (place < effective) == (score > threshold)


def test_a_warm_start_ranks_the_first_score() -> None:
    budget = Budget(0.22)
    for score, expected in ((3.0, True), (-3.0, False)):
        assert budgets.decide(budget, budgets.start(budget, warm_scores=NORMAL_QUANTILES), score)[1] is expected


def test_a_warm_start_keeps_its_distribution_as_it_leaves() -> None:
    budget = Budget(0.22, window=64)
    state = budgets.start(budget, warm_scores=np.linspace(0, 1, 101).tolist())
    warm = len(state.scores)
    for _ in range(64 - warm // 2):
        state, _ = budgets.decide(budget, state, 100.0)
    left = np.array([score for score in state.scores if score < 50])
    assert len(left) == warm // 2
    assert left.mean() == pytest.approx(0.5, abs=0.05)
    assert left.std() == pytest.approx(0.29, abs=0.05)


def test_state_stays_small_and_ranks_what_it_holds(rng: np.random.Generator) -> None:
    budget = Budget(0.22, window=16)
    state = budgets.start(budget)
    for score in rng.normal(size=100):
        state, _ = budgets.decide(budget, state, float(score))
        assert sorted(state.scores) == list(state.ranked)
    assert len(state.scores) == 16


@pytest.mark.parametrize(
    ("share", "window", "named"),
    [(1.2, 512, "1.2"), (-0.1, 512, "-0.1"), (float("nan"), 512, "nan"), (0.2, 0, "window")],
)
def test_what_is_refused(share: float, window: int, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Budget(share, window=window)
