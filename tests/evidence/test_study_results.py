"""What a study finds in its runs: means, differences of the same seeds, hypotheses at a budget or at equal cost."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from lacy_jax.errors import ConfigError
from lacy_jax.evidence.closed_world.decodes import Decode
from lacy_jax.evidence.closed_world.judging import Claim, Judged
from lacy_jax.evidence.closed_world.kept import Evaluation
from lacy_jax.evidence.reading import OTHER
from lacy_jax.evidence.study import page as study_page
from lacy_jax.evidence.study.page import delegated_rows, knowledge_rows, write_study_page
from lacy_jax.evidence.study.plan import Arm, Contrast, Study
from lacy_jax.evidence.study.results import Results

CALL = Decode("log_odds", score="call_score", budgets=(0.22, 0.5))
AB = Contrast("H", ("a", "log_odds"), ("b", "log_odds"))


def judged(right: int, wrong: int) -> Judged:
    claims = tuple(Claim("field", str(n), n < right, False) for n in range(right + wrong))
    return Judged(0, "x", "tail", claims, 0, 0, 10, 2, 2, 0, 2)


def study(**changes: object) -> Study:
    arms = (Arm("a", "lacy", "A", decodes=(CALL,)), Arm("b", "loss", "B", decodes=(CALL,)))
    contrasts = (
        Contrast("H1", ("a", "log_odds"), ("b", "log_odds")),
        Contrast("H2", ("b", "log_odds"), ("a", "log_odds")),
    )
    return Study(**({"name": "s", "config": "c", "arms": arms, "seeds": (0, 1, 2), "contrasts": contrasts} | changes))  # type: ignore[arg-type]


def test_paired_differences_by_hand() -> None:
    shares = {"a": (8, 7, 9), "b": (5, 5, 5)}
    runs = {
        (arm, seed): Evaluation({("log_odds", 0.22): [judged(right, 10 - right)]}, {"nll": {"factual": float(seed)}})
        for arm, rights in shares.items()
        for seed, right in enumerate(rights)
    }
    results = Results(study(), runs)
    first, second = results.tests()
    assert first.difference.mean == pytest.approx(0.3)
    # t = 0.3 / (0.1 / sqrt(3)) = 5.196 on 2 degrees of freedom: two-sided p = 0.0351; twice that for two hypotheses.
    assert first.difference.p == pytest.approx(0.0351, abs=1e-3)
    assert first.p == pytest.approx(0.0702, abs=2e-3)
    assert (first.verdict, second.verdict) == ("not shown", "not shown")
    half = 4.303 * 0.1 / np.sqrt(3)
    assert (first.difference.low, first.difference.high) == pytest.approx((0.3 - half, 0.3 + half), abs=1e-3)
    mean = results.token("a", "nll", "factual")
    assert mean is not None
    assert mean.mean == 1.0
    assert results.token("a", "nll", "what") is None


def test_what_is_compared_is_of_the_same_seeds() -> None:
    """A run may have failed on either side."""
    rights = {"a": {0: 9, 1: 6, 2: 7}, "b": {1: 3, 2: 5, 3: 0}}
    runs = {
        (arm, seed): Evaluation({("log_odds", 0.22): [judged(right, 10 - right)]}, {})
        for arm, by_seed in rights.items()
        for seed, right in by_seed.items()
    }
    first, _ = Results(study(seeds=(0, 1, 2, 3)), runs).tests()
    assert (first.better.values, first.worse.values) == ((0.6, 0.7), (0.3, 0.5))


def test_a_hypothesis_may_be_about_another_budget() -> None:
    at = {("log_odds", 0.22): [judged(5, 5)], ("log_odds", 0.5): [judged(8, 2)]}
    runs = {
        (arm, seed): Evaluation(at if arm == "a" else dict.fromkeys(at, at["log_odds", 0.22]), {})
        for arm in "ab"
        for seed in (0, 1)
    }
    contrasts = [dataclasses.replace(AB, budget=budget) for budget in (None, 0.5)]
    assert [test.difference.mean for test in Results(study(contrasts=contrasts), runs).tests()] == pytest.approx(
        [0, 0.3]
    )


def test_a_hypothesis_may_be_about_equal_cost() -> None:
    """Where both spend 10% of the tokens: between the points of each one's prices, the first of which is no calls."""

    def spent(right: int, tokens: int) -> list[Judged]:
        return [dataclasses.replace(judged(right, 10 - right), generated=100, delegated=tokens)]

    price = Decode("price", policy="price", price=0.5, budgets=(0.1, 1.0))
    dear = dataclasses.replace(price, name="dear", price=0.9, budgets=(1.0,))
    arms = (Arm("a", "lacy", "A", decodes=(price, dear)), Arm("b", "loss", "B", decodes=(price,)))
    contrast = Contrast("H", ("a", "price"), ("b", "price"), cost=0.1)
    made = study(arms=arms, contrasts=(contrast,), seeds=(0, 1))
    alone = {("alone", 0.0): spent(1, 0)}
    of_a = alone | {("price", 1.0): spent(9, 20), ("dear", 1.0): spent(7, 8), ("price", 0.1): spent(0, 9)}
    of_b = alone | {("price", 1.0): spent(5, 20)}
    results = Results(
        made, {(arm, seed): Evaluation(of_a if arm == "a" else of_b, {}) for arm in "ab" for seed in (0, 1)}
    )
    (test,) = results.tests()
    assert test.better.mean == pytest.approx(0.7 + 0.2 * 2 / 12)
    assert test.worse.mean == pytest.approx(0.3)


def test_what_has_changed_is_not_compared_with_texts_from_before() -> None:
    """Without calls a text is judged by the facts as they were read: no point of the line over changed ones."""
    price = Decode("price", policy="price", price=0.5, budgets=(1.0,), partner="world:known=0.9,changed=1")
    dear = dataclasses.replace(price, name="dear", price=0.9)
    people = {("alone", 0.0): [judged(9, 1)], ("price", 1.0): [judged(5, 5)], ("dear", 1.0): [judged(2, 8)]}
    before = tuple(dataclasses.replace(each, partner="world:known=0.9,changed=0") for each in (price, dear))
    for decodes, points in (((price, dear), 2), (before, 3)):
        made = study(arms=(Arm("a", "lacy", "A", decodes=decodes),), contrasts=(), seeds=(0,))
        results = Results(made, {("a", 0): Evaluation(people, {})})
        assert len(results.frontier("strict", "a", "price", seed=0)) == points
        line = study_page._line(results, ("a", "price"), "call", name="strict", cost="rate")
        assert line is not None
        assert len(line.x) == points
    cost = Contrast("H", ("a", "price"), ("a", "price"), cost=0.1)
    with pytest.raises(ConfigError, match="needs two prices of price of a, as its partner's facts have changed"):
        study(arms=(Arm("a", "lacy", "A", decodes=(price,)),), contrasts=(cost,), seeds=(0,))


@pytest.mark.parametrize(("budgets", "best"), [((0.22,), "b"), ((1.0,), "b"), ((0.22, 1.0), "b")])
def test_the_best_row_is_one_that_calls(budgets: tuple[float, ...], best: str) -> None:
    """Unless no decode has the main budget: then it is the best of all, which may be one that does not call."""
    calling = Decode("called", policy="price", price=0.5, budgets=budgets)
    arms = (Arm("a", "ntp", "A", decodes=(calling,)), Arm("b", "lacy", "B", decodes=(calling,)))
    made = study(arms=arms, contrasts=(), seeds=(0,))
    runs = {
        (arm, 0): Evaluation(
            {("alone", 0.0): [judged(5, 5)], **{("called", at): [judged(right, 9)] for at in budgets}}, {}
        )
        for arm, right in (("a", 3), ("b", 12))
    }
    assert [row.name[0].lower() for row in study_page.main_rows(Results(made, runs)) if row.strong] == [best]


def test_the_page_names_every_condition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is shown, also at another budget; a hypothesis says what it is about where that differs."""
    half = Decode("half", policy="price", price=0.5, budgets=(1.0,), partner="world:known=0.5")
    arms = tuple(Arm(name, "lacy", name.upper(), decodes=(CALL, half)) for name in "ab")
    contrasts = (
        AB,
        dataclasses.replace(AB, score="right", budget=0.5),
        Contrast("H", ("a", "half"), ("b", "half"), cost=0.1),
    )
    made, runs = study(arms=arms, contrasts=contrasts, seeds=(0, 1), curves=(("a", "half"),)), {}
    for seed in (0, 1):
        for arm, right in (("a", 6), ("b", 4)):
            people = [dataclasses.replace(judged(right + seed, 4), name="x")]
            found = {("log_odds", 0.22): people, ("log_odds", 0.5): people, ("half", 1.0): people}
            known = [
                Claim("field", "0", True, False, known=True),
                *3 * [Claim("field", "1", False, False, known=False)],
            ]
            alone = dataclasses.replace(judged(1, 9), claims=tuple(known))
            runs[arm, seed] = Evaluation(found | {("alone", 0.0): [alone]}, {"scores": {}})
    monkeypatch.setattr("lacy_jax.evidence.study.page.read_results", lambda *_, **__: Results(made, runs))
    page = Path(write_study_page(made, workdir=str(tmp_path), command="again")).read_text()
    assert ">H</th>" in page
    assert ">H <small>(right claims per biography, at a budget of 50%)</small></th><td>6.5</td><td>4.5</td>" in page
    assert "<td>+2.0 (+2.0 to +2.0)</td>" in page
    assert ">H <small>(at a cost of 10%)</small>" in page
    assert "<td>100.0 <small>± 0.0</small></td><td>0.0 <small>± 0.0</small></td></tr>" in page  # of what it has, lacks
    assert '<tr class="strong"><th scope="row">A: log-odds</th>' in page
    assert "6 right, 4 wrong, 0 unparsed; 2 calls" in page  # the example, of a decode without the main budget
    assert (
        '<tr><th scope="row">A: the model&#39;s own score, at a price of 0.5, asks world:known=0.5, budget 100%' in page
    )


def test_the_models_own_score_is_the_one_that_the_cascade_took() -> None:
    """Of a model that was trained to call the call score, of any other its uncertainty, and so on every page."""
    own = Decode("own")
    arms = (Arm("a", "lacy", "A", decodes=(own,)), Arm("b", "ntp", "B", decodes=(own,)))
    pairs = (("a", "own"), ("b", "own"))
    made = study(arms=arms, contrasts=(), seeds=(0,), curves=pairs)

    def tokens(**areas: float) -> dict[str, object]:
        return {
            "scores": {name: {"0.22": {"area_both": area, "called": {OTHER: area}}} for name, area in areas.items()}
        }

    known = {"a": tokens(uncertainty=0.25, call_score=0.75), "b": tokens(uncertainty=0.5)}
    results = Results(made, {(arm, 0): Evaluation({}, found) for arm, found in known.items()})
    assert [row.cells[6] for row in knowledge_rows(results)] == ["0.750", "0.500"]
    assert ["75%" in row.cells[-1] for row in delegated_rows(results)] == [True, False]
    assert ["50%" in row.cells[-1] for row in delegated_rows(results)] == [False, True]
    unknown = {arm: {"scores": {}} for arm in known}  # of an earlier version, which did not have the score
    rows = delegated_rows(Results(made, {(arm, 0): Evaluation({}, found) for arm, found in unknown.items()}))
    assert all("-" in each and "%" not in each for row in rows for each in row.cells)
    assert results.token_score("a", "uncertainty") == "uncertainty"
    assert results.token_score("a", "call_probability") == "call_score"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": ()}, "seeds"),
        ({"arms": (Arm("a", "best", "A"),)}, "method='best'"),
        ({"arms": (Arm("a", "rho", "A", reference="b"),)}, "reference or partner 'b'"),
        ({"arms": (Arm("a", "lacy", "A", decodes=(Decode("x", partner="b"),)),)}, "reference or partner 'b'"),
        ({"arms": (Arm("a", "rho", "A", reference="b"), Arm("b", "rho", "B", reference="a"))}, "need each other"),
        ({"arms": (Arm("a", "rho", "A", reference="a"),)}, "need each other"),
        ({"arms": (Arm("a", "lacy", "A", decodes=(Decode("x", price=5.0),)),)}, "price Input should be less than or"),
        (
            {"arms": (Arm("a", "lacy", "A", decodes=(Decode("x", budgets=()),)),)},
            "budgets Tuple should have at least 1",
        ),
        ({"arms": (Arm("a", "lacy", "A", decodes=(Decode("x", "entropy", policy="price"),)),)}, "is no probability"),
        ({"curves": (("a", "what"),)}, "no arm and decode"),
        ({"curves": (("a", "log_odds"),) * 7}, "6 lines each"),
        ({"contrasts": (dataclasses.replace(AB, budget=0.3),)}, "H: log_odds of a has no budget 0.3; .* 0.22, 0.5"),
        ({"main_budget": 0.1, "contrasts": (AB,)}, "log_odds of a has no budget 0.1"),
        ({"contrasts": (dataclasses.replace(AB, cost=0.1),)}, "log_odds of a is none"),
    ],
)
def test_wrong_studies(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        study(**{"contrasts": (), **changes})
