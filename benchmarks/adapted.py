"""What an adapted model writes about people: alone, asking by its own uncertainty, and asking as it was adapted to.

    python -m benchmarks.adapted --checkpoint=runs/smollm2 [--people=200] [--budget=0.22] [--prices=0.3,0.4]
        [--partner=documents:runs/left_out/others.jsonl]

The texts and the scores are those of `lacy_jax.evaluate --suite=real_text` (docs/real_text.md): the share of the claims
that the person's article contains, with its 95% bootstrap interval over people, who are held out. The partner is that
of the checkpoint unless another is given; "documents" hold the article, those of benchmarks/left_out.py do not. Two
ways to call spend all of the same budget, so they cost the same; at a price the cost is what comes of it. The last
lines are differences over the same people, with intervals of their own.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.door import answered
from lacy_jax.adaptation.run import HELD_OUT
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.config import CorpusConfig
from lacy_jax.evidence.real_text.people import find_people
from lacy_jax.evidence.real_text.suite import RealTextResult, evaluate_real_text
from lacy_jax.measures.intervals import shown

RESAMPLES = 2000


def difference(one: RealTextResult, other: RealTextResult) -> tuple[float, float, float]:
    """Difference of the shares of supported claims, and its 95% bootstrap interval over people, who are paired."""
    counts = np.array(
        [
            [sum(c.supported for c in a.claims), len(a.claims), sum(c.supported for c in b.claims), len(b.claims)]
            for a, b in zip(one.records, other.records, strict=True)
        ]
    )
    drawn = counts[np.random.default_rng(0).integers(0, len(counts), (RESAMPLES, len(counts)))].sum(axis=1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3], [0.025, 0.975])
    whole = counts.sum(axis=0)
    return float(whole[0] / whole[1] - whole[2] / whole[3]), float(low), float(high)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--budget", type=float, default=0.22)
    parser.add_argument("--partner", default="")
    parser.add_argument("--prices", default="", help="further prices, separated by commas")
    given = parser.parse_args(words)
    slm = load_model(given.checkpoint)
    own = slm.config.cascade
    partner = given.partner or own.partner
    people = find_people(CorpusConfig(validation_share=HELD_OUT), count=given.people)
    assert all(person.split == "validation" for person in people), "there are fewer people that are held out"
    print(f"{len(people)} people, held out; partner {partner}, budget {given.budget:g}")
    quota = dataclasses.replace(own, policy="quantile")
    plain = dataclasses.replace(quota, score="uncertainty", gate="none")
    ways = {
        "alone": (own, 0.0),
        "by 1 - max p, all of the budget": (plain, given.budget),
        f"by {own.score}, gate {own.gate}, all of it": (quota, given.budget),
    }
    for price in [own.price, *map(float, filter(None, given.prices.split(",")))]:
        ways[f"the same at price {price:g}"] = (dataclasses.replace(own, price=price), given.budget)
    found = {}
    for name, (settings, budget) in ways.items():
        started = time.monotonic()
        found[name] = evaluate_real_text(slm, partner=partner, budget=budget, people=people, settings=settings)
        scores = found[name].scores
        supported, texts, claims, share = (
            shown(each) for each in (scores.precision, scores.supported_claims, scores.claims, scores.call_share)
        )
        calls = sum(record.calls for record in found[name].records)
        print(
            f"{name:<36} claims supported {supported}, supported claims per text {texts}, claims per text {claims}, "
            f"delegated {share}, calls per text {calls / len(people):.1f}, "
            f"{time.monotonic() - started:.0f} s",
            flush=True,
        )
    names = list(found)
    for one, other in ((2, 0), (2, 1), *((number, 2) for number in range(3, len(names)))):
        middle, low, high = difference(found[names[one]], found[names[other]])
        print(f"claims supported, {names[one]} less {names[other]}: {middle:+.3f} ({low:+.3f} to {high:+.3f})")


if __name__ == "__main__":
    answered(main)
