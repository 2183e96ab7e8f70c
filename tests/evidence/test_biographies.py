"""The closed world: its checker agrees with its generator, and cannot be talked round."""

import collections
import dataclasses
import re
import sqlite3

import numpy as np
import pytest

from lacy_jax.cascade.partners import make_partner
from lacy_jax.config import AnnotateConfig, BiographiesConfig, CorpusConfig
from lacy_jax.data.annotate import annotate_documents
from lacy_jax.data.corpus import corpus_fingerprint, read_documents
from lacy_jax.data.documents import Document, full_text
from lacy_jax.errors import PartnerError
from lacy_jax.evidence.closed_world.world import (
    RELATIONS,
    Knowledge,
    biographies,
    changed_world,
    facts_file,
    make_world,
    read_knowledge,
    read_sentences,
    write_biography,
)
from lacy_jax.evidence.closed_world.world.facts import known_facts
from lacy_jax.evidence.closed_world.world.world import document_counts

WORLD = BiographiesConfig(people=1_000, documents=10_000)


def test_every_sentence_of_10_000_biographies_is_read_as_it_was_written() -> None:
    kinds: collections.Counter[str] = collections.Counter()
    for biography in biographies(WORLD):
        text, person = biography.document.text, biography.person
        sentences = list(read_sentences(text))
        kinds.update(sentence.kind for sentence in sentences)
        claims = [sentence for sentence in sentences if sentence.kind == "claim"]
        found = [(claim.relation, claim.value_start, claim.value_end) for claim in claims]
        assert found == [(stated.relation, stated.start, stated.end) for stated in biography.stated], text
        for claim in claims:
            assert claim.value == text[claim.value_start : claim.value_end] == person.facts[claim.relation]
            assert claim.subject.lower() in (person.name.lower(), person.surname.lower(), *person.pronouns)
    assert kinds["unparsed"] == 0
    assert kinds["claim"] > 50_000
    assert kinds["filler"] > 5_000


def test_a_changed_value_is_read_as_the_changed_value() -> None:
    """Every value of 1,000 biographies in turn is replaced by another person's; nothing else changes."""
    world, changed = make_world(WORLD), 0
    for index in range(0, 1_000, 5):
        biography = write_biography(world, index, number=0)
        for stated in biography.stated:
            other = world.people[(index + 7) % 1_000].facts[stated.relation]
            text = biography.document.text
            sentences = list(read_sentences(text[: stated.start] + other + text[stated.end :]))
            values = [(sentence.relation, sentence.value) for sentence in sentences if sentence.kind == "claim"]
            expected = [
                (each.relation, other if each == stated else text[each.start : each.end]) for each in biography.stated
            ]
            assert values == expected
            changed += 1
    assert changed > 1_000


@pytest.mark.parametrize(
    "text",
    [
        "She was born in",
        "She was born in Elmby to quiet",
        "He he was quietly born on 3 May 1950.",
        "Gisla Verrin was proudly proudly born in Elmby.",
        "So it goes.",
        "As the Evening Lantern once noted, she quietly studied optics, he quietly studied it, under misty skies.",
    ],
)
def test_what_the_grammar_cannot_have_written_is_unparsed(text: str) -> None:
    assert [sentence.kind for sentence in read_sentences(text)] == ["unparsed"]


def test_a_world_is_a_function_of_its_settings() -> None:
    one, same = list(biographies(BiographiesConfig(people=20, documents=60))), None
    same = list(biographies(BiographiesConfig(people=20, documents=60)))
    assert one == same
    other = list(biographies(BiographiesConfig(people=20, documents=60, seed=1)))
    assert {each.document.text for each in one}.isdisjoint({each.document.text for each in other})
    assert len({each.document.id for each in one}) == len(one) == 60
    fixed = make_world(BiographiesConfig(people=20, documents=60, wording="fixed"))
    assert [person.facts for person in fixed.people] == [
        p.facts for p in make_world(BiographiesConfig(people=20, documents=60)).people
    ]


def test_fixed_wording_is_one_template_a_relation_and_nothing_else() -> None:
    """With the values and the name taken out, all are one text; the checker reads each as it was written."""
    texts = set()
    for biography in biographies(BiographiesConfig(people=60, documents=120, wording="fixed")):
        text, person = biography.document.text, biography.person
        sentences = list(read_sentences(text))
        assert [(each.relation, each.value) for each in sentences] == list(person.facts.items())
        assert {each.subject for each in sentences} == {person.surname}
        for stated in reversed(biography.stated):
            text = f"{text[: stated.start]}{{{stated.relation}}}{text[stated.end :]}"
        texts.add(text.replace(person.surname, "S"))
    assert texts == {
        "S was born on {birth_date}. S was born in {birth_place}. S studied at {university}. S majored in {field}."
        " S works for {employer}. S works in {employer_city}."
    }


def test_people_head_and_tail() -> None:
    world = make_world(WORLD)
    counts = [person.documents for person in world.people]
    assert sum(counts) == 10_000
    assert counts[:950] == sorted(counts[:950], reverse=True)
    assert counts[950:] == [0] * 50
    assert counts[0] > 200
    assert len({person.name for person in world.people}) == 1_000
    for person in world.people:
        assert tuple(person.facts) == RELATIONS
    # The derived attribute: all who work for one employer work in one city.
    cities = collections.defaultdict(set)
    for person in world.people:
        cities[person.facts["employer"]].add(person.facts["employer_city"])
    assert {len(each) for each in cities.values()} == {1}
    assert document_counts(10, documents=10) == [1] * 10


def test_the_corpus_and_its_oracle() -> None:
    corpus = CorpusConfig(name="biographies", biographies=BiographiesConfig(people=20, documents=60))
    documents = list(read_documents(corpus))
    marked = list(annotate_documents(documents, AnnotateConfig(annotator="oracle")))
    assert [document for document, _ in marked] == documents
    by_id = {each.document.id: each for each in biographies(corpus.biographies)}
    for document, spans in marked:
        text = full_text(document)
        stated = by_id[document.id].stated
        words = [word for each in stated for word in document.text[each.start : each.end].replace("&", " ").split()]
        assert [text[a:b] for a, b in zip(spans.starts, spans.ends, strict=True)] == words
    assert corpus_fingerprint(corpus) != corpus_fingerprint(
        dataclasses.replace(corpus, biographies=BiographiesConfig(people=20, documents=60, seed=1))
    )


def test_the_oracle_is_made_worse_as_asked() -> None:
    documents = [each.document for each in biographies(BiographiesConfig(people=50, documents=1_000))]
    true = [spans for _, spans in annotate_documents(documents, AnnotateConfig(annotator="oracle"))]
    worse = AnnotateConfig(annotator="oracle", oracle_precision=0.8, oracle_recall=0.7)
    kept = total = noise = 0
    for spans, (_, found) in zip(true, annotate_documents(documents, worse), strict=True):
        facts, marks = {*spans.starts.tolist()}, {*found.starts.tolist()}
        kept, total, noise = kept + len(facts & marks), total + len(facts), noise + len(marks - facts)
    assert kept / total == pytest.approx(0.7, abs=0.02)
    assert kept / (kept + noise) == pytest.approx(0.8, abs=0.02)


def test_the_table_of_facts_knows_its_share(tmp_path) -> None:
    settings = BiographiesConfig(people=200, documents=400)
    known = {}
    for share in (0.5, 0.9, 1.0):
        path = facts_file(settings, Knowledge(known=share), directory=tmp_path)
        assert facts_file(settings, Knowledge(known=share), directory=tmp_path) == path
        with sqlite3.connect(path) as connection:
            known[share] = {*connection.execute("SELECT * FROM facts")}
    people = make_world(settings).people
    assert known[1.0] == {(p.name, relation, value) for p in people for relation, value in p.facts.items()}
    assert known[0.5] < known[0.9] < known[1.0]
    assert len(known[0.9]) / len(known[1.0]) == pytest.approx(0.9, abs=0.03)


def test_a_partner_may_know_less_or_other_facts() -> None:
    """Shares are of the same facts, whatever else is asked; changed and wrong values are somebody else's."""
    settings = BiographiesConfig(people=200, documents=400)
    world = make_world(settings)
    truth = {(p.name, relation): value for p in world.people for relation, value in p.facts.items()}

    def said(**shares: float) -> dict[tuple[str, str], str]:
        return {(name, relation): value for name, relation, value in known_facts(world, Knowledge(**shares))}

    for name in ("changed", "wrong"):
        found = said(**{name: 0.3})
        other = {key for key, value in found.items() if value != truth[key]}
        assert len(other) / len(truth) == pytest.approx(0.3, abs=0.03)
        assert {found[person, relation] for person, relation in other} <= set(truth.values())
        assert said(**{name: 0.3}, known=0.5).items() <= found.items()
        assert {key for key, value in said(**{name: 0.6}).items() if value != truth[key]} > other
    assert changed_world(world, share=0.0) is world
    now = changed_world(world, share=1.0)
    assert {(p.name, r): v for p in now.people for r, v in p.facts.items()} == said(changed=1.0)
    assert not any(said(changed=1.0)[key] == value for key, value in truth.items())


def test_a_partner_may_understand_fewer_wordings(tmp_path) -> None:
    settings = BiographiesConfig(people=20, documents=40)
    counts = []
    for share in (0.5, 1.0):
        path = facts_file(settings, Knowledge(wordings=share), directory=tmp_path)
        with sqlite3.connect(path) as connection:
            counts.append(len([*connection.execute("SELECT * FROM wordings")]))
    assert counts[0] / counts[1] == pytest.approx(0.5, abs=0.12)


def test_a_partner_may_know_some_relations_only(tmp_path) -> None:
    settings = BiographiesConfig(people=20, documents=40)
    path = facts_file(settings, read_knowledge("relations=university+birth_date,known=0.5"), directory=tmp_path)
    whole = facts_file(settings, read_knowledge("known=0.5"), directory=tmp_path)
    with sqlite3.connect(path) as some, sqlite3.connect(whole) as every:
        found = {*some.execute("SELECT * FROM facts")}
        expected = [row for row in every.execute("SELECT * FROM facts") if row[1] in ("birth_date", "university")]
    assert found == {*expected}
    assert 5 < len(found) < 35


@pytest.mark.parametrize("argument", ["known=2", "known=x", "knows=0.5", "0.5", "relations=birth_date+age"])
def test_what_is_no_share_of_the_world_is_refused_in_one_line(argument: str) -> None:
    with pytest.raises(
        PartnerError, match=f"partner world:{re.escape(argument)}: .*allowed are shares of known"
    ) as refused:
        read_knowledge(argument)
    assert "\n" not in str(refused.value)


def test_the_partner_world_writes_no_folder_named_like_a_bucket(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    corpus = CorpusConfig(name="biographies", biographies=BiographiesConfig(people=6, documents=12))
    with pytest.raises(PartnerError, match="its facts lie on a disk, not in gs://bucket/data"):
        make_partner("world", corpus=corpus, directory="gs://bucket/data")
    assert not list(tmp_path.iterdir())


def test_some_facts_are_common_words_and_some_fillers_look_like_facts() -> None:
    """Else grammar alone (names and numbers) would be an oracle."""
    values = [value for person in make_world(WORLD).people for value in person.facts.values()]
    assert 0.1 < np.mean([value == value.lower() for value in values]) < 0.25
    fillers = [
        document.text[sentence.start : sentence.end]
        for document in (
            Document("", "", each.document.text) for each in biographies(BiographiesConfig(people=20, documents=200))
        )
        for sentence in read_sentences(document.text)
        if sentence.kind == "filler"
    ]
    assert np.mean([any(c.isdigit() for c in filler) for filler in fillers]) > 0.5
