"""What an adaptation shows: lines for a terminal, and a page."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from lacy_jax.adaptation.fit import Ranking
from lacy_jax.adaptation.run import UNCERTAINTY, Adapted
from lacy_jax.adaptation.samples import Written
from lacy_jax.cascade.render import marked_text
from lacy_jax.cascade.scores import CALL_SCORES
from lacy_jax.data.corpora.vital_articles import has_topics
from lacy_jax.evidence.pages import charts, tokens
from lacy_jax.evidence.pages.curves import Chart
from lacy_jax.evidence.pages.render import render
from lacy_jax.evidence.real_text.suite import CheckedClaim
from lacy_jax.evidence.run_report.page import ArticleView, SampleView, article_view, sample_view
from lacy_jax.evidence.run_report.samples import article_of
from lacy_jax.evidence.token_scores import ENDINGS
from lacy_jax.measures import separation
from lacy_jax.measures.intervals import Interval, bootstrap_area

ARTICLES_SHOWN = 6
SAMPLES_SHOWN = 8
SAMPLES_PRINTED = 2


def title_of(ranking: Ranking) -> str:
    """`1 - max p, gated`."""
    return CALL_SCORES[ranking.score].title + ENDINGS[ranking.gate]


def lines(found: Adapted) -> list[str]:
    """What is said at the end: the best way to call beside the model's own uncertainty."""
    budget = found.model.config.cascade.budget
    both = found.tokens.factual & found.tokens.wrong
    facts = "facts" if found.answers is None else "facts that the partner knows"
    said = [
        f"{len(found.readings)} held-out documents, {len(both):,} tokens: {found.tokens.factual.mean():.1%} are "
        f"{facts}, {both.mean():.1%} are such and the model gets them wrong: these need a call",
        f"fitted to {found.documents} documents, {found.fitted:,} tokens, in {sum(found.seconds.values()):.0f} s: "
        + ", ".join(f"{name} {seconds:.0f}" for name, seconds in found.seconds.items()),
    ]
    if found.answers is not None:
        asked, right, unanswered = dataclasses.astuple(found.answers)
        said.append(
            f"the partner was asked for {asked:,} facts: {right / asked:.1%} right, "
            f"{(asked - right - unanswered) / asked:.1%} wrong, {unanswered / asked:.1%} not answered"
        )
    for each in _compared(found):
        s = each.separation
        interval = bootstrap_area(found.tokens.scores[each.name], both, found.tokens.documents)
        said.append(
            f"{title_of(each):<20} ROC area {s.area_both:.3f} ({interval.low:.3f} to {interval.high:.3f}); among the "
            f"{budget:.0%} ranked highest, {s.precision:.1%} need a call, which are {s.recall:.1%} of all that do"
        )
    return said


def samples_lines(found: Adapted, *, colour: bool) -> list[str]:
    """What it writes: how many claims its documents hold, and the first texts of the cascade."""
    if found.samples is None:
        return []
    said = [f"{_counted(found)}:"]
    for each in _checks(found):
        said.append(
            f"  {each.name}: {each.supported} of {each.claims} claims are in the document, {each.share}; "
            f"{each.delegated} of the tokens delegated"
        )
    texts = [marked_text(each, colour=colour) for each in found.samples.asked.completions[:SAMPLES_PRINTED]]
    return [*said, *(f"\n{text}" for text in texts), ""]


def page(found: Adapted, *, command: str) -> str:
    """The page as text."""
    best, budget = found.best, found.model.config.cascade.budget
    ranked, partner = np.sort(found.tokens.scores[best.name]), found.model.config.cascade.partner
    return render(
        "adapt.html",
        name=found.model.config.name,
        lines=lines(found),
        rows=[(title_of(each), each.separation, each is best) for each in found.rankings],
        curves=[_roc(found, each, budget=budget) for each in _compared(found)],
        articles=_articles(found, ranked=ranked, budget=budget),
        legend=tokens.legend(budget),
        budget=charts.percent(budget),
        asks=_asks(found),
        samples=_sample_views(found),
        counted=_counted(found),
        checks=_checks(found),
        partner=partner,
        command=command,
    )


@dataclass(frozen=True)
class Check:
    """How many of the claims that somebody wrote the documents hold; the other two are ready to be read."""

    name: str
    supported: int
    claims: int
    share: str
    delegated: str


def _checks(found: Adapted) -> list[Check]:
    """The model alone, and with its partner."""
    if found.samples is None:
        return []
    names = ("alone", f"with the partner ({found.model.config.cascade.partner})")
    return [_check(name, each) for name, each in zip(names, (found.samples.alone, found.samples.asked), strict=True)]


def _check(name: str, written: Written) -> Check:
    claims = [claim for record in written.records for claim in record.claims]
    return Check(
        name=name,
        supported=sum(claim.supported for claim in claims),
        claims=len(claims),
        share=_percents(written.scores.precision),
        delegated=charts.percent(written.scores.call_share.estimate),
    )


def _percents(share: Interval) -> str:
    """`61% (57 to 65)`; nothing where nothing was counted."""
    if np.isnan(share.estimate):
        return "-"
    return f"{share.estimate:.0%} ({100 * share.low:.0f} to {100 * share.high:.0f})"


def _counted(found: Adapted) -> str:
    """How many texts were written, about what."""
    count = 0 if found.samples is None else len(found.samples.asked.records)
    about = "people and places" if has_topics(found.model.config.corpus) else "documents"
    return f"{count} texts about held-out {about}, {found.model.config.cascade.max_new_tokens} tokens each at most"


def _sample_views(found: Adapted) -> list[tuple[SampleView, SampleView]]:
    """The first openings, gone on with by the model alone and by its cascade; claims are marked."""
    if found.samples is None:
        return []
    partner = found.model.config.cascade.partner
    views = [
        [
            sample_view(completion, partner=partner, marks=[_mark(claim) for claim in record.claims])
            for completion, record in zip(written.completions, written.records, strict=True)
        ]
        for written in (found.samples.alone, found.samples.asked)
    ]
    return list(zip(*views, strict=True))[:SAMPLES_SHOWN]


def _mark(claim: CheckedClaim) -> tokens.Mark:
    return tokens.Mark(claim.start, claim.end, "supported" if claim.supported else "unsupported")


def _asks(found: Adapted) -> str:
    """When the model asks, in sentences."""
    settings, fact = found.model.config.cascade, "fact" if found.answers is None else "fact that the partner knows"
    return (
        f"It asks where the next token is a {fact} and it gets it wrong with a probability above {settings.price:g}. "
        f"In a long text it delegates {settings.budget:.0%} of the tokens at most; a short one may spend more."
    )


def _articles(found: Adapted, *, ranked: np.ndarray, budget: float) -> list[ArticleView]:
    """The first held-out articles, coloured by the best score."""
    scores, documents = found.tokens.scores[found.best.name], found.tokens.documents
    shown = found.readings[:ARTICLES_SHOWN]
    articles = [article_of(reading, scores[documents == number]) for number, reading in enumerate(shown)]
    return [article_view(article, ranked=ranked, budget=budget) for article in articles]


def _compared(found: Adapted) -> list[Ranking]:
    """The checkpoint's way to call, and the model's own uncertainty where that is another."""
    own = next(each for each in found.rankings if (each.score, each.gate) == (UNCERTAINTY, "none"))
    return [found.best] if found.best is own else [found.best, own]


def _roc(found: Adapted, ranking: Ranking, *, budget: float) -> Chart:
    """The ROC curve of a way to call."""
    scores, needed = found.tokens.scores[ranking.name], found.tokens.factual & found.tokens.wrong
    curve, point = separation.roc_curve(scores, needed), separation.at_budget(scores, needed, budget=budget)
    assert curve is not None  # it has a separation
    caption = "A call is needed where the next token is a fact that the model gets wrong."
    return Chart(f"Ranked by {title_of(ranking)}", caption, charts.roc_chart(curve, at=point, positive="needed"))
