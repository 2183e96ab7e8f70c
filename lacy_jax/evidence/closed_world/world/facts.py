"""The facts of the closed world as a table for the database partner: all of them, or what a partner may know."""

import contextlib
import dataclasses
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, ClassVar

import pydantic
from pydantic import Field

from lacy_jax.config import BiographiesConfig
from lacy_jax.data.files import written_whole
from lacy_jax.errors import PartnerError
from lacy_jax.evidence.closed_world.world.grammar import RELATIONS, cores, words_text
from lacy_jax.evidence.closed_world.world.world import World, make_world, pick

_Part = Annotated[float, Field(ge=0.0, le=1.0)]


def _some_relations(names: str) -> str:
    unknown = [name for name in names.split("+") if name not in RELATIONS] if names else []
    if unknown:
        raise ValueError(f"has {unknown[0]!r}, none of {', '.join(RELATIONS)} (joined by +)")
    return names


@dataclass(frozen=True)
class Knowledge:
    """What a partner knows of the world: shares, each drawn by the world's seed, and of which relations.

    known: of the facts. wordings: of the sentences that it understands as asking for a fact. changed: of the facts,
    those that have another value now (`changed_world`). wrong: of the facts, those of which it has a false value.
    A larger share has all that a smaller one has. relations: the only ones of which it has facts, joined by "+"; "":
    all.
    """

    __pydantic_config__: ClassVar = pydantic.ConfigDict(extra="forbid")

    known: _Part = 1.0
    wordings: _Part = 1.0
    changed: _Part = 0.0
    wrong: _Part = 0.0
    relations: Annotated[str, pydantic.AfterValidator(_some_relations)] = ""


_READER = pydantic.TypeAdapter(Knowledge)


def read_knowledge(argument: str) -> Knowledge:
    """What stands after "world:". Raises `PartnerError` where it is none of these."""
    pairs = [each.partition("=") for each in argument.split(",") if each]
    try:
        return _READER.validate_python({name: value for name, _, value in pairs})
    except pydantic.ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, each['loc']))} {each['msg'].removeprefix('Value error, ')}".strip()
            for each in error.errors()
        )
        raise PartnerError(
            f"partner world:{argument}: {found}; allowed are shares of known, wordings, changed, wrong, and relations, "
            f"as in world:known=0.9,relations={'+'.join(RELATIONS[:2])}"
        ) from None


def facts_file(settings: BiographiesConfig, knowledge: Knowledge, *, directory: str | Path) -> Path:
    """A SQLite file (docs/partners.md, database) with the facts and wordings that are known; made if missing.

    The file's name carries the settings and the knowledge.
    """
    described = {"words": words_text()} | dataclasses.asdict(settings) | dataclasses.asdict(knowledge)
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
    path = Path(directory) / "facts" / f"biographies-{digest}.sqlite"
    if not path.exists():
        with written_whole(path) as unfinished:
            _write(unfinished, world=make_world(settings), knowledge=knowledge)
    return path


def changed_world(world: World, *, share: float) -> World:
    """The same people; a share of the facts has the value that somebody else had before."""
    return _with_others(world, share=share, drawn=Random(f"changed {world.settings.seed}"))


def known_facts(world: World, knowledge: Knowledge) -> Iterator[tuple[str, str, str]]:
    """(subject, relation, value) of the facts that a partner has, as it has them."""
    seed = world.settings.seed
    now = changed_world(world, share=knowledge.changed)
    said = _with_others(now, share=knowledge.wrong, drawn=Random(f"wrong {seed}"))
    drawn = Random(f"known {seed}")
    asked = knowledge.relations.split("+") if knowledge.relations else RELATIONS
    for person in said.people:
        for relation, value in person.facts.items():
            if drawn.random() < knowledge.known and relation in asked:
                yield person.name, relation, value


def _with_others(world: World, *, share: float, drawn: Random) -> World:
    """A world in which each fact has, with the chance `share`, the value of another person that differs from it."""
    if not share:  # the usual case; to draw for 100,000 people takes seconds
        return world
    people = []
    for person in world.people:
        facts = {}
        for relation, value in person.facts.items():
            chance, others = drawn.random(), [pick(drawn, world.people).facts[relation] for _ in range(8)]
            other = next((each for each in others if each != value), value)
            facts[relation] = other if chance < share else value
        people.append(dataclasses.replace(person, facts=facts))
    return dataclasses.replace(world, people=tuple(people))


def _write(path: Path, *, world: World, knowledge: Knowledge) -> None:
    drawn = Random(f"wordings {world.settings.seed}")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE facts (subject TEXT, relation TEXT, value TEXT)")
        connection.execute("CREATE TABLE wordings (relation TEXT, wording TEXT)")
        connection.executemany("INSERT INTO facts VALUES (?, ?, ?)", known_facts(world, knowledge))
        wordings = [
            (core.relation, core.template.replace("{V}", "{value}"))
            for core in cores()
            if drawn.random() < knowledge.wordings
        ]
        connection.executemany("INSERT INTO wordings VALUES (?, ?)", wordings)
