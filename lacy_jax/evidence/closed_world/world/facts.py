"""The facts of the closed world as a table for the database partner, all of them or a share."""

import contextlib
import dataclasses
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random

from lacy_jax.config import BiographiesConfig
from lacy_jax.data.files import written_whole
from lacy_jax.evidence.closed_world.world.grammar import cores, words_text
from lacy_jax.evidence.closed_world.world.world import World, make_world


def facts_file(settings: BiographiesConfig, *, known: float, directory: str | Path) -> Path:
    """A SQLite file (docs/partners.md, database) with a share `known` of the facts, and every wording; made if missing.

    Which facts are known depends on the world's seed, and those of a smaller share are among those of a larger one.
    The file's name carries the settings and the share.
    """
    described = {"words": words_text(), "known": known} | dataclasses.asdict(settings)
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
    path = Path(directory) / "facts" / f"biographies-{known:g}-{digest}.sqlite"
    if not path.exists():
        with written_whole(path) as unfinished:
            _write(unfinished, world=make_world(settings), known=known)
    return path


def known_facts(world: World, *, known: float) -> Iterator[tuple[str, str, str]]:
    """(subject, relation, value) of the facts that a partner of this share knows."""
    rng = Random(f"known {world.settings.seed}")
    for person in world.people:
        for relation, value in person.facts.items():
            if rng.random() < known:
                yield person.name, relation, value


def _write(path: Path, *, world: World, known: float) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE facts (subject TEXT, relation TEXT, value TEXT)")
        connection.execute("CREATE TABLE wordings (relation TEXT, wording TEXT)")
        connection.executemany("INSERT INTO facts VALUES (?, ?, ?)", known_facts(world, known=known))
        wordings = [(core.relation, core.template.replace("{V}", "{value}")) for core in cores()]
        connection.executemany("INSERT INTO wordings VALUES (?, ?)", wordings)
