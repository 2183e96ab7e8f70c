"""The corpus biographies_told: each biography stands after some of its facts, as a search would put them into a prompt.

A model that was trained on it is told facts before it writes, and calls nobody. Calls are compared with that.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Any

from lacy_jax.config import CorpusConfig
from lacy_jax.data.documents import Document
from lacy_jax.evidence.closed_world.world import corpus
from lacy_jax.evidence.closed_world.world.facts import Knowledge, known_facts
from lacy_jax.evidence.closed_world.world.grammar import RELATIONS
from lacy_jax.evidence.closed_world.world.world import Person, World
from lacy_jax.evidence.closed_world.world.writing import biographies

# Few tokens each. The employer's city follows the employer, so "in" is clear.
_FORMS = {
    "birth_date": "born {}",
    "birth_place": "from {}",
    "university": "studied at {}",
    "field": "field {}",
    "employer": "with {}",
    "employer_city": "in {}",
}


def heading(name: str, facts: Mapping[str, str]) -> str:
    """The title of a text about somebody of whom these facts are told, as `Ada Oak (born 3 May 1921; field optics)`."""
    told = "; ".join(_FORMS[relation].format(facts[relation]) for relation in RELATIONS if relation in facts)
    return f"{name} ({told})" if told else name


def told_part(title: str) -> slice:
    """The characters of a title that tell facts."""
    return slice(title.find(" (") + 1 or len(title), len(title))


def documents(settings: CorpusConfig) -> Iterator[tuple[str, Document]]:
    """The biographies of the world; how many facts stand before each, and which, is drawn from its id: none to all."""
    for biography in biographies(settings.biographies):
        document, facts = biography.document, biography.person.facts
        drawn = Random(f"told {document.id}")
        share = drawn.random()
        told = {relation: value for relation, value in facts.items() if drawn.random() < share}
        title = heading(biography.person.name, told)
        yield f"biography {document.id}", dataclasses.replace(document, title=title)


def fingerprint(settings: CorpusConfig) -> dict[str, Any]:
    """That of the biographies, and how facts are told."""
    return corpus.fingerprint(settings) | {"told": _FORMS}


def told_headings(world: World, knowledge: Knowledge, people: Sequence[Person]) -> list[str]:
    """The title of each person's text, with all that a partner knows of them."""
    known: dict[str, dict[str, str]] = {person.name: {} for person in people}
    for name, relation, value in known_facts(world, knowledge):
        if name in known:
            known[name][relation] = value
    return [heading(person.name, known[person.name]) for person in people]
