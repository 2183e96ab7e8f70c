"""Who calls: a running quantile of the call score, kept on its budget by feedback; or a fixed threshold.

The budget is a share of TOKENS, counted in SLM tokens: delegated tokens / generated tokens. A partner's
piece that becomes four SLM tokens spends four. A call that the partner could not answer spends one: it was
paid for, and a partner that is away must not be asked more and more often.

Every row keeps its own state, so that a row's text does not depend on which rows run beside it (unless rows are
asked to share one). Everything here is a pure function of that state, on the host.

Each score is ranked among the row's last `window` scores (itself included). Its place, counted from the
top, is a number in [0, 1) that is uniform when scores come in no particular order, whatever their
distribution (the smoothed p-value of conformal prediction, Vovk et al. 2005, section 2.4). The row calls
when its place is below the effective budget, which is the same as a score above the (1 - effective budget)
quantile, but exact for short histories and for ties.
"""

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from lacy_jax.errors import ConfigError

# Tokens within which what is owed is made up for. The row never owes more than this many tokens, whatever its
# scores do: less than a point over 1,000 tokens. Shorter would be stricter still; longer would let more facts of a
# cluster be asked together (docs/cascade.md has figures).
HORIZON = 8.0
# How many scores of its own a warm start is worth.
WARM_SCORES = 32
# The first guess of what a call spends, and how many calls the guess is worth.
FIRST_COST = 1.5
FIRST_COST_CALLS = 2.0
# With a price, tokens that a row may have spent before it has earned them: facts may stand together at its beginning.
CAP_HORIZON = 64.0
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Budget:
    """What share of the tokens is delegated, and how many past scores rank a new one.

    With a `threshold` a row calls wherever its score is above it. The share is then what comes of it, or with
    cap="share" also the most that is delegated, within CAP_HORIZON tokens.

    Raises:
        ConfigError: either is out of range.
    """

    share: float
    window: int = 512
    threshold: float | None = None
    cap: Literal["none", "share"] = "none"

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise ConfigError(f"budget={self.share}: allowed is a share, 0 (never call) to 1 (always call)")
        if self.window < 1:
            raise ConfigError(f"window={self.window}: allowed is 1 or more scores")


class BudgetState(NamedTuple):
    """One row's account. `scores`: the last `window`, in float32's precision, oldest first; the rest are counts.

    ranked: the same scores, ascending. Tuples, not arrays: a decision touches a few hundred numbers at most, once a
    token and row, and NumPy would take longer to be called.
    """

    scores: tuple[float, ...] = ()
    ranked: tuple[float, ...] = ()
    decisions: int = 0
    calls: int = 0
    generated: int = 0
    spent: int = 0


def start(budget: Budget, *, warm_scores: Sequence[float] = ()) -> BudgetState:
    """A fresh row. `warm_scores`: quantiles of the call score on validation text, ascending, if known."""
    known = np.asarray(warm_scores, np.float32)
    known = np.sort(known[np.isfinite(known)])
    if not known.size:
        return BudgetState()
    count = min(WARM_SCORES, budget.window)
    levels = (np.arange(count) + 0.5) / count
    spread = np.interp(levels, np.linspace(0.0, 1.0, known.size), known).astype(np.float32)
    # In a scattered order: the oldest leave first, and must not be the lowest.
    scattered = spread[np.argsort((np.arange(count) * _GOLDEN) % 1.0)]
    return BudgetState(scores=tuple(scattered.tolist()), ranked=tuple(spread.tolist()))


def effective_share(budget: Budget, state: BudgetState, *, left: float = math.inf) -> float:
    """The share of decisions that should call now, float in [0, 1]; `left`: tokens that the row may still have.

    If a call spends c tokens, calling on a share p of the decisions delegates pc / (pc + 1 - p) of the
    tokens; solved for p at the budget. What is owed from before (in tokens) is made up within HORIZON, or before the
    row ends. What a call spends beyond one token is saved for before: a row that ends cannot pay it back.
    """
    if budget.share in (0.0, 1.0):
        return budget.share
    cost = (FIRST_COST_CALLS * FIRST_COST + state.spent) / (FIRST_COST_CALLS + state.calls)
    level = budget.share / (budget.share + cost * (1.0 - budget.share))
    owed = budget.share * state.generated - state.spent
    saved = (cost - 1.0) * (1.0 - budget.share)
    return min(max(level + (owed - saved) / min(HORIZON, max(left, 1.0)), 0.0), 1.0)


def expected_rate(budget: Budget, state: BudgetState, *, left: float = math.inf) -> float:
    """What share of its next decisions a row will call at, float in [0, 1]: exact in the mean, but for a threshold."""
    if budget.threshold is None:
        return effective_share(budget, state, left=left)
    return (1 + state.calls) / (4 + state.decisions)


def place_from_top(ranked: Sequence[float], score: float, *, tie_breaker: float) -> float:
    """Where `score` stands among ascending scores and itself: 0 is the top, below 1; `tie_breaker` splits ties."""
    above = len(ranked) - bisect_right(ranked, score)
    ties = len(ranked) - above - bisect_left(ranked, score) + 1
    return (above + tie_breaker * ties) / (len(ranked) + 1)


def decide(budget: Budget, state: BudgetState, score: float, *, left: float = math.inf) -> tuple[BudgetState, bool]:
    """Whether the row calls at a position of this score, and the state with the score remembered.

    left: tokens that the row may still have, where that is known.
    """
    score = float(np.float32(score)) if math.isfinite(score) else -math.inf
    # Evenly spread over [0, 1) and a function of the position only: the same text gets the same calls.
    tie_breaker = ((state.decisions + 1) * _GOLDEN) % 1.0
    if budget.threshold is None:
        share = effective_share(budget, state, left=left)
        call = place_from_top(state.ranked, score, tie_breaker=tie_breaker) < share
    else:
        call = score > budget.threshold and _within_cap(budget, state)
    scores, ranked = (*state.scores, score), list(state.ranked)
    insort(ranked, score)
    if len(scores) > budget.window:
        del ranked[bisect_left(ranked, scores[0])]
        scores = scores[1:]
    return BudgetState(
        scores, tuple(ranked), state.decisions + 1, state.calls + call, state.generated, state.spent
    ), call


def _within_cap(budget: Budget, state: BudgetState) -> bool:
    if budget.cap == "none" or budget.share in (0.0, 1.0):
        return budget.cap == "none" or budget.share == 1.0
    return state.spent < budget.share * (state.generated + CAP_HORIZON)


def account(state: BudgetState, *, generated: int, spent: int) -> BudgetState:
    """The state after `generated` tokens entered the text, for `spent` of which the partner was asked."""
    return state._replace(generated=state.generated + generated, spent=state.spent + spent)
