"""A database reads on where it stopped: what it makes of a text is what it makes of it in one go."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lacy_jax.cascade.partners import naming
from lacy_jax.cascade.partners.database import Database
from lacy_jax.cascade.partners.facts import Facts, open_facts
from lacy_jax.cascade.partners.naming import Read, Reader
from lacy_jax.cascade.text.words import words_of

# Names that begin with each other, and that a longer text makes other names.
NAMES = ("Ada", "Ada Oak", "Ada Oak Smith", "Oak", "Oak Hill", "The Hill", "Hill of Ada", "Łódź-Oak", "東京", "Bo 7")
ROWS = "".join(
    f"{name}\t{relation}\t{value} {index}\n"
    for index, name in enumerate(NAMES)
    for relation, value in (("birth place", "Ulm"), ("employer", "Oak Mills"), ("employer", "Hill"))
)
# What texts are made of: names, parts of them, wordings, and what may join or part words.
PARTS = (
    *NAMES, "Oa", "k", "Smith", "ada", "Hil", "l", "7", "77", "was born in", "born in", "works for", "Ulm", "Ulm 1",
    "employer is", " ", " ", "  ", ". ", "\n", "\n\n", ", and ", "-", "'", "’s", "\u0301", "é", "東", "京", "_", "€",
)  # fmt: skip


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    folder = tmp_path_factory.mktemp("naming")
    (folder / "f.tsv").write_text("subject\trelation\tvalue\n" + ROWS)
    return open_facts(str(folder / "f.tsv"), directory=str(folder / "index"))


def said(read: Read) -> list[tuple[str, int, int]]:
    return [(each.subject.name, each.start, each.end) for each in read.mentions()]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=40), st.lists(st.integers(0, 200), max_size=12))
def test_reading_on_is_reading_anew(facts: Facts, parts: list[str], cuts: list[int]) -> None:
    text, grown = "".join(parts), Read(facts)
    for cut in sorted({min(cut, len(text)) for cut in (*cuts, len(text))}):
        grown.grow(text[:cut])
        once = Read(facts)
        once.grow(text[:cut])
        assert grown.words == once.words == words_of(text[:cut])
        assert said(grown) == said(once)
        terms = [word.term for word in words_of(text[:cut])]
        for some in ([], terms[-1:], terms[-3:-1], ["ada", "oak"], ["ada", "hill"], ["oak"]):
            assert grown.says(some) == (f" {' '.join(some)} " in f" {' '.join(terms)} ")


def test_answers_do_not_depend_on_what_was_asked_before(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "MOST_TEXTS", 3)
    drawn, answers = random.Random(1), 0
    database, texts = Database(facts, span="phrase"), ["", "Ada"]
    for _ in range(3000):
        before = drawn.choice(texts[-6:])
        text = (before if len(before) < 300 else "") + drawn.choice(PARTS) + drawn.choice(("", " "))
        texts.append(text)
        found = database.complete([text])
        assert found == Database(facts, span="phrase").complete([text])
        answers += bool(found[0])
    assert answers > 200


def test_what_is_remembered_is_bounded(facts: Facts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naming, "MOST_WORDS", 50)
    reader = Reader(facts)
    for number in range(40):
        assert len(reader.read(f"{number} " + "word " * (number % 30)).words) == number % 30 + 1
        assert sum(len(each.words) for each in reader._texts[:-1]) <= 50
    monkeypatch.setattr(naming, "MOST_TEXTS", 4)
    for number in range(40):
        reader.read(f"{number}:")
        assert len(reader._texts) <= 4
    assert len(reader._texts) == 4


def test_a_long_text_costs_its_length_once(facts: Facts) -> None:
    """The letters that are read, not the time."""
    read, letters = Read(facts), 0
    text = "Ada Oak works for somebody. " * 500
    for end in range(0, len(text), 28):
        before = read._read
        read.grow(text[:end])
        letters += end - before
    assert letters < 3 * len(text)
