"""The results of a study's finished runs: means over seeds with intervals, and the tests of its hypotheses."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lacy_jax.cascade.scores import CALL_SCORES
from lacy_jax.config import Score, ScoreSetting
from lacy_jax.evidence.closed_world.decodes import ALONE
from lacy_jax.evidence.closed_world.judging import Judged
from lacy_jax.evidence.closed_world.kept import Evaluation, read_evaluation
from lacy_jax.evidence.closed_world.scores import estimate
from lacy_jax.evidence.study.plan import Contrast, Study
from lacy_jax.evidence.study.runs import evaluation_directory, finished
from lacy_jax.measures.intervals import PairedT, holm, paired_t

ALPHA = 0.05


@dataclass(frozen=True)
class Mean:
    """Over seeds: the mean and its 95% t interval (NaN with a single seed). `values`: by ascending seed."""

    mean: float
    low: float
    high: float
    values: tuple[float, ...]


@dataclass(frozen=True)
class Tested:
    """A contrast's paired differences over seeds, better - worse. `p`: two-sided, adjusted for all contrasts (Holm)."""

    contrast: Contrast
    better: Mean
    worse: Mean
    difference: PairedT
    p: float

    @property
    def verdict(self) -> Literal["confirmed", "not shown", "the other way round", "nothing measured"]:
        if np.isnan(self.difference.mean):
            return "nothing measured"
        if self.p >= ALPHA or np.isnan(self.p):
            return "not shown"
        return "confirmed" if self.difference.mean > 0 else "the other way round"


class Results:
    """Every finished run of a study, by arm and seed.

    codes: the code that each is of, as `done.code_identity` says it.
    """

    def __init__(
        self,
        study: Study,
        runs: Mapping[tuple[str, int], Evaluation],
        codes: Mapping[tuple[str, int], Collection[str]] | None = None,
    ):
        self.study, self.runs, self.codes = study, runs, codes or {}

    def seeds(self, arm: str) -> list[int]:
        return [seed for seed in self.study.seeds if (arm, seed) in self.runs]

    def people(self, arm: str, decode: str, *, seed: int, budget: float | None = None) -> list[Judged] | None:
        """Judged biographies at a budget (None: the main one); None where there are none."""
        at = 0.0 if decode == ALONE.name else self.study.main_budget if budget is None else budget
        return self.runs[arm, seed].judged.get((decode, at))

    def score(
        self,
        name: str,
        arm: str,
        decode: str,
        *,
        budget: float | None = None,
        group: str = "",
        seeds: Sequence[int] | None = None,
    ) -> Mean | None:
        """One of `SCORES` over seeds (None: all that are finished); `group`: of one group of people only.

        None without results.
        """
        values = []
        for seed in self.seeds(arm) if seeds is None else seeds:
            people = self.people(arm, decode, seed=seed, budget=budget)
            if people is not None:
                values.append(estimate(name, [each for each in people if not group or each.group == group]))
        return mean_of(values)

    def frontier(self, name: str, arm: str, decode: str, *, seed: int) -> list[tuple[float, float]]:
        """(share of the tokens spent, score) of one seed without calls and at each price, by ascending share.

        Without the first where facts have changed: texts without calls are judged by the old ones.
        """
        start = () if self.study.decode(arm, decode).facts_changed else (ALONE,)
        decodes = (*start, *self.study.frontier(arm, decode))
        found = [self.people(arm, each.name, seed=seed, budget=max(each.budgets)) for each in decodes]
        return sorted((estimate("rate", people), estimate(name, people)) for people in found if people is not None)

    def at_cost(self, name: str, arm: str, decode: str, *, cost: float, seeds: Sequence[int]) -> Mean | None:
        """A score over seeds where a share of the tokens is spent, on the line through each frontier's points.

        Beyond its ends the line stays at the score of its nearest point.
        """
        lines = [self.frontier(name, arm, decode, seed=seed) for seed in seeds]
        points = [np.array(line).T for line in lines if len(line) > 1]
        return mean_of([float(np.interp(cost, spent, scores)) for spent, scores in points])

    def _side(self, contrast: Contrast, side: tuple[str, str], *, seeds: Sequence[int]) -> Mean | None:
        if contrast.cost is not None:
            return self.at_cost(contrast.score, *side, cost=contrast.cost, seeds=seeds)
        return self.score(contrast.score, *side, budget=contrast.budget, seeds=seeds)

    def token(self, arm: str, *path: str) -> Mean | None:
        """A number of tokens.json over seeds, found by the keys of `path`."""
        values = []
        for seed in self.seeds(arm):
            node: Any = self.runs[arm, seed].tokens
            for key in path:
                node = node.get(key, {}) if isinstance(node, dict) else {}
            if isinstance(node, int | float):
                values.append(float(node))
        return mean_of(values)

    def token_score(self, arm: str, score: ScoreSetting) -> Score:
        """The score of tokens.json that ranks as a decode's does; "auto" is the one that the cascade took."""
        if score != "auto":
            return CALL_SCORES[score].ranks_as or score
        # Scores of `<CALL>` are there only of a model that was trained to call.
        learned = any("call_score" in self.runs[arm, seed].tokens["scores"] for seed in self.seeds(arm))
        return "call_score" if learned else "uncertainty"

    def tests(self) -> list[Tested]:
        """Every contrast of which two seeds or more are finished on both sides, by those seeds."""
        found = []
        for contrast in self.study.contrasts:
            others = self.seeds(contrast.worse[0])
            seeds = [seed for seed in self.seeds(contrast.better[0]) if seed in others]
            better, worse = (self._side(contrast, side, seeds=seeds) for side in (contrast.better, contrast.worse))
            if better is None or worse is None or len(better.values) != len(worse.values) or len(better.values) < 2:
                continue
            found.append((contrast, better, worse, paired_t(np.subtract(better.values, worse.values))))
        adjusted = holm([each[3].p for each in found])
        return [Tested(*each, p) for each, p in zip(found, adjusted, strict=True)]


def mean_of(values: list[float]) -> Mean | None:
    """None of no values."""
    if not values:
        return None
    if len(values) == 1:
        return Mean(values[0], np.nan, np.nan, tuple(values))
    found = paired_t(values)
    return Mean(found.mean, found.low, found.high, tuple(values))


def read_results(study: Study, *, workdir: str) -> Results:
    """What is finished; runs that are not are left out."""
    done = {(arm.name, seed): finished(study, arm, seed, workdir=workdir) for arm, seed in study.jobs()}
    codes = {run: noted.code for run, noted in done.items() if noted is not None}
    runs = {(arm, seed): read_evaluation(evaluation_directory(workdir, arm=arm, seed=seed)) for arm, seed in codes}
    return Results(study, runs, codes)
