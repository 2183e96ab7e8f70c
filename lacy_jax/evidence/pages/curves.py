"""From the rows of a run's log to its charts and headline numbers.

A row is one line of metrics.jsonl: {"step": int, "split": "train" | "validation", <key>: number, ...}. Any key may be
missing; what was never recorded gives no line, no chart, no number.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from lacy_jax.data.documents import Split
from lacy_jax.evidence.pages import charts
from lacy_jax.evidence.pages.charts import Role, Series

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Chart:
    """A titled chart; svg None reads "not recorded"."""

    title: str
    caption: str
    svg: Markup | None


@dataclass(frozen=True)
class Latest:
    """The last value of a key, and the step at which it was recorded."""

    value: float
    step: int


def is_number(value: object) -> bool:
    """Whether a logged value can be drawn."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**1000  # a float holds no larger one
    return isinstance(value, float)


def latest(rows: Sequence[Row], *keys: str, split: Split) -> Latest | None:
    """Last finite value of the first of the keys that has one."""
    for key in keys:
        for row in reversed(rows):
            if row["split"] == split and is_number(row.get(key)) and math.isfinite(row[key]):
                return Latest(value=float(row[key]), step=int(row["step"]))
    return None


def series(rows: Sequence[Row], key: str, *, split: Split, label: str, role: Role) -> list[Series]:
    """The values of a key as one line, with its quartiles as band; an empty list where it was never recorded."""
    found = [row for row in rows if row["split"] == split and is_number(row.get(key))]
    if not found:
        return []
    x, y = (np.array([row[name] for row in found], float) for name in ("step", key))
    quartiles = [f"{key}/q25", f"{key}/q75"]
    if not all(is_number(row.get(name)) for row in found for name in quartiles):
        return [Series(label, x, y, role)]
    low, high = (np.array([row[name] for row in found], float) for name in quartiles)
    return [Series(label, x, y, role, band=(low, high))]


def held_out(rows: Sequence[Row], *lines: tuple[str, str, Role]) -> list[Series]:
    """Lines (key, label, role) on the validation split, or on the training split where only that recorded them."""
    for split in ("validation", "train"):
        found = [line for key, label, role in lines for line in series(rows, key, split=split, label=label, role=role)]
        if found:
            return found
    return []


def two_decimals(value: float) -> str:
    return f"{value:.2f}"


def three_decimals(value: float) -> str:
    return f"{value:.3f}"


def loss_chart(lines: Sequence[Series]) -> Markup | None:
    """Lines of losses, the first cliff cut off."""
    return charts.line_chart(
        lines,
        y_label="nats per token",
        value_format=three_decimals,
        y_high=charts.settled_high(lines) if lines else None,
    )


def loss_charts(rows: Sequence[Row]) -> list[Chart]:
    """Loss of the whole, and by class of token."""
    key = "nll/all" if latest(rows, "nll/all", split="train") or latest(rows, "nll/all", split="validation") else "loss"
    whole = [
        *series(rows, key, split="train", label="training", role="train"),
        *series(rows, key, split="validation", label="validation", role="validation"),
    ]
    classes = held_out(rows, ("nll/factual", "factual", "factual"), ("nll/other", "other", "other"))
    return [
        Chart(
            "Training and validation",
            "Mean negative log-likelihood of the true next token, <CALL> left out: comparable between methods."
            if key == "nll/all"
            else "The loss that was minimised.",
            loss_chart(whole),
        ),
        Chart(
            "Loss by class of token",
            "Factual tokens against all others, on held-out text. What is delegated need not be learnt by heart.",
            loss_chart(classes),
        ),
    ]


def call_charts(rows: Sequence[Row]) -> list[Chart]:
    """What is delegated while training, and what the model makes of it."""
    shares = [
        *series(rows, "share/factual", split="train", label="factual", role="factual"),
        *series(rows, "share/taken", split="train", label="taken", role="call"),
    ]
    scores = held_out(rows, ("call_score/factual", "factual", "factual"), ("call_score/other", "other", "other"))
    areas = held_out(rows, ("roc/factual", "factual", "factual"), ("roc/greedy_wrong", "errors", "call"))
    losses = held_out(rows, ("nll/taken", "taken", "call"), ("nll/untaken", "untaken", "untaken"))
    return [
        Chart(
            "Targets taken",
            "Share of targets that are factual, and that the rule took: those learn <CALL> in place of the word.",
            charts.line_chart(
                shares, y_label="share of targets", y_ticks=charts.tick_percents, value_format=charts.percent, y_low=0.0
            ),
        ),
        Chart(
            "Call score by class",
            "Mean log-odds of <CALL>, shaded between the quartiles. Only the distance informs: nothing pins the level.",
            charts.line_chart(scores, y_label="log-odds of <CALL>", value_format=two_decimals),
        ),
        Chart(
            "Separation over training",
            "ROC area of the call score for factual tokens, and for the SLM's own errors; 0.5 is chance.",
            charts.line_chart(areas, y_label="ROC area", value_format=three_decimals),
        ),
        Chart(
            "Loss of taken and untaken targets",
            "Loss of the true word, also where <CALL> was learnt in its place.",
            loss_chart(losses),
        ),
    ]


def health_charts(rows: Sequence[Row]) -> list[Chart]:
    """Whether the run was well: learning rate, gradients, speed. What was not recorded is left out."""
    keys = {
        "learning_rate": ("Learning rate", "learning rate"),
        "gradient_norm": ("Gradient norm", "norm before clipping"),
        "tokens_per_second": ("Speed", "tokens per second"),
    }
    drawn = []
    for key, (title, y_label) in keys.items():
        lines = series(rows, key, split="train", label="", role="train")
        svg = charts.line_chart(lines, y_label=y_label, y_low=0.0)
        if svg is not None:
            drawn.append(Chart(title, "", svg))
    return drawn
