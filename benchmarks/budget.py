"""How well the budget holds over many short rows, and how well it chooses, on simulated scores.

    python -m benchmarks.budget [--rows=160] [--length=64]

Scores are iid or clustered (facts come in runs), the warm start is of their own distribution or of one that is a
standard deviation too high; of these four kinds the lowest and the highest value is printed. Kept: the mean score of
the calls over that of as many best positions, in hindsight.
"""

import argparse
import itertools
from collections.abc import Callable

import numpy as np

from benchmarks.door import answered
from lacy_jax.cascade import budget as budgets
from lacy_jax.cascade.budget import Budget

COSTS: dict[str, Callable[[np.random.Generator], int]] = {
    "1": lambda _: 1,
    "geometric, mean 2": lambda rng: int(rng.geometric(0.5)),
    "1 to 5": lambda rng: int(rng.integers(1, 6)),
}


def iid(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.normal(size=count)


def clustered(rng: np.random.Generator, count: int) -> np.ndarray:
    """Facts come in runs: names, dates."""
    inside, scores = False, []
    for _ in range(count):
        inside = rng.random() < (0.7 if inside else 0.085)
        scores.append(rng.normal() + 3 * inside)
    return np.array(scores)


def simulate(
    scores: np.ndarray, share: float, *, warm: np.ndarray, length: int, cost: Callable[[], int]
) -> tuple[int, int, float, float]:
    """(tokens spent, tokens generated, sum of the scores that called, sum of as many highest) of one row."""
    budget, called = Budget(share), []
    state = budgets.start(budget, warm_scores=warm.tolist())
    while state.generated < length:
        score = float(scores[state.decisions])
        state, call = budgets.decide(budget, state, score, left=length - state.generated)
        made = cost() if call else 1
        state = budgets.account(state, generated=made, spent=made * call)
        called += [score] * call
    best = np.sort(scores[: state.decisions])[::-1][: len(called)]
    return state.spent, state.generated, sum(called), float(best.sum())


def main() -> None:
    """Prints the table of docs/cascade.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=160)
    parser.add_argument("--length", type=int, default=64, help="tokens per row")
    options = parser.parse_args()
    quantiles = np.quantile(np.random.default_rng(1).normal(size=4000), np.linspace(0, 1, 65))
    print(f"{'tokens per call':>18}{'budget':>8}{'share':>18}{'kept':>14}")
    for (name, cost), share in itertools.product(COSTS.items(), (0.05, 0.22, 0.8)):
        found = []
        for stream, warm in itertools.product((iid, clustered), (quantiles, quantiles + 1)):
            rng = np.random.default_rng(0)
            rows = [
                simulate(stream(rng, options.length), share, warm=warm, length=options.length, cost=lambda: cost(rng))  # noqa: B023
                for _ in range(options.rows)
            ]
            spent, generated, called, best = np.sum(rows, axis=0)
            found.append((spent / generated, called / best))
        shares, kept = zip(*found, strict=True)
        print(f"{name:>18}{share:8}{min(shares):9.3f} to {max(shares):.3f}{min(kept):7.0%} to {max(kept):.0%}")


if __name__ == "__main__":
    answered(main)
