"""Biographies of the closed world judged exactly: every sentence is parsed by the grammar.

A claim is right if its subject is the person and its value is the person's. There is no model in the judging and
nothing to tune; docs/biographies.md says what the figures mean.
"""

import dataclasses
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from lacy_jax.cascade import Completion
from lacy_jax.evidence.closed_world.world import Person, read_sentences
from lacy_jax.evidence.closed_world.world.grammar import HE, SHE

_PRONOUNS = (*SHE, *HE)


@dataclass(frozen=True)
class Claim:
    """A sentence's claim. `called`: a part of the value was written by the partner.

    known: whether the partner has the person's fact of this relation, whether it was asked or not; None: nobody says.
    """

    relation: str
    value: str
    right: bool
    called: bool
    known: bool | None = None


@dataclass(frozen=True)
class Judged:
    """A generated biography. Counts of sentences, of SLM tokens and of calls.

    claims: those that parse, the same claim only once. unparsed: sentences that no rule of the grammar explains, also a
    last one that was cut off. calls_on_facts: answered calls whose piece is part of a value. outdated: claims that
    were right when the model was trained, and are wrong now. told: tokens of the prompt that tell facts.
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
    outdated: int = 0
    told: int = 0

    @property
    def right(self) -> int:
        return sum(claim.right for claim in self.claims)

    @property
    def wrong(self) -> int:
        return len(self.claims) - self.right


def judge(
    person: Person, completion: Completion, before: Person | None = None, *, known: Collection[str] | None = None
) -> Judged:
    """What a completion after the person's name says of them.

    before: the person as the model read of them. known: the relations of which the partner has the person's fact.
    """
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
        # What is right counts once, whoever it names; what is wrong once for each subject and value.
        subject, value = ("", "") if right else (sentence.subject.lower(), sentence.value)
        has = None if known is None else sentence.relation in known
        claims.setdefault(
            (subject, sentence.relation, value), Claim(sentence.relation, sentence.value, right, called, has)
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
        outdated=sum(
            not claim.right and before is not None and before.facts[claim.relation] == claim.value
            for claim in claims.values()
        ),
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


def to_json(judged: Judged) -> str:
    """One line; `judged_of` makes it of its fields again."""
    return json.dumps(dataclasses.asdict(judged), ensure_ascii=False)


def judged_of(fields: dict[str, Any]) -> Judged:
    """A `Judged` from the object that `to_json` wrote."""
    claims = tuple(Claim(**claim) for claim in fields["claims"])
    return Judged(**fields | {"claims": claims, "pieces": tuple(map(tuple, fields["pieces"]))})
