"""Biographies of the closed world written by a cascade, to be judged."""

from collections.abc import Sequence

from lacy_jax.cascade import Cascade, Request, Sampling
from lacy_jax.cascade.partners import Partner, make_partner
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import Span
from lacy_jax.data.documents import Document, full_text
from lacy_jax.errors import ConfigError
from lacy_jax.evidence.closed_world.decodes import DATABASE, Decode
from lacy_jax.evidence.closed_world.judging import Judged, judge
from lacy_jax.evidence.closed_world.world import Person, World, facts_file, make_world

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
    if corpus.name != "biographies":
        raise ConfigError(
            f"suite closed_world: {slm.path} was trained on corpus {corpus.name}; train one by "
            "python -m lacy_jax.main --config=configs/biographies.py"
        )
    return make_world(corpus.biographies)


def partner_of(slm: LoadedModel, spec: str, *, span: Span, known: float) -> Partner | None:
    """The partner that `Decode.partner` names; the database's file, with a share of the facts, is made if missing.

    Raises:
        PartnerError: it names none.
        CheckpointError: it names a checkpoint that cannot be used.
    """
    where = slm.config.data.directory
    if spec == DATABASE:
        spec = f"{DATABASE}:{facts_file(closed_world_of(slm).settings, known=known, directory=where)}"
    return make_partner(spec, corpus=slm.config.corpus, directory=where, batch_size=ROWS, span=span)


def write_and_judge(
    slm: LoadedModel,
    people: Sequence[Person],
    *,
    partner: Partner | None,
    decode: Decode,
    budget: float,
    temperature: float,
) -> list[Judged]:
    """A biography of each of `people`, from the name alone, as the model's documents begin; judged.

    `temperature`: of the draw, seeded by the person alone, so that every model is given the same luck.
    """
    cascade = Cascade(slm, partner if budget else None, budget=budget, **decode.changes)
    length = cascade.settings.max_new_tokens
    prompts = [full_text(Document("", person.name, "")) for person in people]
    requests = [
        Request(prompt, max_new_tokens=length, sampling=Sampling(temperature=temperature, seed=person.index))
        for prompt, person in zip(prompts, people, strict=True)
    ]
    completions = cascade.generate(requests, batch_size=ROWS)
    return [judge(person, completion) for person, completion in zip(people, completions, strict=True)]
