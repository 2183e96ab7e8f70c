"""What an adaptation shows: lines for a terminal, and a page."""

import numpy as np

from lacy_jax.adaptation.fit import Ranking
from lacy_jax.adaptation.run import UNCERTAINTY, Adapted
from lacy_jax.cascade.scores import CALL_SCORES
from lacy_jax.config import CascadeConfig
from lacy_jax.evidence.pages import charts, tokens
from lacy_jax.evidence.pages.curves import Chart
from lacy_jax.evidence.pages.render import render
from lacy_jax.evidence.run_report.page import ArticleView, article_view, sample_view
from lacy_jax.evidence.run_report.samples import article_of
from lacy_jax.evidence.token_scores import ENDINGS
from lacy_jax.measures import separation
from lacy_jax.measures.intervals import bootstrap_area

ARTICLES_SHOWN = 6


def title_of(ranking: Ranking) -> str:
    """`1 - max p, gated`."""
    return CALL_SCORES[ranking.score].title + ENDINGS[ranking.gate]


def lines(found: Adapted) -> list[str]:
    """What is said at the end: the best way to call beside the model's own uncertainty."""
    budget = found.model.config.cascade.budget
    both = found.tokens.factual & found.tokens.wrong
    said = [
        f"{len(found.readings)} held-out documents, {len(both):,} tokens: {found.tokens.factual.mean():.1%} are facts, "
        f"{both.mean():.1%} are facts that the model gets wrong",
        f"fitted to {found.documents} documents, {found.fitted:,} tokens, in {sum(found.seconds.values()):.0f} s: "
        + ", ".join(f"{name} {seconds:.0f}" for name, seconds in found.seconds.items()),
    ]
    for each in _compared(found):
        s = each.separation
        interval = bootstrap_area(found.tokens.scores[each.name], both, found.tokens.documents)
        said.append(
            f"{title_of(each):<20} ROC area {s.area_both:.3f} ({interval.low:.3f} to {interval.high:.3f}); of the "
            f"{budget:.0%} ranked highest {s.precision:.1%} are such, which are {s.recall:.1%} of all"
        )
    return said


def page(found: Adapted, *, command: str) -> str:
    """The page as text."""
    best, budget = found.rankings[0], found.model.config.cascade.budget
    ranked, partner = np.sort(found.tokens.scores[best.name]), found.model.config.cascade.partner
    return render(
        "adapt.html",
        name=found.model.config.name,
        lines=lines(found),
        rows=[(title_of(each), each.separation) for each in found.rankings],
        curves=[_roc(found, each, budget=budget) for each in _compared(found)],
        articles=_articles(found, ranked=ranked, budget=budget),
        legend=tokens.legend(budget),
        budget=charts.percent(budget),
        asks=_asks(found.model.config.cascade),
        samples=[
            (sample_view(alone, partner=partner), sample_view(asked, partner=partner)) for alone, asked in found.samples
        ],
        partner=partner,
        command=command,
    )


def _asks(settings: CascadeConfig) -> str:
    """When the model asks, in a sentence."""
    if settings.policy == "quantile":
        return f"It asks at its highest scores, for {settings.budget:.0%} of the tokens."
    return (
        f"It asks where the next token is a fact that it gets wrong with a probability above {settings.price:g}. In a "
        f"long text it delegates {settings.budget:.0%} of the tokens at most; a short one may spend more."
    )


def _articles(found: Adapted, *, ranked: np.ndarray, budget: float) -> list[ArticleView]:
    """The first held-out articles, coloured by the best score."""
    scores, documents = found.tokens.scores[found.rankings[0].name], found.tokens.documents
    shown = found.readings[:ARTICLES_SHOWN]
    articles = [article_of(reading, scores[documents == number]) for number, reading in enumerate(shown)]
    return [article_view(article, ranked=ranked, budget=budget) for article in articles]


def _compared(found: Adapted) -> list[Ranking]:
    """The best way to call, and the model's own uncertainty where that is another."""
    own = next(each for each in found.rankings if (each.score, each.gate) == (UNCERTAINTY, "none"))
    best = found.rankings[0]
    return [best] if best is own else [best, own]


def _roc(found: Adapted, ranking: Ranking, *, budget: float) -> Chart:
    """The ROC curve of a way to call."""
    scores, needed = found.tokens.scores[ranking.name], found.tokens.factual & found.tokens.wrong
    curve, point = separation.roc_curve(scores, needed), separation.at_budget(scores, needed, budget=budget)
    assert curve is not None  # it has a separation
    caption = "A call is needed where the next token is a fact that the model gets wrong."
    return Chart(f"Ranked by {title_of(ranking)}", caption, charts.roc_chart(curve, at=point, positive="needed"))
