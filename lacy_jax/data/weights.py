"""How `config.data.mixture` is written: datasets with names and weights, NAME:WEIGHTS:FOLDER, separated by commas.

    web:0.9:runs/data/packed/web-0123456789ab/1.0.0,people:0.1:gs://bucket/people-ba9876543210/1.0.0

WEIGHTS is a weight, or several that `..` joins, each WEIGHT or WEIGHT@PLACE. A place is a share of the budget (0.8), or
a whole number of steps above 1 (40000). Between two places a weight changes evenly; before the first and after the last
it stays. The first is at 0 and the last at 1 where that is not written. So 0.9 is constant, 0.9..0.5 falls over the
whole run, 1@0.8..0 falls in its last fifth, and 1@0.8..0.5@0.8 is a step.
"""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from lacy_jax.budget import Budget
from lacy_jax.config import Config
from lacy_jax.errors import DataError
from lacy_jax.paths import expand_home

SETTING = "config.data.mixture"
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_POINT = re.compile(r"(?P<weight>\d+(?:\.\d+)?)(?:@(?P<place>\d+(?:\.\d+)?))?")


Curve = list[tuple[int, Fraction]]
"""The weights of a dataset: (step, weight) by ascending steps."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A weight, and the place where it holds: a share of the budget up to 1, or a number of steps above it."""

    weight: Fraction
    place: Fraction


@dataclasses.dataclass(frozen=True)
class Entry:
    """A dataset of a mixture: its name, its version folder, and its weights by ascending places.

    One that never has a weight is only validated.
    """

    name: str
    folder: str
    points: tuple[Point, ...]

    @property
    def trained(self) -> bool:
        return any(point.weight for point in self.points)


@dataclasses.dataclass(frozen=True)
class Knot:
    """The shares of all datasets at a step, exact: those that hold up to it, and those that hold from it on."""

    step: int
    before: tuple[Fraction, ...]
    after: tuple[Fraction, ...]


def read_mixture(text: str) -> list[Entry]:
    """The datasets of a mixture in their order, [] for "".

    Raises:
        DataError: one line for each problem.
    """
    if not text:
        return []
    entries: list[Entry] = []
    problems: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        try:
            entries.append(_entry(part))
        except DataError as error:
            problems += error.problems
    for first, second in itertools.combinations(entries, 2):
        if first.name == second.name:
            problems.append(f"{SETTING}: two datasets are called {first.name!r}; give each a name of its own")
        elif first.folder == second.folder:
            problems.append(
                f"{SETTING}: {first.name} and {second.name} are the same folder; name it once, with both weights added"
            )
    if not problems and not any(entry.trained for entry in entries):
        problems.append(f"{SETTING}: no dataset has a weight above 0, so there is nothing to train on")
    if problems:
        raise DataError(*problems)
    return entries


def trained_names(text: str) -> tuple[str, ...]:
    """The names of the datasets that a mixture trains on, in their order; () for ""."""
    return tuple(entry.name for entry in read_mixture(text) if entry.trained)


def knots(config: Config) -> list[Knot]:
    """The steps at which the weights of the trained datasets begin to change, stop or jump, ascending; the first is 0.

    At each of them the weights are divided by their sum. Between two of them shares change evenly, after the last they
    stay. A share of the budget is one of its steps as if all tokens counted (`Budget.least_steps`).

    Raises:
        DataError: as `read_mixture`; places do not ascend; a share of a budget whose steps are not known; or a step at
            which no dataset has a weight.
    """
    steps = Budget.of(config).least_steps
    entries = [entry for entry in read_mixture(config.data.mixture) if entry.trained]
    curves = [[(_step(point.place, steps), point.weight) for point in entry.points] for entry in entries]
    problems = [
        each for entry, curve in zip(entries, curves, strict=True) for each in _place_problems(entry, curve, config)
    ]
    if problems:
        raise DataError(*problems)
    changing = {step for curve in curves if len(curve) > 1 for step, _ in curve}
    found = [_knot(step, curves) for step in sorted({0, *changing})]
    for knot in found:
        if not any(knot.before) or not any(knot.after):
            raise DataError(
                f"{SETTING}: no dataset has a weight above 0 at step {knot.step:,}; give one of them a weight there"
            )
    return found


def _entry(text: str) -> Entry:
    form = f"{SETTING}: {text!r} is not NAME:WEIGHTS:FOLDER, e.g. web:0.9:runs/data/packed/web-0123456789ab/1.0.0"
    name, colon, rest = text.partition(":")
    weights, second, folder = rest.partition(":")
    if not colon or not second or not folder:
        raise DataError(form)
    if not _NAME.fullmatch(name):
        raise DataError(f"{SETTING}: {name!r} is no name; letters, digits, - and _ may stand in one")
    return Entry(name, expand_home(folder), _points(weights, name=name))


def _points(text: str, *, name: str) -> tuple[Point, ...]:
    parts = text.split("..")
    matches = [_POINT.fullmatch(part) for part in parts]
    points = []
    for number, (part, found) in enumerate(zip(parts, matches, strict=True)):
        if found is None:
            raise DataError(
                f"{SETTING}: {name}: {part!r} is no weight; allowed are 0 or more, e.g. 0.9, with a place as in "
                "0.9@0.8, and several joined by .. as in 0.9@0.8..0.5"
            )
        place = found["place"]
        if place is None and 0 < number < len(parts) - 1:
            raise DataError(f"{SETTING}: {name}: the weight {part!r} between two others needs a place, e.g. {part}@0.5")
        where = Fraction(place) if place else Fraction(1 if number and number == len(parts) - 1 else 0)
        if where > 1 and where.denominator > 1:
            raise DataError(
                f"{SETTING}: {name}: {place!r} is no place; allowed are shares of the budget, up to 1, and whole steps"
            )
        points.append(Point(Fraction(found["weight"]), where))
    return tuple(points)


def _step(place: Fraction, steps: int) -> int:
    return int(place) if place > 1 else round(place * steps)


def _place_problems(entry: Entry, curve: Curve, config: Config) -> list[str]:
    if len(curve) == 1:
        return []
    places = [step for step, _ in curve]
    if config.training.ground_truth_tokens and any(0 < point.place <= 1 for point in entry.points):
        return [
            f"{SETTING}: {entry.name}: how many steps config.training.ground_truth_tokens takes is not known before "
            "the run, so a weight cannot change at a share of it; write places as steps, e.g. 1@8000..0.5@10000"
        ]
    if places != sorted(places):
        return [
            f"{SETTING}: {entry.name}: its weights are at the steps {', '.join(map(str, places))}, which do not ascend"
        ]
    return []


def _knot(step: int, curves: list[Curve]) -> Knot:
    before, after = ([_weight(curve, step, side=side) for curve in curves] for side in ("before", "after"))
    return Knot(step, _shares(before if step else after), _shares(after))


def _weight(curve: Curve, step: int, *, side: Literal["before", "after"]) -> Fraction:
    """The weight of one dataset at a step: of several that it has there, the first or the last."""
    here = [weight for at, weight in curve if at == step]
    if here:
        return here[0] if side == "before" else here[-1]
    earlier = [point for point in curve if point[0] < step]
    later = [point for point in curve if point[0] > step]
    if not earlier or not later:
        return (later or earlier[-1:])[0][1]
    (left, first), (right, last) = earlier[-1], later[0]
    return first + (last - first) * Fraction(step - left, right - left)


def _shares(weights: Sequence[Fraction]) -> tuple[Fraction, ...]:
    total = sum(weights, Fraction(0))
    return tuple(weight / total if total else Fraction(0) for weight in weights)
