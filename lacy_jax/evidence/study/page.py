"""A study's page: verdicts first, then the table, curves over cost, what is delegated, and examples in colour."""

import contextlib
import importlib.metadata
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup, escape

import lacy_jax
from lacy_jax.cascade.scores import CALL_SCORES, gate_of
from lacy_jax.evidence.closed_world.decodes import ALONE, DATABASE, Decode
from lacy_jax.evidence.closed_world.judging import Judged
from lacy_jax.evidence.closed_world.scores import SCORES
from lacy_jax.evidence.closed_world.world import RELATIONS
from lacy_jax.evidence.pages import charts
from lacy_jax.evidence.pages.charts import Role, Series
from lacy_jax.evidence.pages.curves import Chart
from lacy_jax.evidence.pages.render import render, write_page
from lacy_jax.evidence.reading import OTHER
from lacy_jax.evidence.study.plan import Contrast, Study
from lacy_jax.evidence.study.results import Mean, Results, Tested, read_results
from lacy_jax.evidence.token_scores import ENDINGS

COLUMNS = (
    "strict",
    "precision",
    "right",
    "unparsed",
    "factscore",
    "rate",
    "on_facts",
    "unanswered",
    "own_precision",
    "tokens_per_right",
    "calls_per_right",
    "calls",
)
COSTS = {"rate": "cost, %", "calls": "calls / 100"}  # what is spent, in tokens or in calls: room for few letters
ROLES: tuple[Role, ...] = ("call", "factual", "untaken", "train", "validation", "further")
EXAMPLE = 20  # which of the people is shown: neither of the head nor the last of the tail


@dataclass(frozen=True)
class Row:
    """A line of a table; `strong`: worth the eye."""

    name: str
    cells: list[Markup]
    strong: bool = False


@dataclass(frozen=True)
class Example:
    """One biography in colour."""

    arm: str
    text: Markup
    note: str


def write_study_page(study: Study, *, workdir: str, command: str) -> str:
    """Writes the study's page in `workdir` from what is finished; returns its path."""
    results = read_results(study, workdir=workdir)
    tests = results.tests()
    page = render(
        "study.html",
        study=study,
        budget=charts.percent(study.main_budget),
        finished=len(results.runs),
        total=len(list(study.jobs())),
        mixed=mixed_code(results),
        tests=[(test, _condition(test.contrast), *_differs(test), _p(test.p)) for test in tests],
        confirmed=sum(test.verdict == "confirmed" for test in tests),
        columns=[SCORES[name].title for name in COLUMNS],
        rows=main_rows(results),
        charts=cost_charts(results),
        knowledge=knowledge_rows(results),
        kinds=[*RELATIONS, OTHER],
        delegated=delegated_rows(results),
        groups=group_rows(results),
        examples=examples(results),
        command=command,
        versions=versions(),
    )
    path = Path(workdir) / study.page
    write_page(str(path), page)
    return str(path)


def versions() -> dict[str, str]:
    """Versions of this package and of what it runs with; spaCy's only where it is installed, as data may be given."""
    found = {"lacy_jax": lacy_jax.__version__}
    for name in ("jax", "flax", "spacy", "sentencepiece"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def mixed_code(results: Results) -> str:
    """A warning where runs of different code stand side by side; "" where all are of one."""
    counts = Counter(code for codes in results.codes.values() for code in codes)
    if len(counts) < 2:
        return ""
    runs = "; ".join(f"{count} {'run' if count == 1 else 'runs'} by {code}" for code, count in counts.most_common())
    return f"Runs of different code stand side by side below: {runs}. Part of a difference may be the code's."


def cell(value: Mean | None, *, scale: float = 100.0, digits: int = 1) -> Markup:
    """A mean with half the width of its interval, "-" where there is none; whole numbers from 1,000 on."""
    if value is None or math.isnan(value.mean):
        return Markup('<span class="missing">-</span>')
    digits = 0 if abs(value.mean) * scale >= 1000 else digits
    half = (value.high - value.low) / 2 * scale
    text = f"{value.mean * scale:.{digits}f}"
    return Markup(f"{text}") if math.isnan(half) else Markup(f"{text} <small>± {half:.{digits}f}</small>")


def title_of(results: Results, *, arm: str, decode: str) -> str:
    """`LaCy, the paper's settings: log-odds, gated`."""
    return f"{results.study.arm(arm).title}: {decode_title(results.study, results.study.decode(arm, decode))}"


def decode_title(study: Study, decode: Decode) -> str:
    """`log-odds, gated, one word per call`: what of it is not as usual."""
    if decode == ALONE:
        return "no calls"
    parts = ["the model's own score" if decode.score == "auto" else CALL_SCORES[decode.score].title]
    if gate_of(decode.score, decode.gate) == "factual":
        parts.append("gated")
    if decode.policy == "price":
        parts.append("at a price" if decode.price is None else f"at a price of {decode.price:g}")
    if decode.span != "phrase":
        parts.append(f"one {decode.span} per call")
    if not decode.asks_world:
        parts.append(f"asks {study.arm(decode.partner).title}")
    elif decode.partner != DATABASE:
        parts.append(f"asks {decode.partner}")
    return ", ".join(parts)


def shown_budget(study: Study, decode: Decode) -> float | None:
    """The budget that tables show of a decode: None, the main one, or where it has not that one its largest."""
    return None if decode == ALONE or study.main_budget in decode.budgets else max(decode.budgets)


def main_rows(results: Results) -> list[Row]:
    """Every arm and decode at the main budget, NTP without calls first; the strict column's best is strong.

    A decode that does not have that budget is shown at its largest one, which its name then says.
    """
    found = []
    for arm in results.study.arms:
        for decode in dict.fromkeys((ALONE, *arm.decodes)) if arm.method == "ntp" else arm.decodes:
            budget = shown_budget(results.study, decode)
            strict = results.score("strict", arm.name, decode.name, budget=budget)
            if strict is not None:
                found.append((strict.mean, arm.name, decode.name, budget))
    at_main = [strict for strict, _, decode, budget in found if budget is None and decode != ALONE.name]
    best = max(at_main or [strict for strict, *_ in found], default=0.0)
    return [
        Row(
            title_of(results, arm=arm, decode=decode) + (f", budget {charts.percent(budget)}" if budget else ""),
            [
                cell(results.score(name, arm, decode, budget=budget), scale=100 if SCORES[name].percent else 1)
                for name in COLUMNS
            ],
            strong=strict == best and (budget is None or not at_main),
        )
        for strict, arm, decode, budget in found
    ]


def knowledge_rows(results: Results) -> list[Row]:
    """What each model holds without calls, its NLL by class, and how well its own score finds what it gets wrong."""
    rows = []
    for arm in results.study.arms:
        score = results.token_score(arm.name, "auto")
        both, gated = (("scores", name, f"{results.study.main_budget:g}") for name in (score, f"{score}, gated"))
        cells = [
            cell(results.score("strict", arm.name, ALONE.name)),
            cell(results.score("strict", arm.name, ALONE.name, group="head")),
            cell(results.score("right", arm.name, ALONE.name), scale=1, digits=2),
            cell(results.token(arm.name, "factual_right_alone")),
            cell(results.token(arm.name, "nll", "factual"), scale=1, digits=3),
            cell(results.token(arm.name, "nll", OTHER), scale=1, digits=3),
            cell(results.token(arm.name, *both, "area_both"), scale=1, digits=3),
            cell(results.token(arm.name, *gated, "area_both"), scale=1, digits=3),
            cell(results.token(arm.name, *both, "precision")),
            cell(results.token(arm.name, *both, "recall")),
            cell(results.token(arm.name, "factual_first_ten")),
            cell(results.score("of_known", arm.name, ALONE.name)),
            cell(results.score("of_unknown", arm.name, ALONE.name)),
        ]
        if results.seeds(arm.name):
            rows.append(Row(arm.title, cells))
    return rows


def delegated_rows(results: Results) -> list[Row]:
    """Of the held-out tokens that each way of calling ranks highest, the share of each kind, shaded."""
    rows, budget = [], f"{results.study.main_budget:g}"
    for arm, decode_name in dict.fromkeys((*results.study.curves, *results.study.variants)):
        decode = results.study.decode(arm, decode_name)
        name = results.token_score(arm, decode.score) + ENDINGS[gate_of(decode.score, decode.gate)]
        cells = []
        for kind in (*RELATIONS, OTHER):
            value = results.token(arm, "scores", name, budget, "called", kind)
            cells.append(
                cell(None)
                if value is None
                else Markup(f'<span class="heat" style="--share:{value.mean:.3f}">{value.mean * 100:.0f}%</span>')
            )
        if results.seeds(arm):
            rows.append(Row(title_of(results, arm=arm, decode=decode_name), cells))
    return rows


def group_rows(results: Results) -> list[Row]:
    """`strict` by group of people."""
    rows = []
    alone = [(arm.name, ALONE.name) for arm in results.study.arms if arm.name == "ntp" or arm.decodes == (ALONE,)]
    for arm, decode in dict.fromkeys((*alone, *results.study.curves)):
        if arm in {each.name for each in results.study.arms} and results.seeds(arm):
            budget = shown_budget(results.study, results.study.decode(arm, decode))
            cells = [
                cell(results.score("strict", arm, decode, budget=budget, group=group))
                for group in ("head", "middle", "tail", "held_out")
            ]
            rows.append(Row(title_of(results, arm=arm, decode=decode), cells))
    return rows


def cost_charts(results: Results) -> list[Chart]:
    """Scores over what the partner costs, in tokens and in calls: the methods, then variants of score and mask."""
    study = results.study
    made = []
    for title, caption, name, cost, pairs in (
        (
            "Right claims of all sentences",
            "strict: what does not parse counts as wrong",
            "strict",
            "rate",
            study.curves,
        ),
        ("The same, over calls", "strict, as above", "strict", "calls", study.curves),
        ("Right claims of all claims", "precision, the FactScore's analogue", "precision", "rate", study.curves),
        ("Right claims per biography", "different facts that are right", "right", "rate", study.curves),
        ("Further ways to call", "strict, as above", "strict", "rate", study.variants),
    ):
        lines = [_line(results, pair, role, name=name, cost=cost) for pair, role in zip(pairs, ROLES, strict=False)]
        if not any(lines):
            continue
        percent = SCORES[name].percent
        svg = charts.line_chart(
            [line for line in lines if line is not None],
            y_label=SCORES[name].title,
            x_label=COSTS[cost],
            y_ticks=charts.tick_percents if percent else charts.tick_texts,
            value_format=charts.percent if percent else lambda value: f"{value:.2f}",
            y_low=0.0,
        )
        made.append(Chart(title, caption, svg))
    return made


def _line(results: Results, pair: tuple[str, str], role: Role, *, name: str, cost: str) -> Series | None:
    """Means of a score over those of a cost, from no calls on: at every price, or else at every budget."""
    study, (arm, decode) = results.study, pair
    prices = study.frontier(arm, decode)
    ways = prices if len(prices) > 1 else (study.decode(arm, decode),)
    places = [(each.name, budget) for each in ways for budget in each.budgets if len(ways) == 1 or budget == 1.0]
    scale = 100 if SCORES[cost].percent else 1
    changed = study.decode(arm, decode).facts_changed  # texts without calls are judged by the old facts
    points = [] if changed else [(0.0, results.score(name, arm, ALONE.name))]
    for way, budget in places:
        spent = results.score(cost, arm, way, budget=budget)
        if spent is not None:
            points.append((scale * spent.mean, results.score(name, arm, way, budget=budget)))
    known = sorted(((at, mean) for at, mean in points if mean is not None), key=lambda point: point[0])
    if len(known) < 2:
        return None
    x, y, low, high = (np.array(each) for each in zip(*((at, m.mean, m.low, m.high) for at, m in known), strict=True))
    label = _line_label(study, arm, study.decode(arm, decode))
    return Series(label, x, y, role, None if np.isnan(low).any() else (low, high))


def _line_label(study: Study, arm: str, decode: Decode) -> str:
    """Short, as there is little room beside a line: "LaCy", "NTP, gated"; "LaCy: larger" of one that asks another."""
    chosen = study.arm(arm)
    if decode.partner in chosen.partners:
        partner = study.arm(decode.partner)
        how = ENDINGS[decode.gate] + f": {partner.label or partner.title}"
    else:
        how = {"log_odds": "", "confidence": ", 1 - p"}.get(decode.name, f", {decode.name.replace('_', ' ')}")
    return (chosen.label or chosen.title) + how


def examples(results: Results) -> list[Example]:
    """The same person by every way of the curves, first seed, at the budget that the tables show."""
    found = []
    for arm, decode in results.study.curves:
        seeds = results.seeds(arm)
        if not seeds:
            continue
        budget = shown_budget(results.study, results.study.decode(arm, decode))
        if people := results.people(arm, decode, seed=seeds[0], budget=budget):
            judged = people[min(EXAMPLE, len(people) - 1)]
            note = f"{judged.right} right, {judged.wrong} wrong, {judged.unparsed} unparsed; {judged.calls} calls"
            found.append(Example(title_of(results, arm=arm, decode=decode), _coloured(judged), note))
    return found


def _coloured(judged: Judged) -> Markup:
    parts = [Markup('<span class="w prompt">{}</span> ').format(judged.name)]
    for text, source, score in judged.pieces:
        tone = "w p" if source == "partner" else "w"
        parts.append(
            Markup('<span class="{}" title="{} · score {}">{}</span>').format(tone, source, score, escape(text))
        )
    return Markup("").join(parts)


def _condition(contrast: Contrast) -> str:
    """In what a hypothesis is about other figures than most: "unparsed / sentences, at a cost of 10%"; else ""."""
    parts = [] if contrast.score == Contrast.score else [SCORES[contrast.score].title]
    if contrast.cost is not None:
        parts.append(f"at a cost of {charts.percent(contrast.cost)}")
    elif contrast.budget is not None:
        parts.append(f"at a budget of {charts.percent(contrast.budget)}")
    return ", ".join(parts)


def _differs(test: Tested) -> tuple[str, str, str]:
    """Both means, and their difference with its interval."""
    scale, unit, of = (100, "%", " points") if SCORES[test.contrast.score].percent else (1, "", "")
    better, worse = (f"{mean.mean * scale:.1f}{unit}" for mean in (test.better, test.worse))
    low, high = test.difference.low * scale, test.difference.high * scale
    return better, worse, f"{test.difference.mean * scale:+.1f}{of} ({low:+.1f} to {high:+.1f})"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
