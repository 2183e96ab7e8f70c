"""Claims against what a reader says of them, and scores against counting by hand."""

import csv
import dataclasses
import json
import math
import pathlib

import pytest

import lacy_jax
from lacy_jax.cascade.rows import Completion, Counts, Piece
from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import Document, full_text
from lacy_jax.errors import DataError
from lacy_jax.evidence.real_text.claims import Claim, find_claims, is_contained
from lacy_jax.evidence.real_text.people import Subject, find_people
from lacy_jax.evidence.real_text.suite import check, check_proxy, evaluate_real_text, score
from lacy_jax.measures.intervals import wilson_interval

DOCS = pathlib.Path(__file__).parents[2] / "docs"
ARTICLE = (
    "Sophie Brandt\n\nSophie Élise Brandt was a German chemist born in Köln on 3 May 1871. In the 1890s she "
    "found 1,200 salts with Henry V. Ross, worked until 14 March 1932, and was the first half of a well-known "
    "pair in the 20th century. Brandt's law is hers."
)


def claim(text: str, kind: str) -> Claim:
    return Claim(0, len(text), text, kind)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("Köln", "GPE", True),
        ("KOLN", "GPE", True),
        ("Brandt's", "PERSON", True),
        ("the German", "NORP", True),
        ("German chemist of", "PROPN", True),
        ("chemist German", "PROPN", False),
        ("Germany", "GPE", False),
        # Numbers are whole; thousands are written either way.
        ("187", "CARDINAL", False),
        ("1871", "CARDINAL", True),
        ("1200", "CARDINAL", True),
        ("200", "CARDINAL", False),
        ("1890", "DATE", False),
        # A date by its parts, but its words in a row.
        ("May 1871", "DATE", True),
        ("from 1871 to 1932", "DATE", True),
        ("14 May 1932", "DATE", True),
        ("May 1872", "DATE", False),
        ("the 20th century", "DATE", True),
        ("the first century", "DATE", False),
        ("1871", "GPE", True),
        # A surname is enough, an initial or a number of kings is not.
        ("Anna Brandt", "PERSON", True),
        ("Anna Brandt", "ORG", False),
        ("Louis V", "PERSON", False),
    ],
)
def test_contained(text, kind, expected):
    assert is_contained(claim(text, kind), ARTICLE) is expected


def test_claims_are_whole_phrases_said_first_after_the_prompt():
    prompt = "Ada Lovelace\n\nAda Lovelace was born in London on"
    text = (
        prompt
        + " 10 December 1815 in London, and worked with Charles Babbage. She met Charles Babbage in London in 1833."
    )
    found = [each.text for each in find_claims([text], starts=[len(prompt)])[0]]
    assert found == ["10 December 1815", "Charles Babbage", "1833"]
    assert find_claims([""], starts=[0]) == [[]]


def test_claims_lie_where_they_say():
    texts = [
        "Paris\n\nParis is the capital of France, with 2,102,650 people in January 2023.",
        "Nothing is said of it.",
    ]
    first, second = find_claims(texts, starts=[0, 0])
    assert {each.text for each in first} >= {"France", "2,102,650", "January 2023"}
    assert all(texts[0][each.start : each.end] == each.text for each in first)
    assert second == []


def completion(finish: str = "end") -> tuple[Subject, Completion]:
    document = Document("Ada", "Ada Lovelace", "Ada Lovelace was born in London in 1815 and met Charles Babbage.")
    pieces = [
        Piece(" London", "partner", 1.0, 2),
        Piece(" in", "slm", 0.0, 1),
        Piece(" 1816", "slm", 0.0, 1),
        Piece(" and", "partner", 1.0, 1),
        Piece(" met Charles Babbage", "slm", 0.0, 4),
    ]
    text = "".join(piece.text for piece in pieces)
    done = Completion("Ada Lovelace\n\nAda Lovelace was born in", text, tuple(pieces), Counts(9, 3, 2, 0), finish)
    return Subject(document, "validation"), done


def test_records_and_scores_by_hand():
    records = check([completion()])
    assert [(each.text, each.supported, each.delegated) for each in records[0].claims] == [
        ("London", True, True),
        ("1816", False, False),
        ("Charles Babbage", True, False),
    ]
    assert (records[0].partner_pieces, records[0].pieces_in_claims) == (2, 1)
    scores = score(records)
    assert scores.precision.estimate == pytest.approx(2 / 3)
    assert scores.own_precision.estimate == pytest.approx(1 / 2)
    assert (scores.claims.estimate, scores.supported_claims.estimate) == (3, 2)
    assert scores.call_share.estimate == pytest.approx(3 / 9)
    assert scores.delegated_in_claims.estimate == pytest.approx(1 / 2)
    assert json.loads(json.dumps(dataclasses.asdict(records[0])))["claims"][0]["text"] == "London"


def test_a_claim_that_may_be_cut_is_left_out():
    records = check([completion(finish="length")])
    assert [each.text for each in records[0].claims] == ["London", "1816"]


def test_scores_without_a_partner_or_claims():
    person, done = completion()
    own = dataclasses.replace(done, text=" it", pieces=(Piece(" it", "slm", 0.0, 1),), counts=Counts(1))
    scores = score(check([(person, own)]))
    assert scores.call_share == (0, 0, 0)
    assert scores.claims.estimate == 0
    assert all(math.isnan(each.estimate) for each in (scores.precision, scores.delegated_in_claims))


def test_articles_support_themselves_and_hardly_each_other():
    found = check_proxy(find_people(CorpusConfig(), count=20))
    assert found.own.estimate > 0.98
    assert found.other.estimate < 0.15


def test_people_are_held_out_first():
    held_out = find_people(CorpusConfig(validation_share=0.02))
    assert {person.split for person in held_out} == {"validation"}
    titles = {person.document.title for person in held_out}
    assert {"Johannes Brahms", "Joan of Arc"} <= titles
    more = find_people(CorpusConfig(validation_share=0.02), count=len(held_out) + 3)
    assert [person.split for person in more] == ["validation"] * len(held_out) + ["train"] * 3
    elsewhere = find_people(CorpusConfig(name="jsonl", files="none.jsonl"), count=2)
    assert {person.split for person in elsewhere} == {"unknown"}
    with pytest.raises(DataError, match="no held-out article about a person"):
        find_people(CorpusConfig(max_documents=3))
    with pytest.raises(DataError, match="the corpus has no article about a person"):
        find_people(CorpusConfig(max_documents=3), count=2)


def test_a_run_is_evaluated(small_run, tmp_path):
    slm = lacy_jax.load(str(small_run))
    people = find_people(CorpusConfig(), count=2)
    seen = []
    found = evaluate_real_text(
        slm,
        partner="documents",
        budget=0.5,
        people=people,
        directory=str(tmp_path),
        max_new_tokens=16,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 2), (2, 2)]
    assert [record.title for record in found.records] == [person.document.title for person in people]
    assert found.scores.call_share.estimate == pytest.approx(
        sum(record.delegated for record in found.records) / sum(record.generated for record in found.records)
    )


def test_the_claims_judged_by_hand():
    """The stored verdicts are the code's own, and the error rates in the docs are theirs."""
    with open(DOCS / "real_text_claims.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert len(rows) == 50
    articles = {document.id: full_text(document) for document in read_documents(CorpusConfig())}
    text = (DOCS / "real_text.md").read_text(encoding="utf-8")
    for row in rows:
        supported = is_contained(claim(row["claim"], row["kind"]), articles[row["article"]])
        assert row["proxy"] == ("supported" if supported else "unsupported"), row
        assert f"«{row['claim']}»" in row["sentence"]
    for proxy, wrong in (("supported", "false"), ("unsupported", "true")):
        judged = [row["hand"] for row in rows if row["proxy"] == proxy]
        rate = wilson_interval(judged.count(wrong), len(judged))
        assert (
            f"{judged.count(wrong)} of {len(judged)}, {rate.estimate:.2f} ({rate.low:.2f} to {rate.high:.2f})" in text
        )
