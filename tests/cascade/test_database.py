"""The database partner: files and their faults, subjects, wordings, values begun; a small closed world, every fact."""

import itertools
import json
import random
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import pytest

from lacy_jax.cascade.partners.database import Database, begun_size
from lacy_jax.cascade.partners.facts import Facts, open_facts, relation_terms, wording_terms
from lacy_jax.cascade.partners.naming import Reader
from lacy_jax.config import Span
from lacy_jax.errors import PartnerError

Rows = Iterable[tuple[str, ...]]
FACTS = [
    ("Albert Einstein", "birth_place", "Ulm"),
    ("Albert Einstein", "birth_date", "14 March 1879"),
    ("Albert Einstein", "employer", "Swiss Patent Office"),
    ("Albert Einstein", "employer", "University of Zürich"),
    ("Albert Einstein", "employer", "Princeton"),
    ("Albert Einstein", "field", "theoretical physics"),
    ("Marie Curie", "birth_place", "Warsaw"),
    ("Marie Curie", "birth_date", "7 November 1867"),
    ("Marie", "birth_place", "nowhere"),
    ("Zoë Łódź-O'Neill", "birth_place", "Saint-Denis"),
    ("Zoë Łódź-O'Neill", "university", "The Hague College"),
    ("France", "capital", "Paris"),
    ("東京", "人口", "1400万"),
    ("Ann Aach", "birth_place", "Aachen"),
    ("Ann Aach", "grams", "1,234.5"),
]
WORDINGS = [("人口", "人口は"), ("grams", "{subject} weighed {value} grams")]


def write_sqlite(path: Path, facts: Rows, wordings: Rows = ()) -> Path:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE facts (subject, relation, value)")
    connection.executemany("INSERT INTO facts VALUES (?, ?, ?)", facts)
    if wordings:
        connection.execute("CREATE TABLE wordings (relation, wording)")
        connection.executemany("INSERT INTO wordings VALUES (?, ?)", wordings)
    connection.commit()
    connection.close()
    return path


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    folder = tmp_path_factory.mktemp("facts")
    return open_facts(str(write_sqlite(folder / "f.sqlite", FACTS, WORDINGS)), directory=str(folder / "index"))


def ask(facts: Facts, text: str, span: Span = "phrase") -> str:
    return Database(facts, span=span).complete([text])[0]


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("Albert Einstein was born in", " Ulm"),
        ("Albert Einstein was born in ", "Ulm"),
        ("Albert Einstein was born in U", "lm"),
        ("Albert Einstein was born in the", " Ulm"),
        ("Albert Einstein was born (in", " Ulm"),
        ("albert EINSTEIN was born in", " Ulm"),
        ("Albert Einstein was born on", " 14 March 1879"),
        ("Albert Einstein was born on 14", " March 1879"),
        ("Albert Einstein was born on 14 ", "March 1879"),
        ("Albert Einstein was born on 14 march", " 1879"),
        ("Albert Einstein was born on 14 March 18", "79"),
        ("Albert Einstein\n\nHe was born in", " Ulm"),
        ("Albert Einstein was a man. Einstein was born in", " Ulm"),
        ("Albert Einstein studied", " theoretical physics"),
        ("Albert Einstein's field is", " theoretical physics"),
        ("The field of Albert Einstein was", " theoretical physics"),
        ("Albert Einstein\nField: ", "theoretical physics"),
        ("Albert Einstein met Marie Curie. She was born in", " Warsaw"),
        ("Albert Einstein met Marie Curie. Einstein was born in", " Ulm"),
        ("Albert Einstein met Marie Curie. Marie was born in", " nowhere"),  # a name of its own
        ("Albert Einstein lived in France and was born in", " Ulm"),  # of whom the relation is known
        ("Zoe Łodz-O'Neill was born in", " Saint-Denis"),
        ("Zoë Łódź-O'Neill was born in Saint", "-Denis"),
        ("Zoë Łódź-O’Neill attended", " The Hague College"),
        ("Zoë Łódź-O'Neill attended the", " Hague College"),
        ("The capital of France is", " Paris"),
        ("France has a capital called", " Paris"),
        ("東京の人口は", "1400万"),
        ("東京の人口は14", "00万"),
        ("Ann Aach was born in a", " Aachen"),
        ("Ann Aach was born in A", "achen"),
        ("Ann Aach weighed", " 1,234.5"),
        ("Ann Aach weighed 1", ",234.5"),
        ("Ann Aach, he said, weighed about", ""),
    ],
)
def test_values(facts: Facts, text: str, piece: str) -> None:
    assert ask(facts, text) == piece


@pytest.mark.parametrize(
    "text",
    [
        "",
        "was born in",
        "Nobody Known was born in",
        "Albert Einstein",
        "Albert Einstein was",
        "Albert Einstein died in",
        "Albert Einstein was born in Ulm",  # said already
        "Albert Einstein was born in Munich",  # something else
        "Albert Einstein was born in Mun",
        "Albert Einstein was born. In",
        "France was born in",
        "The field that Albert Einstein left in",
        "The employer praised Albert Einstein, who was",
        "Albert Einstein was born in Ulm and",
        "\x00 \ud800 Albert",
        "?!",
    ],
)
def test_no_answer_where_nothing_fits(facts: Facts, text: str) -> None:
    assert ask(facts, text) == ""


def test_of_several_values_the_unsaid_one(facts: Facts) -> None:
    text = "Albert Einstein worked for"
    assert ask(facts, text) == " Swiss Patent Office"
    text += " the Swiss Patent Office,"
    assert ask(facts, text) == " University of Zürich"
    text += " the University of Zurich and"
    assert ask(facts, text) == " Princeton"
    text += " Princeton. Einstein also worked for"
    assert ask(facts, text) == ""
    assert ask(facts, "Princeton is nice. Albert Einstein worked at the University") == " of Zürich"


def test_spans(facts: Facts) -> None:
    text, pieces = "Albert Einstein was born on", []
    while piece := ask(facts, text, "word"):
        pieces.append(piece)
        text += piece
    assert pieces == [" 14", " March", " 1879"]
    assert ask(facts, "Albert Einstein studied", "token") == " theoretical"
    assert ask(facts, "Ann Aach weighed", "word") == " 1,234.5"


def named(facts: Facts, text: str) -> list[str]:
    return [mention.subject.name for mention in Reader(facts).read(text).mentions()]


def test_the_last_subject_named_comes_first(facts: Facts) -> None:
    text = "Marie Curie, Albert Einstein, France. Curie came."
    assert named(facts, text) == ["Marie Curie", "France", "Albert Einstein"]
    assert named(facts, "a curie of albert") == []


def test_wordings_of_ones_own(tmp_path: Path) -> None:
    facts = [("Ann Aach", "job", "baker"), ("Ann Aach", "city", "Ulm"), ("Ann Aach", "birth_place", "Bern")]
    wordings = [
        ("job", "earns {pronoun} living as a"),
        ("city", "can be found in"),
        ("birth_place", "{subject} first saw the light of day in {value}."),
        ("birth_place", "{value} is the home of {subject}"),
    ]
    file = write_sqlite(tmp_path / "f.sqlite", facts, wordings)
    found = open_facts(str(file), directory=str(tmp_path))
    for text, piece in (
        ("Ann Aach earns her living as a", " baker"),
        ("Ann Aach still earns all of her good living as a", " baker"),
        ("Ann Aach can nearly always be found in", " Ulm"),
        ("Ann Aach can be so very often found in", ""),  # three words more
        ("Ann Aach can be found, and it was early in the day that she was in", ""),
        ("Ann Aach first saw the light of day in", " Bern"),
        ("Ann Aach was born in", ""),  # its own wordings stand in place of the common ones
    ):
        assert ask(found, text) == piece, text
    assert wording_terms("{subject} works {adverb} for {value}, they say") == ("works", "", "for")
    assert wording_terms("{value} comes first") == ()
    assert relation_terms("birthPlace") == relation_terms("birth_place") == ("birth", "place")


def test_the_beginning_of_a_value() -> None:
    cases = (
        ("Ulm", "U", 1), ("Ulm", "u", None), ("Ulm", "ulm", 3), ("Zürich Nord", "Zurich ", 7), ("Zürich", "Zu", None),
        ("a big one", "a", 1), ("aachen", "a", None), ("The Hague", "the", 3), ("Thessaloniki", "the", None),
        ("e\u0301cole", "e\u0301cole", 6), ("ß x", "ss", 1), ("Ulm", "Ulm ", None), ("Ulm", "", 0), ("14 May", "1", 1),
    )  # fmt: skip
    for value, begun, size in cases:
        assert begun_size(value, begun) == size, (value, begun)


def test_every_kind_of_file_gives_the_same(tmp_path: Path) -> None:
    write_sqlite(tmp_path / "f.sqlite", FACTS, WORDINGS)
    header = ("subject", "relation", "value")
    lines = [
        *(dict(zip(header, row, strict=True)) for row in FACTS),
        *({"relation": a, "wording": b} for a, b in WORDINGS),
    ]
    (tmp_path / "f.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    (tmp_path / "f.tsv").write_text("\n".join("\t".join(row) for row in [header, *FACTS]) + "\n", encoding="utf-8-sig")
    (tmp_path / "f.csv").write_text("\n".join(",".join(f'"{field}"' for field in row) for row in [header, *FACTS]))
    for name in ("f.sqlite", "f.jsonl", "f.tsv", "f.csv"):
        facts = open_facts(str(tmp_path / name), directory=str(tmp_path / "index"))
        assert ask(facts, "Marie Curie was born on") == " 7 November 1867", name
        assert ask(facts, "Zoë Łódź-O'Neill was born in") == " Saint-Denis", name
    assert len(list((tmp_path / "index").iterdir())) == 4


def test_an_index_is_reused_and_follows_its_file(tmp_path: Path) -> None:
    file, index = write_sqlite(tmp_path / "f.sqlite", FACTS), tmp_path / "index"
    open_facts(str(file), directory=str(index))
    (built,) = index.iterdir()
    stamp = built.stat().st_mtime_ns
    open_facts(str(file), directory=str(index))
    assert built.stat().st_mtime_ns == stamp
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode = WAL")
    for value in ("Graz", "Wien"):  # lies in the file's write-ahead log only
        connection.execute("UPDATE facts SET value = ? WHERE value = 'Ulm' OR value = 'Graz'", (value,))
        connection.commit()
        assert ask(open_facts(str(file), directory=str(index)), "Albert Einstein was born in") == f" {value}"
    connection.close()
    built.write_bytes(b"broken")
    open_facts(str(write_sqlite(tmp_path / "g.sqlite", FACTS)), directory=str(index))
    assert not list(index.glob("*unfinished*"))


def test_files_that_are_refused(tmp_path: Path) -> None:
    empty, other, columns, text = (tmp_path / name for name in ("e.sqlite", "o.sqlite", "c.sqlite", "t.sqlite"))
    sqlite3.connect(empty).close()
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE people (name)")
    connection.close()
    connection = sqlite3.connect(columns)
    connection.execute("CREATE TABLE facts (subject, predicate, object)")
    connection.close()
    text.write_text("this is no database, and long enough to be one " * 50)
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    (tmp_path / "a.jsonl").write_text('{"subject": "x", "relation": "y", "value": "z"}\n{"subject": "x"}\n')
    (tmp_path / "b.jsonl").write_text("[1]\n")
    (tmp_path / "c.jsonl").write_text("nothing\n")
    (tmp_path / "d.csv").write_bytes(b"subject,relation,value\n\xff\xfe,a,b\n")
    for file, named in (
        ("no.sqlite", "no such file: .*no.sqlite"), ("e.sqlite", "no table `facts`; its tables: none"),
        ("o.sqlite", "no table `facts`; its tables: people"), ("t.sqlite", "not a database"),
        ("c.sqlite", "needs subject, relation, value; has subject, predicate, object"), ("a.csv", "line 1.*has a, b"),
        ("a.jsonl", "line 2: needs .*; has subject"), ("b.jsonl", "line 1: a JSON list, not an object"),
        ("c.jsonl", "line 1: not JSON"),
        ("d.csv", "cannot read .*d.csv"),
    ):  # fmt: skip
        with pytest.raises(PartnerError, match=named):
            open_facts(str(tmp_path / file), directory=str(tmp_path / "index"))
    assert not (tmp_path / "index").exists() or not list((tmp_path / "index").iterdir())


def test_rows_that_say_nothing_are_left_out(tmp_path: Path) -> None:
    rows = [("Ann", "employer", None), (None, "employer", "x"), ("", "a", "b"), ("?!", "a", "b"), ("Ann", "field", 7.5)]
    facts = open_facts(str(write_sqlite(tmp_path / "f.sqlite", rows)), directory=str(tmp_path))  # type: ignore[arg-type]
    assert ask(facts, "Ann works for") == ""
    assert ask(facts, "Ann studied") == " 7.5"


# A closed world: every value is asked for after each wording, at each point of it.
GIVEN = ["Anna", "Boris", "Clara", "Dmitri", "Elif", "Farid", "Greta", "Hugo"]
MIDDLE = ["", "J.", "Maria", "van der"]
FAMILY = ["Aalto", "Bergmann", "Çelik", "Dvořák", "Eriksen", "Fontaine", "García", "Håkansson"]
PLACES = ["Ulm", "San Marino", "Le Mans", "Łódź", "Stoke-on-Trent", "St. Gallen", "New York City", "Aachen"]
WAYS = {
    "birth_place": ["{subject} was born in", "{subject} hails {adverb} from", "The birthplace of {subject} is"],
    "birth_date": ["{subject} came into this world on", "{subject}'s birthday is"],
    "university": ["{subject} holds a {kind} degree from", "{subject} studied at"],
    "field": ["{subject} specialised in", "{subject} wrote a thesis about"],
    "employer": ["{subject} earns a living at", "{subject} is employed by"],
    "employer_city": ["{subject} commutes to"],
}
MONTHS = ["January", "March", "June", "September", "December"]


def world(count: int, seed: int = 0) -> dict[str, dict[str, str]]:
    rng = random.Random(seed)
    names = [" ".join(filter(None, parts)) for parts in itertools.product(GIVEN, MIDDLE, FAMILY)]
    names += [
        f"{given} {number}th {family}"
        for number in range(count)
        for given, family in [rng.choices(GIVEN + FAMILY, k=2)]
    ]
    people = {}
    for name in names[:count]:
        people[name] = {
            "birth_place": rng.choice(PLACES),
            "birth_date": f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {rng.randint(1700, 2000)}",
            "university": rng.choice(["University of Ulm", "the Sorbonne", "MIT", "ETH Zürich", "King's College"]),
            "field": rng.choice(["organic chemistry", "law", "the history of art", "18th-century music"]),
            "employer": rng.choice(["Acme & Sons", "Borg", "Dr. No Ltd.", "3M", "the Post Office"]),
            "employer_city": rng.choice(PLACES),
        }
    return people


@pytest.fixture(scope="module")
def biographies(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, str]], Facts]:
    people, folder = world(200), tmp_path_factory.mktemp("world")
    rows = [(name, relation, value) for name, them in people.items() for relation, value in them.items()]
    wordings = [(relation, way) for relation, ways in WAYS.items() for way in ways]
    file = write_sqlite(folder / "people.sqlite", rows, wordings)
    return people, open_facts(str(file), directory=str(folder))


def test_a_closed_world_is_known_exactly(biographies: tuple[dict[str, dict[str, str]], Facts]) -> None:
    people, facts = biographies
    rng, asked = random.Random(1), 0
    for name, them in people.items():
        other = rng.choice([person for person in people if person.split()[-1] != name.split()[-1]])
        text = f"{name}\n\nA friend of {other}, {name} is known in the U.S. and in 14 other places."
        for relation in rng.sample(sorted(them), len(them)):
            subject = rng.choice([name, name.split()[-1], "She", "He"])
            way = rng.choice(WAYS[relation]).format(subject=subject, adverb=rng.choice(["in fact", ""]), kind="good")
            text += " " + " ".join(way.split())
            value = them[relation]
            assert ask(facts, text) == f" {value}", text
            for cut in range(1, len(value)):  # wherever the SLM hands over
                if value[:cut] not in ("the", "the "):
                    assert ask(facts, f"{text} {value[:cut]}") == value[cut:], (text, value[:cut])
            built = text
            while piece := ask(facts, built, "word"):
                built += piece
            assert built == f"{text} {value}"
            text, asked = f"{text} {value}.", asked + 1
            assert ask(facts, text) == ""
    assert asked == 1200


def steps_of(folder: Path, *, people: int) -> int:
    """SQLite's steps for 200 questions to a database of `people` people, all answered."""
    known = world(people)
    rows = [(name, relation, value) for name, them in known.items() for relation, value in them.items()]
    facts = open_facts(str(write_sqlite(folder / f"{people}.sqlite", rows, WORDINGS)), directory=str(folder))
    plan = facts._connection.execute("EXPLAIN QUERY PLAN SELECT id FROM subjects WHERE folded = 'x'").fetchall()
    plan += facts._connection.execute("EXPLAIN QUERY PLAN SELECT id FROM facts WHERE subject = 1").fetchall()
    assert all("SEARCH" in row[-1] for row in plan)
    asked = list(known)[:: people // 200]
    texts = [f"{name}\n\n" + "The 3 of them met in Ulm, and so on. " * 20 + "She was born in" for name in asked]
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    facts._connection.set_progress_handler(step, 1)
    pieces = Database(facts, span="phrase").complete(texts)
    assert pieces == [f" {known[name]['birth_place']}" for name in asked]
    return steps


def test_many_subjects_cost_no_more_than_few(tmp_path: Path) -> None:
    assert steps_of(tmp_path, people=20_000) < 1.2 * steps_of(tmp_path, people=200)
