"""The page of `lacy_jax.acceptability`: what predicts that a mismatch matters, and examples of each kind."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from lacy_jax.evidence.acceptability.mismatches import PREDICTORS, Predicted, Target, Verdict
from lacy_jax.evidence.pages import charts
from lacy_jax.evidence.pages.curves import Chart
from lacy_jax.evidence.pages.render import render, write_page
from lacy_jax.evidence.pages.tokens import visible
from lacy_jax.measures.intervals import shown, wilson_interval

BINS, LEAST_IN_BIN = 5, 10
EXAMPLES = 6
EXAMPLE_BEFORE, EXAMPLE_AFTER = 90, 30  # characters


def write_acceptability_page(
    path: str,
    *,
    targets: Sequence[Target],
    mismatches: Sequence[Target],
    verdicts: Sequence[Verdict],
    predicted: Predicted,
    judge: str,
    command: str,
) -> None:
    """Writes the page to `path`; `verdicts` are of `mismatches`, which were drawn from `targets`."""
    pairs = list(zip(mismatches, verdicts, strict=True))
    page = render(
        "acceptability.html",
        targets=len(targets),
        mismatched=charts.percent(float(np.mean([target.mismatch for target in targets]))),
        judged=len(pairs),
        kinds=kind_rows(pairs),
        areas=[(n, shown(predicted.mismatch[n]), shown(predicted.unacceptable[n])) for n in PREDICTORS],
        chart=loss_chart(pairs),
        examples=[
            (title, [example_markup(target) for target in examples(pairs, factual=factual, verdict=verdict)])
            for title, factual, verdict in EXAMPLE_KINDS
        ],
        left_out=sum(verdict in ("unclear", "unanswered") for verdict in verdicts),
        judge=judge,
        command=command,
    )
    write_page(path, page)


EXAMPLE_KINDS: tuple[tuple[str, bool, Verdict], ...] = (
    ("Facts, not acceptable: what should be delegated", True, "unacceptable"),
    ("No facts, acceptable although the loss is high: a call would be wasted", False, "acceptable"),
    ("No facts, not acceptable: what the grammar does not see", False, "unacceptable"),
    ("Facts by the rule, acceptable", True, "acceptable"),
)


def kind_rows(pairs: Sequence[tuple[Target, Verdict]]) -> list[tuple[str, int, str]]:
    """(kind, judged mismatches, share not acceptable with its Wilson interval)."""
    rows = []
    for name, factual in (("factual", True), ("other", False)):
        own = [v for target, v in pairs if target.factual == factual and v in ("acceptable", "unacceptable")]
        bad = wilson_interval(sum(verdict == "unacceptable" for verdict in own), len(own))
        rows.append((name, len(own), shown(bad)))
    return rows


def loss_chart(pairs: Sequence[tuple[Target, Verdict]]) -> Chart:
    """The share of unacceptable mismatches over the loss, facts and others apart, in bins of equal count."""
    lines = []
    roles: tuple[tuple[str, bool, charts.Role], ...] = (("factual", True, "factual"), ("other", False, "other"))
    for name, factual, role in roles:
        own = [(t.loss, v) for t, v in pairs if t.factual == factual and v in ("acceptable", "unacceptable")]
        if not own:
            continue
        order = np.array(sorted(range(len(own)), key=lambda index: own[index][0]), int)
        bins = np.array_split(order, max(1, min(BINS, len(own) // LEAST_IN_BIN)))
        shares = [wilson_interval(sum(own[i][1] == "unacceptable" for i in each), len(each)) for each in bins]
        x = np.array([np.mean([own[i][0] for i in each]) for each in bins])
        y, low, high = (np.array([getattr(s, key) for s in shares]) for key in ("estimate", "low", "high"))
        lines.append(charts.Series(name, x, y, role, band=(low, high)))
    drawn = charts.line_chart(
        lines, y_label="not acceptable", x_label="loss, nats", y_ticks=charts.tick_percents,
        value_format=charts.percent, y_low=0.0, y_high=1.0,
    )  # fmt: skip
    caption = "Mismatches in bins of equal count; bands are 95% Wilson intervals."
    return Chart("Does the loss show what matters?", caption, drawn)


def examples(pairs: Sequence[tuple[Target, Verdict]], *, factual: bool, verdict: Verdict) -> list[Target]:
    """Those of the highest loss, one per document."""
    own = sorted((t for t, v in pairs if t.factual == factual and v == verdict), key=lambda t: -t.loss)
    by_document: dict[int, Target] = {}
    for target in own:
        by_document.setdefault(target.document, target)
    return list(by_document.values())[:EXAMPLES]


def example_markup(target: Target) -> Markup:
    """The text around a target: the target is <b>, the model's own token <s>; blanks and line ends show."""
    cut = "…" if len(target.before) > EXAMPLE_BEFORE else ""
    after = target.after[len(target.token) : EXAMPLE_AFTER]
    said = "␣" * len(target.said) if not target.said.strip(" ") else target.said
    return Markup("{}{}<b>{}</b>{}… <small>the model:</small> <s>{}</s> <small>loss {:.1f}</small>").format(
        cut, visible(target.before[-EXAMPLE_BEFORE:]), visible(target.token), visible(after), visible(said),
        target.loss,
    )  # fmt: skip
