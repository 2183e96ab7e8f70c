"""Biographies of the closed world written by a cascade, to be judged."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from lacy_jax.cascade import Cascade, Request, Sampling
from lacy_jax.cascade.partners import Partner, make_partner, read_spec
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import Span
from lacy_jax.data.documents import Document, full_text
from lacy_jax.errors import ConfigError
from lacy_jax.evidence.closed_world.decodes import Decode
from lacy_jax.evidence.closed_world.judging import Judged, judge
from lacy_jax.evidence.closed_world.world import (
    Person,
    World,
    changed_world,
    known_facts,
    make_world,
    read_knowledge,
    told_headings,
)
from lacy_jax.presets import CLOSED_WORLD

ROWS = 64
# Greedy, small models state two or three of the six relations over and over; drawn like the corpus, they mix up names.
TEMPERATURE = 0.3


def pick_people(world: World, count: int) -> list[Person]:
    """`count` people, evenly spaced from the one with the most biographies to those with none."""
    if not 1 <= count <= len(world.people):
        raise ConfigError(f"people={count}: allowed is 1 to {len(world.people)}, the people of this world")
    return [world.people[(2 * index + 1) * len(world.people) // (2 * count)] for index in range(count)]


def closed_world_of(slm: LoadedModel) -> World:
    """The world whose biographies a model was trained on. Raises `ConfigError` where it was trained on other text."""
    corpus = slm.config.corpus
    if corpus.name not in CLOSED_WORLD:
        raise ConfigError(
            f"suite closed_world: {slm.path} was trained on corpus {corpus.name}; train one by "
            "python -m lacy_jax.main --config=configs/biographies.py"
        )
    return make_world(corpus.biographies)


def partner_of(slm: LoadedModel, spec: str, *, span: Span) -> Partner | None:
    """The partner of a spec (docs/partners.md); the world's file is made if missing.

    Raises:
        PartnerError: it names none.
        CheckpointError: it names a checkpoint that cannot be used.
    """
    where = slm.config.data.directory
    return make_partner(spec, corpus=slm.config.corpus, directory=where, batch_size=ROWS, span=span)


def prompts_of(slm: LoadedModel, people: Sequence[Person], *, spec: str, world: World) -> list[str]:
    """What each person's text begins with: the name, as the model's documents do.

    A model of the corpus biographies_told finds there what the partner `spec` knows ("": nothing).
    """
    titles = [person.name for person in people]
    if is_told(slm) and spec:
        titles = told_headings(world, read_knowledge(read_spec(spec)[1]), people)
    return [full_text(Document("", title, "")) for title in titles]


def is_told(slm: LoadedModel) -> bool:
    """Whether a model has facts in its prompts, and calls nobody."""
    return slm.config.corpus.name == "biographies_told"


def check_facts_known(slm: LoadedModel, spec: str) -> None:
    """Raises `ConfigError` where facts are put into a model's prompts, and the partner `spec` is not the world's."""
    if is_told(slm) and read_spec(spec)[0] != "world":
        raise ConfigError(
            f"partner {spec}: {slm.path} was trained on biographies_told, so facts stand in its prompt and it calls "
            "nobody; give a partner that knows them, as world:known=0.9"
        )


def as_known_to(spec: str, people: Sequence[Person], *, world: World) -> list[Person]:
    """The people as they are now: with the facts that have changed, if the partner of a spec knows such."""
    form, argument = read_spec(spec)
    if form != "world":
        return list(people)
    now = changed_world(world, share=read_knowledge(argument).changed).people
    return [now[person.index] for person in people]


def relations_known(spec: str, people: Sequence[Person], *, world: World) -> list[frozenset[str]] | None:
    """The relations of which the partner of a spec has each person's fact, right or wrong; None where nobody says."""
    form, argument = read_spec(spec)
    if form != "world":
        return None
    known = defaultdict(set)
    for name, relation, _ in known_facts(world, read_knowledge(argument)):
        known[name].add(relation)
    return [frozenset(known[person.name]) for person in people]


def write_and_judge(
    slm: LoadedModel,
    people: Sequence[Person],
    *,
    prompts: Sequence[str],
    before: Sequence[Person],
    known: Sequence[frozenset[str]] | None = None,
    partner: Partner | None,
    decode: Decode,
    budget: float,
    temperature: float,
) -> list[Judged]:
    """A biography of each of `people`, judged.

    prompts: what each begins with, as `prompts_of`. before: the same people as the model read of them. known: as
    `relations_known`.
    temperature: of the draw, seeded by the person alone, so that every model is given the same luck.
    """
    cascade = Cascade(slm, partner if budget else None, budget=budget, **decode.changes)
    length = cascade.settings.max_new_tokens
    requests = [
        Request(prompt, max_new_tokens=length, sampling=Sampling(temperature=temperature, seed=person.index))
        for prompt, person in zip(prompts, people, strict=True)
    ]
    completions = cascade.generate(requests, batch_size=ROWS)
    judged = [
        judge(person, completion, then, known=known[row] if known is not None else None)
        for row, (person, completion, then) in enumerate(zip(people, completions, before, strict=True))
    ]
    return [
        dataclasses.replace(each, told=told)
        for each, told in zip(judged, _told_tokens(slm, people, prompts), strict=True)
    ]


def _told_tokens(slm: LoadedModel, people: Sequence[Person], prompts: Sequence[str]) -> list[int]:
    """How many tokens of each prompt tell facts."""
    names = [full_text(Document("", person.name, "")) for person in people]
    return [
        len(slm.tokenizer.encode(prompt)) - len(slm.tokenizer.encode(name))
        for prompt, name in zip(prompts, names, strict=True)
    ]
