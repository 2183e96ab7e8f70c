"""Judging biographies, keeping what was judged, and adding it up."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from lacy_jax.cascade import Completion
from lacy_jax.cascade.rows import Counts, Piece
from lacy_jax.cascade.text.extent import complete_extent
from lacy_jax.config import BiographiesConfig
from lacy_jax.errors import ConfigError
from lacy_jax.evidence.closed_world import biographies as writing
from lacy_jax.evidence.closed_world import suite
from lacy_jax.evidence.closed_world.biographies import pick_people, relations_known
from lacy_jax.evidence.closed_world.decodes import EXAMPLE, Decode, decode_text, parse_decode
from lacy_jax.evidence.closed_world.judging import Claim, Judged, judge, to_json
from lacy_jax.evidence.closed_world.kept import Evaluation, judged_path, read_evaluation, read_judged
from lacy_jax.evidence.closed_world.scores import SCORES, estimate, length_penalised, score
from lacy_jax.evidence.closed_world.tables import suite_table
from lacy_jax.evidence.closed_world.world import (
    RELATIONS,
    Knowledge,
    biographies,
    changed_world,
    known_facts,
    make_world,
    write_biography,
)

WORLD = make_world(BiographiesConfig(people=60, documents=300))


NONE = Counts()


def completion(*pieces: tuple[str, str], counts: Counts = NONE) -> Completion:
    made = tuple(Piece(text, source, 0.5, 1) for text, source in pieces)  # type: ignore[arg-type]
    return Completion("prompt", "".join(text for text, _ in pieces), made, counts, "end")


def test_true_biographies_are_right_and_with_another_s_name_wrong() -> None:
    for person in WORLD.people:
        biography = write_biography(WORLD, person.index, number=0)
        judged = judge(person, completion((biography.document.text, "slm")))
        assert (judged.right, judged.wrong, judged.unparsed) == (len(biography.stated), 0, 0)
        other = WORLD.people[(person.index + 1) % 60]
        judged = judge(other, completion((biography.document.text, "slm")))
        # By chance two people may share a value; the name never.
        named = [claim for claim in judged.claims if claim.right]
        assert all(other.facts[claim.relation] == person.facts[claim.relation] for claim in named)


def test_every_claim_of_the_corpus_is_right_and_one_changed_value_flips_one_verdict() -> None:
    """10,000 biographies as they were written; of every tenth each value in turn is another person's, or nonsense."""
    settings = BiographiesConfig(people=1_000, documents=10_000)
    world = make_world(settings)
    flipped = 0
    for number, biography in enumerate(biographies(settings)):
        person, text = biography.person, biography.document.text
        judged = judge(person, completion((text, "slm")))
        assert [claim.right for claim in judged.claims] == [True] * len(biography.stated), text
        assert judged.unparsed == 0
        for stated in biography.stated if number % 10 == 0 else ():
            values = (each.facts[stated.relation] for each in world.people[number % 997 :] + world.people)
            other = next(value for value in values if value != text[stated.start : stated.end])
            for value in (other, "Nowhere at all"):
                judged = judge(person, completion((text[: stated.start] + value + text[stated.end :], "slm")))
                wrong = [claim.relation for claim in judged.claims if not claim.right]
                assert (wrong, judged.right) == ([stated.relation], len(biography.stated) - 1), text
                flipped += 1
    assert flipped > 10_000


def test_what_the_partner_wrote() -> None:
    person = WORLD.people[0]
    place = person.facts["birth_place"]
    counts = Counts(generated=12, delegated=3, calls=3, fallbacks=1)
    parts = ((f"{person.surname} was born in", "slm"), (f" {place}", "partner"), (".", "slm"), (" So", "partner"))
    judged = judge(person, completion(*parts, counts=counts))
    assert judged.claims == (Claim("birth_place", place, right=True, called=True),)
    assert (judged.unparsed, judged.calls_on_facts) == (1, 1)
    assert estimate("on_facts", [judged]) == estimate("unanswered", [judged]) == pytest.approx(1 / 3)
    assert estimate("answered_on_facts", [judged]) == 0.5
    assert estimate("rate", [judged]) == pytest.approx(4 / 12)


def test_a_text_follows_what_has_changed_or_does_not() -> None:
    before, now = WORLD.people[0], changed_world(WORLD, share=1.0).people[0]
    old, new = before.facts["birth_place"], now.facts["birth_place"]
    texts = [f"{now.name} was born in {place}." for place in (old, new, "Elsewhere")]
    found = [judge(now, completion((text, "slm")), before) for text in texts]
    assert [(each.right, each.wrong, each.outdated) for each in found] == [(0, 1, 1), (1, 0, 0), (0, 1, 0)]
    assert estimate("followed", found) == 0.5
    assert estimate("outdated", found) == 1 / 3
    unchanged = [judge(now, completion((text, "slm"))) for text in texts]  # nobody says what was true before
    assert not any(each.outdated for each in unchanged)
    head, _, line = suite_table(Evaluation({("changed", 1.0): found}, {}))
    assert head.endswith("| followed: right / (right + outdated) |")
    assert line.split(" | ")[-1].startswith("50.0%")
    assert "followed" not in suite_table(Evaluation({("as_before", 1.0): unchanged}, {}))[0]


def test_which_facts_the_partner_has() -> None:
    """Claims of what it has are told from claims of what it lacks, whoever wrote them; nobody says so of a model."""
    known = relations_known("world:known=0.5,changed=1", WORLD.people, world=WORLD)
    assert known is not None
    table = {(name, relation) for name, relation, _ in known_facts(WORLD, Knowledge(known=0.5))}
    assert table == {(person.name, each) for person, has in zip(WORLD.people, known, strict=True) for each in has}
    assert 0.4 < len(table) / (len(WORLD.people) * len(RELATIONS)) < 0.6
    assert relations_known("checkpoint:runs/x", WORLD.people, world=WORLD) is None
    person, has = next((person, has) for person, has in zip(WORLD.people, known, strict=True) if 0 < len(has) < 6)
    text = write_biography(WORLD, person.index, number=1).document.text
    for said in (frozenset(has), None):
        judged = judge(person, completion((text, "slm")), known=said)
        assert {claim.relation: claim.known for claim in judged.claims} == {
            claim.relation: None if said is None else claim.relation in has for claim in judged.claims
        }
    assert math.isnan(estimate("of_unknown", [judged]))
    assert math.isnan(estimate("of_known", [judged]))


def test_saying_a_thing_twice_counts_once() -> None:
    person = WORLD.people[0]
    place, wrong = person.facts["birth_place"], "Elsewhere"
    said = (
        f"{person.name} was born in {place}. She was born in {place}. He was born in {wrong}. He was born in {wrong}."
    )
    judged = judge(person, completion((said, "slm")))
    assert (judged.right, judged.wrong) == (1, 1)


def test_what_arrives_of_a_model_s_values() -> None:
    """It writes what the corpus says: names and dates are whole, of lower-case words and of "X and Y" the first is."""
    for person in WORLD.people:
        biography = write_biography(WORLD, person.index, number=1)
        for stated in biography.stated:
            value = person.facts[stated.relation]
            piece = complete_extent(biography.document.text[stated.start - 1 :], span="phrase", ended=True)
            parted = value.islower() or " and " in value
            assert piece == f" {value.split()[0] if parted else value}"


def made(right: int, wrong: int, unparsed: int, *, generated: int = 10) -> Judged:
    claims = tuple(Claim("field", str(n), n < right, False, known=n % 2 == 0) for n in range(right + wrong))
    return Judged(0, "", "tail", claims, 1, unparsed, generated, 2, 3, 1, 1, (("a", "slm", 0.5),))


# Of the people below, these are alike.
ALIKE = ("rate", "delegated", "calls", "on_facts", "answered_on_facts", "unanswered", "followed", "outdated")


def test_scores_by_hand() -> None:
    people = [made(3, 1, 0), made(0, 0, 2), made(1, 3, 1)]
    assert estimate("precision", people) == 4 / 8
    assert estimate("strict", people) == 4 / 11
    assert estimate("of_known", people) == 3 / 4  # claims 0 and 2 of four: both are right, then the first
    assert estimate("of_unknown", people) == 1 / 4
    assert estimate("right", people) == 4 / 3
    assert estimate("unparsed", people) == 3 / 14
    assert estimate("tokens_per_right", people) == 30 / 4
    expected = (3 / 4 * math.exp(1 - 5 / 4) + 0 + 1 / 4 * math.exp(1 - 5 / 4)) / 3
    assert estimate("factscore", people) == pytest.approx(expected)
    assert length_penalised(made(5, 1, 0)) == 5 / 6
    assert math.isnan(estimate("precision", [made(0, 0, 1)]))
    # Each of 27 equally likely draws has more than 2.5%: the interval reaches from the least to the most.
    for name in SCORES:
        drawn = [estimate(name, draw) for draw in itertools.product(people, repeat=3)]
        found = score(name, people)
        assert found == pytest.approx((estimate(name, people), np.nanmin(drawn), np.nanmax(drawn))), name
        assert found.low < found.high or name in ALIKE, name


def test_records_survive_a_file(tmp_path: Path) -> None:
    first = made(2, 1, 1)
    # Characters that Python, unlike JSON, takes for ends of lines.
    second = dataclasses.replace(first, name="A\u2028B\x85", pieces=((" C\x0bD", "slm", 0.5), ("\nE", "partner", 1.0)))
    (tmp_path / "a-0.2.jsonl").write_text("".join(f"{to_json(each)}\n" for each in (first, second)))
    assert read_judged(tmp_path / "a-0.2.jsonl") == [first, second]
    assert json.loads(to_json(first))["group"] == "tail"


def test_people_are_spread_over_the_world() -> None:
    people = pick_people(WORLD, 12)
    assert len({person.index for person in people}) == 12
    assert np.ptp(np.diff([person.index for person in people])) <= 1
    with pytest.raises(ConfigError, match="1 to 60"):
        pick_people(WORLD, 61)


@pytest.mark.parametrize(
    "decode",
    [
        Decode("a"),
        Decode("b_2", score="call_logit", gate="factual", span="word", budgets=(0.0, 0.1, 1.0)),
        Decode("c", partner="runs, all/the: large=1/seed0"),
        Decode("d", budgets=(0.1234567, 1e-7, 1 / 3)),
        Decode("e", score="call_probability", policy="price", price=0.4),
    ],
)
def test_decodes_as_text(decode: Decode, tmp_path: Path) -> None:
    assert parse_decode(decode_text(decode)) == decode
    assert json.loads(decode_text(decode))["budgets"] == list(decode.budgets)
    (tmp_path / "tokens.json").write_text("{}")
    for budget in decode.budgets:
        judged_path(tmp_path, decode=decode.name, budget=budget).write_text("")
    assert {*read_evaluation(tmp_path).judged} == {(decode.name, budget) for budget in decode.budgets}


def test_a_decode_changes_what_it_names_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    class Asked(Exception):
        """Raised where the writing would begin."""

    def cascade(*_: object, **changes: object) -> None:
        asked.append(changes)
        raise Asked

    monkeypatch.setattr(writing, "Cascade", cascade)
    decodes = (Decode("a"), Decode("b", score="call_probability", policy="price", price=0.4))
    for decode in decodes:
        with pytest.raises(Asked):
            writing.write_and_judge(
                None,  # type: ignore[arg-type]
                [],
                prompts=[],
                before=[],
                partner=None,
                decode=decode,
                budget=0.3,
                temperature=0.0,
            )
    as_before = {"budget": 0.3, "score": "auto", "gate": "none", "span": "phrase"}
    assert asked == [as_before, as_before | {"score": "call_probability", "policy": "price", "price": 0.4}]


def test_a_price_for_a_score_that_is_no_probability_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="entropy is no probability"):
        suite.evaluate(
            None,  # type: ignore[arg-type]
            decodes=[Decode("a", score="entropy", policy="price")],
            people=1,
            known=0.9,
            temperature=0.0,
            out=tmp_path,
            progress=lambda *_: None,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Invalid JSON"),
        ("a:score=call_score", "Invalid JSON"),
        ("[1]", "name"),
        ("{}", "name Field required"),
        ('{"name": "a", "score": "best"}', "'auto'"),
        ('{"name": "a", "budgets": [2]}', "budgets.0 Input should be less than or equal to 1"),
        ('{"name": "a", "budgets": ["0.1"]}', "budgets.0 Input should be a valid number"),
        ('{"name": "a", "budgets": [NaN]}', "budgets.0"),
        ('{"name": "a", "what": 1}', "what Unexpected keyword argument"),
        ('{"name": "a", "partner": ""}', "partner"),
        ('{"name": "a b"}', "name"),
        ('{"name": "a", "policy": "free"}', "policy"),
        ('{"name": "a", "price": 2}', "price"),
    ],
)
def test_wrong_decodes(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match="decode") as caught:
        parse_decode(text)
    assert said in str(caught.value)
    assert EXAMPLE in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
