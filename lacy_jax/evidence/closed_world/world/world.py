"""Who there is in the closed world, what is true of them, and how many biographies each of them has."""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

from lacy_jax.config import BiographiesConfig
from lacy_jax.evidence.closed_world.world.grammar import HE, SHE, word_lists

Group = Literal["head", "middle", "tail", "held_out"]
GROUPS: tuple[Group, ...] = ("head", "middle", "tail", "held_out")

PLACES, UNIVERSITIES, EMPLOYERS = 1024, 256, 256
YEARS = range(1921, 1985)
DAYS = range(1, 29)
# A person with at least so many biographies belongs to the head, with fewer than so many to the tail.
HEAD_DOCUMENTS, TAIL_DOCUMENTS = 50, 10

_T = TypeVar("_T")


@dataclass(frozen=True)
class Person:
    """Somebody. `pronouns`: nominative and possessive; `facts`: relation -> value; `documents`: 0 if held out."""

    index: int
    name: str
    surname: str
    pronouns: tuple[str, str]
    facts: dict[str, str]
    documents: int

    @property
    def group(self) -> Group:
        if self.documents == 0:
            return "held_out"
        return "head" if self.documents >= HEAD_DOCUMENTS else "tail" if self.documents < TAIL_DOCUMENTS else "middle"


@dataclass(frozen=True)
class World:
    """Everybody, those with the most biographies first; the last ones have none."""

    settings: BiographiesConfig
    people: tuple[Person, ...]


@functools.lru_cache(maxsize=4)
def make_world(settings: BiographiesConfig) -> World:
    """The world of some settings, always the same. How it is worded does not change who there is."""
    rng = Random(f"world {settings.seed}")
    places = _distinct(_places(rng), PLACES)
    surnames = ["".join(parts) for parts in _product("names", "surname_stems", "surname_ends")]
    universities = _distinct(_patterned(rng, "universities", places=places, surnames=surnames), UNIVERSITIES)
    employers = _distinct(_patterned(rng, "employers", places=places, surnames=surnames), EMPLOYERS)
    cities = {employer: pick(rng, places) for employer in employers}
    fields = [" ".join(parts) for parts in _product("values", "fields_first", "fields_second")]
    months = word_lists("values")["months"]
    names = word_lists("names")
    firsts = [(name, SHE) for name in names["she"]] + [(name, HE) for name in names["he"]]
    order = shuffled(rng, range(len(firsts) * len(surnames)))[: settings.people]
    held_out = round(settings.people * settings.held_out_share)
    counts = document_counts(settings.people - held_out, documents=settings.documents) + [0] * held_out
    people = []
    for index, (code, count) in enumerate(zip(order, counts, strict=True)):
        (first, pronouns), surname = firsts[code % len(firsts)], surnames[code // len(firsts)]
        employer = pick(rng, employers)
        facts = {
            "birth_date": f"{pick(rng, DAYS)} {pick(rng, months)} {pick(rng, YEARS)}",
            "birth_place": pick(rng, places),
            "university": pick(rng, universities),
            "field": pick(rng, fields),
            "employer": employer,
            "employer_city": cities[employer],
        }
        people.append(Person(index, f"{first} {surname}", surname, pronouns, facts, count))
    return World(settings, tuple(people))


def document_counts(people: int, *, documents: int) -> list[int]:
    """How many biographies each of `people` has, at least one, `documents` together: Zipf's law, exponent 1.

    The rank r has max(1, c / r) of them, c such that the sum is right; the fractions left go to the first ranks.
    """
    low, high = 0.0, float(documents)
    for _ in range(60):
        middle = (low + high) / 2
        total = sum(max(1, math.floor(middle / rank)) for rank in range(1, people + 1))
        low, high = (middle, high) if total <= documents else (low, middle)
    counts = [max(1, math.floor(low / rank)) for rank in range(1, people + 1)]
    for extra in range(documents - sum(counts)):
        counts[extra % people] += 1
    return counts


def pick(rng: Random, items: Sequence[_T]) -> _T:
    """One of the items. Python promises that `random()` gives the same numbers in every version; not so `choice`."""
    return items[int(rng.random() * len(items))]


def shuffled(rng: Random, items: Sequence[_T]) -> list[_T]:
    """The items in random order; see `pick`."""
    keys = [rng.random() for _ in items]
    return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]


def _product(table: str, *names: str) -> Iterator[tuple[str, ...]]:
    return itertools.product(*(word_lists(table)[name] for name in names))


def _distinct(found: Iterator[str], count: int) -> list[str]:
    kept: dict[str, None] = {}
    while len(kept) < count:
        kept[next(found)] = None
    return list(kept)


def _places(rng: Random) -> Iterator[str]:
    lists = word_lists("values")
    while True:
        yield "".join(pick(rng, lists[name]) for name in ("place_firsts", "place_stems", "place_ends"))


def _patterned(rng: Random, name: str, *, places: Sequence[str], surnames: Sequence[str]) -> Iterator[str]:
    fillings = {"place": places, "surname": surnames, "trade": word_lists("values")["trades"]}
    while True:
        pattern = pick(rng, word_lists("values")[name])
        for slot, words in fillings.items():
            while f"{{{slot}}}" in pattern:
                pattern = pattern.replace(f"{{{slot}}}", pick(rng, words), 1)
        yield pattern
