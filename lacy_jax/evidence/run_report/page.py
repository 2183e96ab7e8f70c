"""One self-contained HTML page about a run: losses, calls, held-out articles, cascade samples, settings.

The page makes no request, and needs no script to be read (scripts add readouts). Plain values go in; `render_report`
gives the page's text, `write_page` writes it to a file.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from lacy_jax.cascade.rows import Completion, Counts
from lacy_jax.evidence.pages import charts, curves, tokens
from lacy_jax.evidence.pages.curves import Chart, Row
from lacy_jax.evidence.pages.render import render
from lacy_jax.evidence.run_report.datasets import COLUMNS, dataset_charts, datasets_of
from lacy_jax.measures import separation
from lacy_jax.training import goodput

ARTICLES_SHOWN = 12
TOKENS_SHOWN = 700  # of one article
METHODS = {"lacy": "LaCy", "ntp": "plain next-token prediction"}


@dataclass(frozen=True)
class RunSummary:
    """What the run was.

    Attributes:
      name: of the config, e.g. "slm_tiny".
      method: a key of METHODS, or any other name.
      parameters: trainable parameters, a tied embedding counted once.
      steps: completed updates.
      tokens: targets seen.
      seconds: wall time of training; 0 where unknown.
      device: e.g. "2 x CPU".
      command: shell command that makes the run again.
      config: the whole nested config.
      provenance: further facts to print, e.g. versions or the data's fingerprint.
    """

    name: str
    method: str
    parameters: int
    steps: int
    tokens: int
    seconds: float
    device: str
    command: str
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ArticleScores:
    """A held-out article as the SLM saw it, token by token.

    Attributes:
      title: of the article.
      tokens: N token texts in order; together they are the text.
      call_scores: float[N], the score of calling where the token was to be predicted, such as the log-odds of `<CALL>`;
        NaN where there is none.
      factual: bool[N].
      losses: float[N], NLL of the token without `<CALL>`, in nats; NaN where it was not predicted.

    Raises:
      ValueError: lengths that differ.
    """

    title: str
    tokens: Sequence[str]
    call_scores: np.ndarray
    factual: np.ndarray
    losses: np.ndarray

    def __post_init__(self) -> None:
        lengths = [len(self.tokens), len(self.call_scores), len(self.factual), len(self.losses)]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"article {self.title!r}: tokens, call_scores, factual, losses have lengths {lengths}; must be equal"
            )


def render_report(
    *,
    summary: RunSummary,
    metrics: Sequence[Row],
    articles: Sequence[ArticleScores] = (),
    samples: Sequence[Completion] = (),
    samples_missing: str = "",
    partner: str = "partner",
    budget: float = 0.22,
) -> str:
    """The page as text.

    Args:
      summary: what the run was.
      metrics: its log by ascending step, as in metrics.jsonl; whatever it lacks reads "not recorded".
      articles: held-out articles. The first ARTICLES_SHOWN are printed; the separation is measured on all of them.
      samples: what the cascade wrote after held-out prompts, with the partner of this name.
      samples_missing: why there are none, where the cascade failed.
      budget: share of tokens delegated at which the separation is stated and the colours are cut.
    """
    pooled, datasets = pool(articles), datasets_of(metrics)
    return render(
        "report.html",
        summary=summary,
        sentence=sentence(summary),
        tiles=headline(metrics, pooled),
        loss_charts=curves.loss_charts(metrics),
        datasets=datasets,
        dataset_columns=COLUMNS,
        dataset_charts=dataset_charts(metrics, [dataset.name for dataset in datasets]),
        call_charts=curves.call_charts(metrics),
        health_charts=curves.health_charts(metrics),
        times=times(metrics),
        separation=separation_charts(pooled, budget=budget),
        pooled=pooled,
        articles=[
            article_view(article, ranked=np.sort(pooled.scores), budget=budget) for article in articles[:ARTICLES_SHOWN]
        ],
        article_count=len(articles),
        legend=tokens.legend(budget),
        samples=[sample_view(sample, partner=partner) for sample in samples],
        samples_missing=samples_missing,
        partner=partner,
        realised=realised_share(samples),
        budget=charts.percent(budget),
        settings=list(flatten(summary.config)),
    )


@dataclass(frozen=True)
class Pooled:
    """All finite call scores of some articles in one row: float64[N], and whether each token is factual, bool[N]."""

    scores: np.ndarray
    factual: np.ndarray


def pool(articles: Sequence[ArticleScores]) -> Pooled:
    """Joins the call scores of articles."""
    scores = np.concatenate([np.zeros(0), *(np.asarray(article.call_scores, float) for article in articles)])
    factual = np.concatenate([np.zeros(0, bool), *(np.asarray(article.factual, bool) for article in articles)])
    return Pooled(scores=scores[np.isfinite(scores)], factual=factual[np.isfinite(scores)])


@dataclass(frozen=True)
class Tile:
    """A headline number; value None reads "not recorded"."""

    name: str
    value: str | None
    note: str


def headline(rows: Sequence[Row], pooled: Pooled) -> list[Tile]:
    """The numbers a reader looks for first."""

    def tile(name: str, note: str, form: charts.Format, *keys: str, split: curves.Split) -> Tile:
        found = curves.latest(rows, *keys, split=split)
        return Tile(name, form(found.value), f"{note}, step\u00a0{found.step:,}") if found else Tile(name, None, note)

    roc = tile(
        "ROC area of call scores", "factual against other", curves.three_decimals, "roc/factual", split="validation"
    )
    curve = separation.roc_curve(pooled.scores, pooled.factual)
    if roc.value is None and curve is not None:
        roc = Tile(roc.name, curves.three_decimals(curve.area), f"factual against other, {len(pooled.scores):,} tokens")
    return [
        roc,
        tile("Validation loss", "nats per token", curves.three_decimals, "nll/all", "loss", split="validation"),
        tile("Bits per byte", "validation", curves.three_decimals, "bits_per_byte", split="validation"),
        tile("Targets taken", "share of all targets", charts.percent, "share/taken", split="train"),
        tile("Speed", "tokens per second", charts.short_number, "tokens_per_second", split="train"),
    ]


def times(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """What the time of the run was spent on, as (what, how long, share); [] where it was not recorded."""
    found = next((row for row in reversed(rows) if row["split"] == "goodput"), {})
    known = goodput.read_record(found)
    wall = sum(known.values())
    return [(name, duration(spent), f"{spent / wall:.1%}") for name, spent in known.items() if spent > 0]


def sentence(summary: RunSummary) -> str:
    """What this run is, in one sentence."""
    method = METHODS.get(summary.method, summary.method)
    time = f" in {duration(summary.seconds)}" if summary.seconds > 0 else ""
    return (
        f"A decoder of {charts.short_number(summary.parameters)} parameters, pretrained with {method} for "
        f"{summary.steps:,} steps ({charts.short_number(summary.tokens)} tokens) on {summary.device}{time}."
    )


def duration(seconds: float) -> str:
    """432.4 -> '7 min 12 s'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def separation_charts(pooled: Pooled, *, budget: float) -> list[Chart]:
    """How far apart the call scores of factual and other tokens lie; empty where there is nothing to compare."""
    curve = separation.roc_curve(pooled.scores, pooled.factual)
    point = separation.at_budget(pooled.scores, pooled.factual, budget=budget)
    if curve is None or point is None:
        return []
    histogram = charts.histogram_chart(
        pooled.scores, pooled.factual, threshold=point.threshold, threshold_name=f"highest {charts.percent(budget)}"
    )
    return [
        Chart("Call scores of held-out tokens", "Each histogram sums to 100% of its own class.", histogram),
        Chart(
            "ROC curve",
            "Every threshold at once: no budget has to be chosen to read it.",
            charts.roc_chart(curve, at=point),
        ),
    ]


@dataclass(frozen=True)
class ArticleView:
    """An article, ready for the page."""

    title: str
    text: Markup
    length: int
    hidden: int
    factual: str
    loss: str | None
    area: str | None


def article_view(article: ArticleScores, *, ranked: np.ndarray, budget: float) -> ArticleView:
    """Colours an article by the rank of its call scores among `ranked`, the sorted scores of all articles."""
    cut = slice(0, TOKENS_SHOWN)
    alone = pool([article])
    curve = separation.roc_curve(alone.scores, alone.factual)
    losses = article.losses[np.isfinite(article.losses)]
    return ArticleView(
        title=article.title,
        text=tokens.coloured(
            article.tokens[cut],
            call_scores=article.call_scores[cut],
            factual=article.factual[cut],
            losses=article.losses[cut],
            ranked=ranked,
            budget=budget,
        ),
        length=len(article.tokens),
        hidden=max(0, len(article.tokens) - TOKENS_SHOWN),
        factual=charts.percent(float(np.mean(article.factual))) if len(article.tokens) else "0%",
        loss=curves.two_decimals(float(losses.mean())) if len(losses) else None,
        area=curves.two_decimals(curve.area) if curve else None,
    )


@dataclass(frozen=True)
class SampleView:
    """A cascade sample, ready for the page."""

    text: Markup
    delegated: int
    generated: int


def sample_view(sample: Completion, *, partner: str, marks: Sequence[tokens.Mark] = ()) -> SampleView:
    """Colours a completion by who wrote what; `marks` of its prompt and text add classes of their own."""
    written = [(piece.text, partner if piece.source == "partner" else None, piece.score) for piece in sample.pieces]
    text = tokens.written(sample.prompt, written, marks=marks)
    return SampleView(text=text, delegated=sample.counts.delegated, generated=sample.counts.generated)


def realised_share(samples: Sequence[Completion]) -> str | None:
    """Share of all generated tokens that the partner wrote."""
    counts = sum((sample.counts for sample in samples), start=Counts())
    return charts.percent(counts.share) if counts.generated else None


def flatten(config: Mapping[str, Any], *, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted name, value as JSON)."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flatten(value, prefix=f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False, default=str)
