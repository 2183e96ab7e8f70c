"""Writes biographies. Each is a function of the settings, the person and its number alone."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from lacy_jax.config import BiographiesConfig
from lacy_jax.data.documents import Document
from lacy_jax.evidence.closed_world.world.grammar import RELATIONS, grammar
from lacy_jax.evidence.closed_world.world.world import Person, World, make_world, pick, shuffled

# How often a relation is stated at all, a sentence has an opener or a closer, and a filler follows it.
STATED, OPENER, CLOSER, FILLER = 0.9, 0.35, 0.35, 0.18
_SUBJECT_WEIGHTS = ("pronoun", "pronoun", "surname", "surname", "name")
_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Stated:
    """A fact in a text: its value is text[start:end]."""

    relation: str
    start: int
    end: int


@dataclass(frozen=True)
class Biography:
    """A document and every fact that it states, in order; characters are those of `document.text`."""

    person: Person
    document: Document
    stated: tuple[Stated, ...]


def biographies(settings: BiographiesConfig) -> Iterator[Biography]:
    """All biographies of the world, in a random order: neighbours are of different people."""
    world = make_world(settings)
    jobs = [(person.index, number) for person in world.people for number in range(person.documents)]
    for index, number in shuffled(Random(f"order {settings.seed}"), jobs):
        yield write_biography(world, index, number=number)


def write_biography(world: World, index: int, *, number: int) -> Biography:
    """Biography `number` of a person, also where the corpus has none of that number (or of that person)."""
    settings, person = world.settings, world.people[index]
    rng = Random(f"biography {settings.seed} {settings.wording} {index} {number}")
    if settings.wording == "fixed":
        sentences = [
            (relation, *_fill(rng, grammar().fixed[relation], person=person, relation=relation, subject="surname"))
            for relation in RELATIONS
        ]
    else:
        sentences = list(_free_sentences(rng, person))
    text, stated = "", []
    for relation, sentence, offset in sentences:
        text += " " if text else ""
        if relation:
            start = len(text) + offset
            stated.append(Stated(relation, start, start + len(person.facts[relation])))
        text += f"{sentence[0].upper()}{sentence[1:]}."
    document = Document(id=f"{index:06d}-{number}", title=person.name, text=text)
    return Biography(person, document, tuple(stated))


def _free_sentences(rng: Random, person: Person) -> Iterator[tuple[str, str, int]]:
    """(relation or "", sentence, where its value begins)."""
    them = grammar()
    for relation in shuffled(rng, RELATIONS):
        if rng.random() >= STATED:
            continue
        opener = _words(rng, pick(rng, them.openers)) + ", " if rng.random() < OPENER else ""
        core = pick(rng, them.cores[relation])
        sentence, offset = _fill(rng, core, person=person, relation=relation, subject=pick(rng, _SUBJECT_WEIGHTS))
        closer = ", " + _words(rng, pick(rng, them.closers)) if rng.random() < CLOSER else ""
        yield relation, opener + sentence + closer, len(opener) + offset
        if rng.random() < FILLER:
            yield "", _words(rng, pick(rng, them.fillers)), 0


def _fill(rng: Random, core: str, *, person: Person, relation: str, subject: str) -> tuple[str, int]:
    """The sentence, and where in it the fact begins."""
    nominative, possessive = {
        "pronoun": person.pronouns,
        "surname": (person.surname, f"{person.surname}'s"),
        "name": (person.name, f"{person.name}'s"),
    }[subject]
    before, after = core.split("{V}")
    before, after = (
        _words(rng, part.replace("{S}", nominative).replace("{P}", possessive)) for part in (before, after)
    )
    return before + person.facts[relation] + after, len(before)


def _words(rng: Random, template: str) -> str:
    """A template with its slots filled."""

    def word(match: re.Match[str]) -> str:
        if match[1] == "number":
            return str(2 + int(rng.random() ** 2 * 2998))
        if match[1] == "year":
            return str(1850 + int(rng.random() * 170))
        return pick(rng, grammar().slots[match[1]])

    return _SLOT.sub(word, template)
