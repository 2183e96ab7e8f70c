"""Charts as inline SVG: pure functions from arrays to markup, no script needed to read them.

Colours are CSS classes (`s-train`, `s-factual`, ...) that the page defines for light and dark. Every line
chart also carries its values as JSON in `data-points`, which the page's script turns into a readout.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup, escape

from lacy_jax.measures import separation

Role = Literal["train", "validation", "factual", "other", "call", "untaken", "further", "quiet"]
Format = Callable[[float], str]
Ticks = Callable[[Sequence[float]], list[str]]

WIDTH, HEIGHT = 440, 270
LEFT, RIGHT, TOP, BOTTOM = 46, 96, 26, 34
CHARACTER = 6.8  # width of one in a direct label, about
LABEL_GAP = 15  # smallest distance of two direct labels, in units of the view box
MAX_POINTS = 240  # a line of more points is averaged: the eye cannot use them, the page must carry them


@dataclass(frozen=True)
class Series:
    """A line: x and y are float[N]; x ascends; a y that is not finite is a gap. Band: its edges, two float[N]."""

    label: str
    x: np.ndarray
    y: np.ndarray
    role: Role
    band: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Scale:
    """Linear map from data (low..high) to the view box (start..end)."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


def tick_texts(values: Sequence[float]) -> list[str]:
    """Numbers of an axis, all with as many decimals as the finest needs: [0.5, 1.0] -> ['0.5', '1.0']."""
    if max((abs(value) for value in values), default=0.0) >= 1000 or any(0 < abs(value) < 1e-3 for value in values):
        return [short_number(value) for value in values]
    decimals = max((len(f"{value:.6f}".rstrip("0").split(".")[1]) for value in values), default=0)
    return [f"{value:.{decimals}f}".replace("-", "\u2212") for value in values]


def tick_percents(values: Sequence[float]) -> list[str]:
    """Shares of an axis: [0.05, 0.1] -> ['5%', '10%']."""
    return [f"{text}%" for text in tick_texts([round(100 * value, 9) for value in values])]


def short_number(value: float) -> str:
    """1234567 -> '1.2M'; 600 -> '600'; 0.0003 -> '3e-4'."""
    if not math.isfinite(value):
        return "not finite"
    magnitude = abs(value)
    for limit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if magnitude >= limit * 0.9995:
            return f"{value / limit:.3g}{suffix}"
    if 0 < magnitude < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}"


def percent(value: float) -> str:
    """0.1534 -> '15%'; 0.0153 -> '1.5%'."""
    return f"{value * 100:.0f}%" if value == 0 or abs(value) >= 0.1 else f"{value * 100:.2g}%"


def nice_ticks(low: float, high: float, *, count: int) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten) within low..high, about `count` of them."""
    span = high - low
    if not span > 0:
        return [low]
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def spread(positions: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Moves label positions apart by at least `gap`, in their order, kept within low..high where they fit."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    placed = list(positions)
    floor = low
    for index in order:
        placed[index] = floor = max(positions[index], floor)
        floor += gap
    ceiling = high
    for index in reversed(order):
        placed[index] = ceiling = min(placed[index], ceiling)
        ceiling -= gap
    return placed


def thin(series: Series, *, most: int = MAX_POINTS) -> Series:
    """The same line with at most `most` points: means of neighbouring points, gaps left out of the means."""
    if len(series.x) <= most:
        return series
    chunks = np.array_split(np.arange(len(series.x)), most)

    def means(values: np.ndarray) -> np.ndarray:
        parts = [values[chunk][np.isfinite(values[chunk])] for chunk in chunks]
        return np.array([part.mean() if len(part) else np.nan for part in parts])

    band = (means(series.band[0]), means(series.band[1])) if series.band else None
    return Series(series.label, means(series.x), means(series.y), series.role, band)


def tag(name: str, content: str = "", /, **attributes: object) -> Markup:
    """One element. Content that is not Markup is escaped, and so is every attribute; `_` in names reads `-`."""
    text = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items())
    return Markup(f"<{name}{text}>{escape(content)}</{name}>")


def join(parts: Sequence[Markup]) -> Markup:
    """Concatenation of markup."""
    return Markup("").join(parts)


def frame(x: Scale, y: Scale, *, x_label: str, y_label: str, x_ticks: Ticks = tick_texts, y_ticks: Ticks) -> Markup:
    """Grid lines, ticks and the names of both axes (the y axis' above it, so that nobody tilts their head)."""
    parts = [tag("text", y_label, x=0, y=12, class_="axis")]
    values = nice_ticks(y.low, y.high, count=6)
    for value, text in zip(values, y_ticks(values), strict=True):
        at = round(y(value), 1)
        parts.append(tag("line", x1=x.start, x2=x.end, y1=at, y2=at, class_="grid"))
        parts.append(tag("text", text, x=x.start - 7, y=at + 4, class_="tick end"))
    values = nice_ticks(x.low, x.high, count=4)
    for value, text in zip(values, x_ticks(values), strict=True):
        at = round(x(value), 1)
        parts.append(tag("line", x1=at, x2=at, y1=y.start, y2=y.start + 4, class_="base"))
        parts.append(tag("text", text, x=at, y=y.start + 17, class_="tick middle"))
    parts.append(tag("line", x1=x.start, x2=x.end, y1=y.start, y2=y.start, class_="base"))
    parts.append(tag("text", x_label, x=x.end + 22, y=y.start + 17, class_="axis"))
    return join(parts)


def path_of(series: Series, *, x: Scale, y: Scale) -> str:
    """SVG path of a line; a point that is not finite lifts the pen."""
    words, pen_down = [], False
    for at, value in zip(series.x, series.y, strict=True):
        if not math.isfinite(value):
            pen_down = False
            continue
        words.append(f"{'L' if pen_down else 'M'}{x(at):.1f} {y(value):.1f}")
        pen_down = True
    return "".join(words)


def band_path(line: Series, *, x: Scale, y: Scale) -> Markup:
    """The area between the edges of a line's band."""
    assert line.band is not None
    low, high = line.band
    whole = np.isfinite(low) & np.isfinite(high)
    outline = [(a, b) for a, b in zip(line.x[whole], low[whole], strict=True)]
    outline += [(a, b) for a, b in zip(line.x[whole][::-1], high[whole][::-1], strict=True)]
    return tag(
        "path", d="M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in outline) + "Z", class_=f"wash s-{line.role}"
    )


def settled_high(series: Sequence[Series], *, after: float = 0.03) -> float:
    """Highest value once the first `after` of the steps are over: the first cliff of a loss is not worth the room."""
    last = max(float(line.x[-1]) for line in series)
    late = [value for line in series for at, value in zip(line.x, line.y, strict=True) if at >= after * last]
    finite = [float(value) for value in late if math.isfinite(value)]
    return max(finite, default=1.0)


def readout(series: Sequence[Series], x: Scale, *, x_name: str, value_format: Format) -> str:
    """JSON list of [x in the view box, heading, lines of text], one entry a step at which any line has a value."""
    rows: dict[float, list[str]] = {}
    for line in series:
        for at, value in zip(line.x, line.y, strict=True):
            if math.isfinite(value):
                rows.setdefault(float(at), []).append(f"{line.label} {value_format(value)}")
    return json.dumps([[round(x(at), 1), f"{x_name} {at:,.0f}", rows[at]] for at in sorted(rows)])


def line_chart(
    series: Sequence[Series],
    *,
    y_label: str,
    x_label: str = "step",
    y_ticks: Ticks = tick_texts,
    value_format: Format = short_number,
    y_low: float | None = None,
    y_high: float | None = None,
) -> Markup | None:
    """Lines over training steps (or what `x_label` says), named at their ends.

    Args:
      series: the lines; those without a finite value are left out.
      y_label: what is drawn, with its unit.
      y_ticks: how the axis' numbers read; `value_format`: how the values in the readout do.
      y_low: lower end of the axis where it has a meaning (0 for shares); else the data's.
      y_high: upper end; else the data's. What lies outside is clipped.

    Returns:
      An <svg>, or None where no line has a value.
    """
    lines = [thin(line) for line in series if np.isfinite(line.y).any()]
    if not lines:
        return None
    values = np.concatenate([edge for line in lines for edge in (line.y, *(line.band or ()))])
    values = values[np.isfinite(values)]
    low = float(values.min()) if y_low is None else y_low
    high = max(float(values.max()) if y_high is None else y_high, low + 1e-9 + abs(low) * 1e-3)
    room = 0.06 * (high - low)
    right = max(RIGHT, 8 + CHARACTER * max(len(line.label) for line in lines))
    x = Scale(0.0, max(float(line.x[-1]) for line in lines), LEFT, WIDTH - right)
    y = Scale(low - (room if y_low is None else 0.0), high + room, HEIGHT - BOTTOM, TOP)
    parts = [frame(x, y, x_label=x_label, y_label=y_label, y_ticks=y_ticks)]
    marks: list[Markup] = []
    marks.extend(band_path(line, x=x, y=y) for line in lines if line.band)
    for line in lines:
        marks.append(tag("path", d=path_of(line, x=x, y=y), class_=f"line s-{line.role}"))
        points = [(at, value) for at, value in zip(line.x, line.y, strict=True) if math.isfinite(value)]
        if len(points) <= 12:
            marks.extend(
                tag("circle", cx=f"{x(at):.1f}", cy=f"{y(v):.1f}", r=2.4, class_=f"dot s-{line.role}")
                for at, v in points
            )
    # A nested <svg> clips without an id, which would have to be unique in the page.
    box = {"x": 0, "y": TOP - 4, "width": WIDTH, "height": HEIGHT - BOTTOM - TOP + 8}
    view = f"0 {TOP - 4} {WIDTH} {HEIGHT - BOTTOM - TOP + 8}"
    parts.append(tag("svg", join(marks), **box, viewBox=view))
    parts.append(end_labels(lines, y, at=x.end + 8))
    last = ", ".join(f"{line.label} {value_format(line.y[np.isfinite(line.y)][-1])}" for line in lines)
    points_json = readout(lines, x, x_name=x_label, value_format=value_format)
    return figure(join(parts), label=f"{y_label} over {x_label}; at the end: {last}", points=points_json)


def end_labels(lines: Sequence[Series], y: Scale, *, at: float) -> Markup:
    """Names of lines beside their last values, kept apart."""
    ends = [min(max(y(float(line.y[np.isfinite(line.y)][-1])), y.end), y.start) for line in lines]
    placed = spread(ends, gap=LABEL_GAP, low=y.end + 4, high=y.start - 10)
    return join(
        [
            tag("text", line.label, x=at, y=round(position + 4, 1), class_=f"name s-{line.role}")
            for line, position in zip(lines, placed, strict=True)
        ]
    )


def figure(content: Markup, *, label: str, points: str = "[]") -> Markup:
    """The outer <svg>: scales with the page, says what it shows to those who cannot see it."""
    return tag(
        "svg",
        content,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        class_="chart",
        role="img",
        aria_label=label,
        data_points=points,
    )


def histogram_chart(scores: np.ndarray, factual: np.ndarray, *, threshold: float, threshold_name: str) -> Markup | None:
    """Two histograms of call scores, each as a share of its own class, and the score above which a budget calls.

    Args:
      scores: float[N], finite.
      factual: bool[N].
      threshold: a score to mark with a vertical line, named `threshold_name`.
    """
    if not factual.any() or factual.all():
        return None
    low, high = np.quantile(scores, [0.002, 0.998])
    low, high = float(min(low, threshold)), float(max(high, threshold))
    edges = np.linspace(low, high if high > low else low + 1.0, 37)
    groups: list[tuple[str, np.ndarray, Role]] = []
    for name, chosen, role in (("other", ~factual, "other"), ("factual", factual, "factual")):
        inside = np.clip(scores[chosen], edges[0], edges[-1])
        groups.append((name, np.histogram(inside, edges)[0] / chosen.sum(), role))  # type: ignore[arg-type]
    x = Scale(float(edges[0]), float(edges[-1]), LEFT, WIDTH - 24)
    y = Scale(0.0, max(float(shares.max()) for _, shares, _ in groups) * 1.12, HEIGHT - BOTTOM, TOP)
    parts = [frame(x, y, x_label="", y_label="share of the class", y_ticks=tick_percents)]
    for _, shares, role in groups:
        corners = [f"M{x(edges[0]):.1f} {y.start}"]
        for index, share in enumerate(shares):
            corners.append(f"L{x(edges[index]):.1f} {y(share):.1f}L{x(edges[index + 1]):.1f} {y(share):.1f}")
        parts.append(tag("path", d="".join(corners) + f"L{x(edges[-1]):.1f} {y.start}Z", class_=f"area s-{role}"))
    parts.append(tag("line", x1=round(x(threshold), 1), x2=round(x(threshold), 1), y1=TOP, y2=y.start, class_="mark"))
    side = "end" if x(threshold) > (x.start + x.end) / 2 else "start"
    shift = -6 if side == "end" else 6
    parts.append(tag("text", threshold_name, x=round(x(threshold) + shift, 1), y=TOP + 8, class_=f"name {side} s-call"))
    parts.append(tag("text", "call score (log-odds)", x=x.end, y=TOP - 14, class_="axis end"))
    parts.append(peak_labels(groups, edges, x=x, y=y))
    return figure(join(parts), label="Histograms of the call scores of factual and of other tokens")


def peak_labels(groups: Sequence[tuple[str, np.ndarray, Role]], edges: np.ndarray, *, x: Scale, y: Scale) -> Markup:
    """Names of histograms at their centres of mass, just above the curve there."""
    centres = (edges[:-1] + edges[1:]) / 2
    spots = [float((centres * shares).sum() / shares.sum()) for _, shares, _ in groups]
    parts = []
    for (name, shares, role), spot in zip(groups, spots, strict=True):
        # Out to the far side of the other class, where the areas overlap least.
        outward = "start" if spot == max(spots) else "end"
        target = spot + (1 if outward == "start" else -1) * 0.04 * (edges[-1] - edges[0])
        index = int(np.clip(np.searchsorted(edges, target) - 1, 0, len(shares) - 1))
        nearby = shares[max(index - 2, 0) : index + 3].max()
        at_y = max(y(float(nearby)) - 7, TOP + 24)
        parts.append(tag("text", name, x=round(x(target), 1), y=round(at_y, 1), class_=f"name {outward} s-{role}"))
    return join(parts)


def roc_chart(curve: separation.RocCurve, *, at: separation.BudgetPoint | None, positive: str = "factual") -> Markup:
    """The ROC curve on a square, its area, and the point at which a budget would work; what is `positive`."""
    side = HEIGHT - BOTTOM - TOP
    x = Scale(0.0, 1.0, LEFT, LEFT + side)
    y = Scale(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    keep = np.unique(np.linspace(0, len(curve.true_rate) - 1, MAX_POINTS).astype(int))
    path = path_of(Series("", curve.false_rate[keep], curve.true_rate[keep], "factual"), x=x, y=y)
    parts = [
        frame(x, y, x_label="", y_label=f"{positive} tokens called", x_ticks=tick_percents, y_ticks=tick_percents),
        tag("text", "other tokens called", x=x.end + 24, y=y.start + 17, class_="axis"),
        tag("path", d=f"M{x.start} {y.start}L{x.end} {y.end}", class_="line dash s-quiet"),
        tag("path", d=f"{path}L{x.end} {y.start}Z", class_="wash s-factual"),
        tag("path", d=path, class_="line s-factual"),
        tag("text", f"area {curve.area:.3f}", x=x.end + 14, y=TOP + 10, class_="big s-factual"),
        tag("text", "0.5 is chance", x=x.end + 14, y=TOP + 27, class_="axis"),
    ]
    if at is not None:
        spot_x, spot_y = x(at.false_rate), y(at.recall)
        lines = [
            f"At a budget of {percent(at.budget)}",
            f"{percent(at.recall)} of the {positive}",
            "tokens are called,",
            f"and {percent(at.precision)} of the calls",
            f"are {positive}.",
        ]
        parts.append(tag("path", d=f"M{spot_x:.1f} {spot_y:.1f}L{x.end + 8:.1f} {TOP + 84}", class_="base"))
        parts.append(tag("circle", cx=f"{spot_x:.1f}", cy=f"{spot_y:.1f}", r=4.5, class_="dot s-call"))
        for index, text in enumerate(lines):
            parts.append(
                tag("text", text, x=x.end + 14, y=TOP + 72 + 16 * index, class_="note" if index else "name s-call")
            )
    return figure(join(parts), label=f"ROC curve of call scores for {positive} tokens, area {curve.area:.3f}")
