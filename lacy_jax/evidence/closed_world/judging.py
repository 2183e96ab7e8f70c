"""Biographies of the closed world written by a cascade and judged exactly: every sentence is parsed by the grammar.

A claim is right if its subject is the person and its value is the person's. There is no model in the judging and
nothing to tune; docs/biographies.md tells what the figures mean.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lacy_jax.cascade import Cascade, Completion, Request, Sampling
from lacy_jax.cascade.partners import Partner, Span, make_partner
from lacy_jax.cascade.scheduler import Gate, Score
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.data.documents import Document, full_text
from lacy_jax.errors import ConfigError
from lacy_jax.evidence.closed_world.world import Person, World, facts_file, make_world, read_sentences
from lacy_jax.evidence.closed_world.world.grammar import HE, SHE

ROWS = 64
DATABASE = "database"  # the partner of a decode that names none: it knows a share of the world's facts
# Greedy, small models state two or three of the six relations over and over; drawn like the corpus, they mix up names.
TEMPERATURE = 0.3
_PRONOUNS = (*SHE, *HE)


@dataclass(frozen=True)
class Decode:
    """A way to call: what is ranked, whether it is gated, how far which partner writes, and at which budgets.

    `budgets` of 0 never call: what comes out then is what the model itself holds of the facts (leakage).
    `partner`: the database of facts, or another as `lacy_jax.generate` names them: the path of a checkpoint.
    """

    name: str
    score: Score | Literal["auto"] = "auto"
    gate: Gate = "none"
    span: Span = "phrase"
    budgets: tuple[float, ...] = (0.22,)
    partner: str = DATABASE


ALONE = Decode("alone", budgets=(0.0,))


@dataclass(frozen=True)
class Claim:
    """A sentence's claim. `called`: a part of the value was written by the partner."""

    relation: str
    value: str
    right: bool
    called: bool


@dataclass(frozen=True)
class Judged:
    """A generated biography. Counts of sentences, of SLM tokens and of calls.

    claims: those that parse, the same claim only once. unparsed: sentences that no rule of the grammar explains, also a
    last one that was cut off. calls_on_facts: answered calls whose piece is part of a value.
    pieces: (text, "slm" or "partner", score), what the text consists of.
    """

    person: int
    name: str
    group: str
    claims: tuple[Claim, ...]
    filler: int
    unparsed: int
    generated: int
    delegated: int
    calls: int
    fallbacks: int
    calls_on_facts: int
    pieces: tuple[tuple[str, str, float], ...] = ()

    @property
    def right(self) -> int:
        return sum(claim.right for claim in self.claims)

    @property
    def wrong(self) -> int:
        return len(self.claims) - self.right


def judge(person: Person, completion: Completion) -> Judged:
    """What a completion after the person's name says of them."""
    text, partners = completion.text, list(_partner_spans(completion))
    claims: dict[tuple[str, str, str], Claim] = {}
    filler = unparsed = 0
    values: list[tuple[int, int]] = []
    for sentence in read_sentences(text):
        filler += sentence.kind == "filler"
        unparsed += sentence.kind == "unparsed"
        if sentence.kind != "claim":
            continue
        values.append((sentence.value_start, sentence.value_end))
        right = _is(person, sentence.subject) and person.facts[sentence.relation] == sentence.value
        called = any(start < sentence.value_end and end > sentence.value_start for start, end in partners)
        claims.setdefault(
            (sentence.subject.lower(), sentence.relation, sentence.value) if not right else (sentence.relation, "", ""),
            Claim(sentence.relation, sentence.value, right, called),
        )
    counts = completion.counts
    return Judged(
        person=person.index,
        name=person.name,
        group=person.group,
        claims=tuple(claims.values()),
        filler=filler,
        unparsed=unparsed,
        generated=counts.generated,
        delegated=counts.delegated,
        calls=counts.calls,
        fallbacks=counts.fallbacks,
        calls_on_facts=sum(any(a < end and b > start for a, b in values) for start, end in partners),
        pieces=tuple((piece.text, piece.source, round(piece.score, 3)) for piece in completion.pieces),
    )


def _partner_spans(completion: Completion) -> Iterator[tuple[int, int]]:
    """Characters of the text that the partner wrote, white space around them left out."""
    start = 0
    for piece in completion.pieces:
        solid = piece.text.strip()
        if piece.source == "partner" and solid:
            first = start + piece.text.index(solid[0])
            yield first, first + len(solid)
        start += len(piece.text)


def _is(person: Person, subject: str) -> bool:
    """A pronoun, of whichever gender, is taken for the person: whom else would a biography mean?"""
    return subject in (person.name, person.surname) or subject.lower() in _PRONOUNS


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


def partner_of(slm: LoadedModel, spec: str, *, span: Span, known: float, directory: str = "") -> Partner | None:
    """The partner that `Decode.partner` names; the database's file, with a share of the facts, is made if missing.

    Raises:
        PartnerError: it names none.
        CheckpointError: it names a checkpoint that cannot be used.
    """
    where = directory or slm.config.data.directory
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
    cascade = Cascade(
        slm,
        partner if budget else None,
        budget=budget,
        score=decode.score,
        gate=decode.gate,
        span=decode.span,
        window=slm.config.cascade.window,
    )
    length = slm.config.cascade.max_new_tokens
    prompts = [full_text(Document("", person.name, "")) for person in people]
    requests = [
        Request(prompt, max_new_tokens=length, sampling=Sampling(temperature=temperature, seed=person.index))
        for prompt, person in zip(prompts, people, strict=True)
    ]
    completions = cascade.generate(requests, batch_size=ROWS)
    return [judge(person, completion) for person, completion in zip(people, completions, strict=True)]


def to_json(judged: Judged) -> str:
    """One line; `from_json` reads it."""
    return json.dumps(dataclasses.asdict(judged), ensure_ascii=False)


def from_json(line: str) -> Judged:
    """A `Judged` from what `to_json` wrote."""
    fields: dict[str, Any] = json.loads(line)
    fields["claims"] = tuple(Claim(**claim) for claim in fields["claims"])
    fields["pieces"] = tuple((text, source, score) for text, source, score in fields["pieces"])
    return Judged(**fields)
