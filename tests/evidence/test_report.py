"""The report: read back as a browser would, from made-up but lifelike runs."""

import dataclasses
import html.parser
import itertools
import json
import math
import pathlib
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacy_jax.cascade.rows import Completion, Counts, Piece
from lacy_jax.evidence.pages import charts, tokens
from lacy_jax.evidence.pages.charts import Series
from lacy_jax.evidence.pages.render import write_page
from lacy_jax.evidence.run_report import page as report
from lacy_jax.measures import separation

TITLES = ["Marie Curie", "Amazon River", "Fugue", "Battle of Hastings", "Photosynthesis"]
SENTENCES = [
    "She was born in Warsaw, then part of the Russian Empire, and moved to Paris in 1891 to study physics.",
    "It rises in the Andes of Peru and reaches the Atlantic Ocean after some 6,400 kilometres.",
    "The voices enter one after another, each with the same theme.",
    "William of Normandy defeated Harold Godwinson on 14 October 1066.",
    "Light is caught by chlorophyll, and water is split into oxygen and hydrogen.",
    "The word is older than the thing, as so often.",
    "In 1903 the Nobel Prize in Physics was shared with Pierre Curie and Henri Becquerel.",
]
_STEPS = 600


def fake_article(index: int, *, sentences: int = 24) -> report.ArticleScores:
    """Capitalised words and numbers are the facts, and score higher by 2.2 standard deviations."""
    random = np.random.default_rng(index)
    text = " ".join(SENTENCES[random.integers(len(SENTENCES))] for _ in range(sentences))
    text = f"{TITLES[index % len(TITLES)]}\n\n{text}"
    pieces = re.findall(r"\s?[\w']{1,5}|\s?[^\w\s]|\s", text)
    factual = np.array([bool(re.match(r"\s?([A-Z][a-z]|\d)", piece)) for piece in pieces])
    return report.ArticleScores(
        title=TITLES[index % len(TITLES)],
        tokens=pieces,
        call_scores=random.normal(size=len(pieces)) + np.where(factual, 1.1, -1.1) - 2.0,
        factual=factual,
        losses=random.gamma(2.0, np.where(factual, 3.0, 1.4)),
    )


def fake_rows(*, steps: int = _STEPS, calls: bool = True) -> list[dict[str, object]]:
    """A log as training writes it: every 10 steps training, every 100 validation."""
    random = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for step in range(10, steps + 1, 10):
        nll = 3.9 + 4.8 * math.exp(-step / 120) + random.normal() * 0.05
        row: dict[str, object] = {
            "step": step, "split": "train", "loss": nll - 0.4, "nll/all": nll, "tokens": step * 8192,
            "learning_rate": 1e-3 * min(1, step / 60) * (0.55 + 0.45 * math.cos(math.pi * step / steps)),
            "gradient_norm": 0.6 + 2 * math.exp(-step / 40) + abs(random.normal()) * 0.08,
            "tokens_per_second": 11_800 + random.normal() * 350,
        }  # fmt: skip
        if calls:
            row |= {"share/factual": 0.155 + random.normal() * 0.006, "share/taken": 0.093 + random.normal() * 0.003}
            row |= {"nll/taken": nll + 3.4, "nll/untaken": nll - 0.5}
        rows.append(row)
        if step % 100 == 0:
            held: dict[str, object] = {"step": step, "split": "validation", "loss": nll, "nll/all": nll + 0.06}
            held |= {"nll/factual": nll + 2.5, "nll/other": nll - 0.45, "bits_per_byte": nll * 0.42}
            if calls:
                for name, mean in (("factual", -3 + step / 250), ("other", -3.2 - step / 300)):
                    held |= {
                        f"call_score/{name}": mean,
                        f"call_score/{name}/q25": mean - 0.8,
                        f"call_score/{name}/q75": mean + 0.7,
                    }
                held |= {
                    "roc/factual": 0.88 - 0.3 * math.exp(-step / 150),
                    "roc/greedy_wrong": 0.74 - 0.2 * math.exp(-step / 150),
                }
            rows.append(held)
    return rows


def fake_summary(**changes: object) -> report.RunSummary:
    values: dict[str, object] = {
        "name": "slm_tiny", "method": "lacy", "parameters": 3_412_992, "steps": _STEPS, "tokens": _STEPS * 8192,
        "seconds": 432.4, "device": "2 x CPU", "command": "python -m lacy_jax.main --config=configs/slm_tiny.py",
        "config": {"name": "slm_tiny", "training": {"steps": 600, "seed": 0}, "rule": {"kinds": "entity,PROPN,NUM"}},
        "provenance": {"jax": "0.10.2", "data": "vital_articles, 1f3a9c"},
    }  # fmt: skip
    return report.RunSummary(**(values | changes))  # type: ignore[arg-type]


def fake_sample(index: int) -> Completion:
    words = SENTENCES[index % len(SENTENCES)].split(" ")
    prompt, rest = " ".join(words[:4]), words[4:]
    pieces = tuple(
        Piece(
            text=f" {word}",
            source="partner" if re.match(r"[A-Z\d]", word) else "slm",
            score=-1.5 + 0.1 * place,
            tokens=2,
        )
        for place, word in enumerate(rest)
    )
    delegated = sum(piece.tokens for piece in pieces if piece.source == "partner")
    counts = Counts(generated=2 * len(pieces), delegated=delegated, calls=delegated // 2)
    return Completion(
        prompt=prompt, text="".join(p.text for p in pieces), pieces=pieces, counts=counts, finish="length"
    )


def fake_report(**changes: object) -> str:
    values: dict[str, object] = {
        "summary": fake_summary(),
        "metrics": fake_rows(),
        "articles": [fake_article(index) for index in range(5)],
        "samples": [fake_sample(index) for index in range(4)],
        "partner": "documents",
    }
    return report.render_report(**(values | changes))  # type: ignore[arg-type]


class Page(html.parser.HTMLParser):
    """What a browser would see: elements with their attributes and the text within each."""

    VOID = ("meta", "br", "link", "img", "input")

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}, []))
        if tag not in self.VOID:
            self._open.append(self.elements[-1][2])

    def handle_endtag(self, _: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for texts in self._open:
            texts.append(data)

    def all(self, tag: str, *, within: str = "") -> list[tuple[dict[str, str], str]]:
        """(attributes, text) of elements of this tag that have the given classes."""
        return [
            (attrs, "".join(texts))
            for name, attrs, texts in self.elements
            if name == tag and set(within.split()) <= set(attrs.get("class", "").split())
        ]

    def text(self) -> str:
        return " ".join("".join(self.elements[0][2]).split())


def test_a_page_needs_nothing_but_itself() -> None:
    page = Page(fake_report())
    for tag, attributes, _ in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    styles = "".join(text for _, text in page.all("style")) + "".join(text for _, text in page.all("script"))
    assert "url(" not in styles
    assert "@import" not in styles
    assert "fetch(" not in styles
    assert not re.search(r"https?://", styles.replace("http://www.w3.org/2000/svg", ""))


def test_every_token_keeps_its_text_score_loss_and_flag() -> None:
    articles = [fake_article(index) for index in range(3)]
    page = Page(fake_report(articles=articles))
    shown = [attributes | {"text": text} for attributes, text in page.all("span", within="t") if "data-s" in attributes]
    expected = [row for a in articles for row in zip(a.tokens, a.call_scores, a.factual, a.losses, strict=True)]
    assert len(shown) == len(expected)
    for span, (token, score, factual, loss) in zip(shown, expected, strict=True):
        assert span["text"].replace("↵", "") == (token.lstrip(" ") or token)
        assert float(span["data-s"]) == pytest.approx(score, abs=0.006)
        assert float(span["data-l"]) == pytest.approx(loss, abs=0.006)
        assert ("f" in span["class"].split()) == factual
    whole = [text for attributes, text in page.all("div", within="text")]
    assert [text.replace("↵", "") for text in whole[:3]] == ["".join(article.tokens) for article in articles]


def test_the_colours_from_the_third_on_are_the_tokens_a_budget_would_call() -> None:
    articles = [fake_article(index) for index in range(3)]
    page = Page(fake_report(articles=articles, budget=0.1))
    levels = [int(re.search(r"l(\d)", a["class"])[1]) for a, _ in page.all("span", within="t") if "data-s" in a]  # type: ignore[index]
    scores = np.concatenate([article.call_scores for article in articles])
    called = sorted(range(len(scores)), key=lambda index: -scores[index])[: round(0.1 * len(scores))]
    strong = {index for index, level in enumerate(levels) if level >= 2}
    assert len(strong.symmetric_difference(called)) <= 1  # the one at the boundary may round either way


def test_hostile_text_stays_text() -> None:
    attack = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
    article = dataclasses.replace(fake_article(0), title=attack, tokens=[attack] * len(fake_article(0).tokens))
    sample = fake_sample(0)
    piece = dataclasses.replace(sample.pieces[0], text=attack, source="partner")
    sample = dataclasses.replace(sample, prompt=attack, pieces=(piece, *sample.pieces))
    summary = fake_summary(
        name=attack,
        method=attack,
        device=attack,
        command=attack,
        config={attack: {attack: attack}},
        provenance={attack: attack},
    )
    page = Page(fake_report(articles=[article], samples=[sample], partner=attack, summary=summary))
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not any(key.startswith("on") for _, attributes, _ in page.elements for key in attributes)
    assert page.all("h1") == [({}, attack)]
    assert any(text == attack for _, text in page.all("span", within="w p"))


def test_control_characters_and_lone_surrogates_are_written(tmp_path: pathlib.Path) -> None:
    base = fake_article(0)
    article = dataclasses.replace(base, tokens=["\0", "\x1b[31m", "\ud800", "", *base.tokens[4:]])
    page = report.render_report(summary=fake_summary(), metrics=[], articles=[article])
    write_page(str(tmp_path / "report.html"), page)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "␀" in text
    assert "␛[31m" in text
    assert "\0" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_what_was_not_recorded_says_so() -> None:
    bare = Page(
        fake_report(metrics=[], articles=[], samples=[], summary=fake_summary(seconds=0.0, config={}, provenance={}))
    )
    assert len(bare.all("span", within="missing")) == 5  # every headline number
    assert len(bare.all("p", within="missing")) == 6 + 3  # every chart, then separation, articles, cascade
    assert not bare.all("svg", within="chart")


def test_a_run_without_calls_still_has_its_losses() -> None:
    silent = dataclasses.replace(fake_article(0), call_scores=np.full(len(fake_article(0).tokens), np.nan))
    page = Page(fake_report(metrics=fake_rows(calls=False), articles=[silent], summary=fake_summary(method="ntp")))
    assert "plain next-token prediction" in page.text()
    assert len(page.all("p", within="missing")) == 4 + 1  # the call charts, and the separation
    assert not [a for a, _ in page.all("span", within="t") if "data-s" in a]
    assert {a["class"] for a, _ in page.all("span", within="t l0")} >= {"t l0", "t l0 f"}


def test_values_that_are_not_finite_break_the_line_and_nothing_else() -> None:
    rows = [
        {"step": step, "split": "train", "nll/all": math.nan if step in (3, 4) else 5.0 - step / 10}
        for step in range(9)
    ]
    page = fake_report(metrics=rows)
    (path,) = [a["d"] for a, _ in Page(page).all("path", within="line s-train")][:1]
    assert path.count("M") == 2
    assert "nan" not in page.lower().split("<script>")[0]


def axis_of(chart: str, *, klass: str, coordinate: str) -> tuple[float, float]:
    """(slope, offset) that turns view box units into data, from where the chart prints its ticks."""
    ticks = [
        (float(attributes[coordinate]), float(text.replace("\N{MINUS SIGN}", "-")))
        for attributes, text in Page(chart).all("text", within=f"tick {klass}")
    ]
    (at, value), (end_at, end_value) = ticks[0], ticks[-1]
    slope = (end_value - value) / (end_at - at)
    return slope, value - slope * at


def test_lines_lie_where_the_ticks_say() -> None:
    x, y = np.array([10.0, 250.0, 400.0]), np.array([-3.5, 0.25, 1.75])
    chart = charts.line_chart([Series("a", x, y, "factual")], y_label="value")
    assert chart is not None
    (path,) = [a["d"] for a, _ in Page(chart).all("path", within="line")]
    points = np.array([[float(word) for word in point.split()] for point in re.split("[ML]", path)[1:]])
    x_slope, x_offset = axis_of(chart, klass="middle", coordinate="x")
    y_slope, y_offset = axis_of(chart, klass="end", coordinate="y")
    np.testing.assert_allclose(points[:, 0] * x_slope + x_offset, x, atol=0.5)
    np.testing.assert_allclose((points[:, 1] + 4) * y_slope + y_offset, y, atol=0.02)  # text sits 4 below its line
    (svg,) = [a for a, _ in Page(chart).all("svg", within="chart")]
    assert next(entry[1:] for entry in json.loads(svg["data-points"])) == ["step 10", ["a -3.5"]]


def test_long_lines_are_averaged_not_sampled() -> None:
    x = np.arange(10_000.0)
    thin = charts.thin(Series("a", x, x % 2, "train"))
    assert len(thin.x) == charts.MAX_POINTS
    np.testing.assert_allclose(thin.y, 0.5, atol=0.02)


@given(st.lists(st.floats(0, 200), min_size=1, max_size=8))
def test_labels_never_overlap(positions: list[float]) -> None:
    placed = charts.spread(positions, gap=15, low=0, high=200)
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    moved = [placed[index] for index in order]
    assert all(b - a >= 15 - 1e-9 for a, b in itertools.pairwise(moved))
    assert moved[0] >= -1e-9
    assert moved[-1] <= 200 + 1e-9


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_inside(low: float, span: float) -> None:
    ticks = charts.nice_ticks(low, low + span, count=5)
    assert 2 <= len(ticks) <= 7
    assert low - 1e-6 * span <= ticks[0]
    assert ticks[-1] <= low + span * (1 + 1e-6)
    np.testing.assert_allclose(np.diff(ticks), ticks[1] - ticks[0], rtol=1e-3)


@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=30))
def test_roc_area_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([s for s, _ in pairs], float), np.array([p for _, p in pairs], bool)
    curve = separation.roc_curve(scores, positive)
    if positive.all() or not positive.any():
        assert curve is None
        assert separation.at_budget(scores, positive, budget=0.2) is None
        return
    wins = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert curve is not None
    assert curve.area == pytest.approx(np.mean(wins))
    assert curve.true_rate[-1] == curve.false_rate[-1] == 1.0


def test_infinite_scores_tie_with_each_other() -> None:
    curve = separation.roc_curve(np.array([0.0, -math.inf, -math.inf]), np.array([False, True, False]))
    assert curve is not None
    assert curve.area == 0.25


def test_a_budget_calls_the_highest_scores() -> None:
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0, -1.0, -2.0, -3.0, -4.0])
    positive = np.array([1, 1, 0, 1, 0, 0, 0, 0, 1, 0], bool)
    point = separation.at_budget(scores, positive, budget=0.3)
    assert point == separation.BudgetPoint(budget=0.3, threshold=3.0, precision=2 / 3, recall=0.5, false_rate=1 / 6)
    tied = separation.at_budget(np.zeros(4), np.array([1, 0, 0, 0], bool), budget=0.25)
    assert tied is not None
    assert (tied.recall, tied.false_rate) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (600, "600"),
        (1234, "1.23k"),
        (999_900, "1M"),
        (3_412_992, "3.41M"),
        (5e-4, "5e-4"),
        (math.nan, "not finite"),
    ],
)
def test_short_numbers(value: float, text: str) -> None:
    assert charts.short_number(value) == text


def test_durations_and_settings_read_well() -> None:
    assert [report.duration(s) for s in (0.4, 59.4, 432.4, 3599.6, 7260)] == [
        "0 s",
        "59 s",
        "7 min 12 s",
        "1 h 0 min",
        "2 h 1 min",
    ]
    assert list(report.flatten({"a": {"b": 1, "c": {"d": "x"}}, "e": None})) == [
        ("a.b", "1"),
        ("a.c.d", '"x"'),
        ("e", "null"),
    ]


def test_an_article_of_unequal_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match=r"article 'Fugue'.*must be equal"):
        dataclasses.replace(fake_article(2), losses=np.zeros(3))


def test_long_articles_are_cut_and_say_so() -> None:
    page = Page(fake_report(articles=[fake_article(0, sentences=60)]))
    hidden = len(fake_article(0, sentences=60).tokens) - report.TOKENS_SHOWN
    assert [text.strip() for _, text in page.all("span", within="more")] == [f"… {hidden:,} more tokens"]


def test_legend_covers_all_ranks() -> None:
    shades = tokens.legend(0.22)
    assert [shade.called for shade in shades] == [False, False, True, True, True]
    assert shades[0].name == "0 to 52%"
    assert shades[2].name == "78 to 89%"
    assert shades[-1].name.endswith("100%")
