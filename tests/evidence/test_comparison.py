"""Two stored annotations compared, against a count of characters one by one; and the page with hostile texts."""

import html.parser
import itertools
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lacy_jax.config import RuleConfig
from lacy_jax.data.datasets import dataset_directory, write_annotated
from lacy_jax.data.documents import Document, Spans, full_text
from lacy_jax.doors import enter
from lacy_jax.errors import DataError
from lacy_jax.evidence.comparison.compare import Annotation, compare, lines, open_annotation
from lacy_jax.evidence.comparison.page import write_comparison_page
from lacy_jax.prepare import DOOR

HOSTILE = '</p></mark><script>alert(1)</script><img src=x onerror="alert(2)"> \u202egnp.exe \x1b[31m \x00 & "quotes" '
Marks = list[list[tuple[int, int, str]]]


def stored(folder: Path, name: str, documents: list[Document], marks: Marks) -> Path:
    def spans(rows: list[tuple[int, int, str]]) -> Spans:
        table, no = np.array([row[:2] for row in rows], np.int32).reshape(-1, 2), np.zeros(len(rows), bool)
        return Spans(table[:, 0], table[:, 1], tuple(row[2] for row in rows), subject=no, repeated=no)

    write_annotated(
        ((document, spans(sorted(rows))) for document, rows in zip(documents, marks, strict=True)),
        directory=folder, name=name, fingerprint={"annotator": {"annotator": name}, "corpus": {"name": "x"}},
        count=len(documents), characters=100,
    )  # fmt: skip
    return dataset_directory(folder, "annotated", name=name)


def random_marks(documents: list[Document], seed: int) -> Marks:
    rng = np.random.default_rng(seed)
    marks = []
    for document in documents:
        places = np.sort(rng.choice(len(full_text(document)) + 1, size=(6, 2)), axis=1)
        marks.append([(int(a), int(b), str(rng.choice(["GPE", "DATE", "NUM"]))) for a, b in places if a < b])
    return marks


@pytest.fixture
def documents() -> list[Document]:
    words = ["Ada", "met", "", "Bob\tin", "Oslo\n\nin", "1867", "and", "東京", "😀", "."]
    rng = np.random.default_rng(0)
    return [Document(str(n), "Of Ada" if n % 2 else "", " ".join(rng.choice(words, 12))) for n in range(20)]


def test_the_comparison_equals_a_count_of_characters(tmp_path: Path, documents: list[Document]) -> None:
    both = [random_marks(documents, seed) for seed in (1, 2)]
    folders = [stored(tmp_path, name, documents, marks) for name, marks in zip(("one", "two"), both, strict=True)]
    first, second = (open_annotation(str(folder)) for folder in folders)
    found = compare(first, second)
    pairs: Counter[tuple[str, str]] = Counter()
    alone: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for document, *own in zip(documents, *both, strict=True):
        text = full_text(document)
        kinds = [[next((k for a, b, k in sorted(rows) if a <= n < b), "") for n in range(len(text))] for rows in own]
        solid = [n for n in range(len(text)) if not text[n].isspace()]
        pairs.update((kinds[0][n], kinds[1][n]) for n in solid)
        for side in (0, 1):
            only = lambda n: bool(kinds[side][n]) and not kinds[1 - side][n]  # noqa: E731, B023
            for is_alone, run in itertools.groupby(solid, key=only):
                places = list(run)
                if is_alone:
                    alone[side][" ".join(text[places[0] : places[-1] + 1].split())] += 1
    assert found.pairs == pairs
    assert found.phrases == alone
    marked = {(bool(a), bool(b)): 0 for a in (0, 1) for b in (0, 1)}
    for (a, b), count in pairs.items():
        marked[bool(a), bool(b)] += count
    whole = found.overall
    assert (whole.both, whole.first_only, whole.second_only, whole.neither) == (
        marked[True, True], marked[True, False], marked[False, True], marked[False, False],
    )  # fmt: skip
    for kind, own_size, other_size, precision, recall, kappa in found.kinds():
        of_first = sum(count for (a, _), count in pairs.items() if a == kind)
        of_second = sum(count for (_, b), count in pairs.items() if b == kind)
        assert (own_size, other_size) == (of_first, of_second)
        assert precision == pytest.approx(sum(n for (a, b), n in pairs.items() if b == kind and a) / of_second)
        assert recall == pytest.approx(sum(n for (a, b), n in pairs.items() if a == kind and b) / of_first)
        n, same = pairs.total(), sum(c for (a, b), c in pairs.items() if (a == kind) == (b == kind))
        chance = of_first / n * of_second / n + (1 - of_first / n) * (1 - of_second / n)
        assert kappa == pytest.approx((same / n - chance) / (1 - chance))
    assert {each.document.id for each in found.examples} <= {document.id for document in documents}


def test_an_annotation_agrees_with_itself_and_kinds_of_one_alone_have_no_kappa(
    tmp_path: Path, documents: list[Document]
) -> None:
    marks = random_marks(documents, 1)
    one = open_annotation(str(stored(tmp_path, "one", documents, marks)))
    same = compare(one, one)
    assert (same.overall.kappa, same.overall.f1, same.examples) == (1.0, 1.0, [])
    other = open_annotation(str(stored(tmp_path, "two", documents, [[(a, b, "FACT") for a, b, _ in m] for m in marks])))
    found = compare(one, other)
    assert found.overall.kappa == 1.0
    assert all(math.isnan(kappa) for *_, kappa in found.kinds())


def test_a_rule_chooses_first(tmp_path: Path, documents: list[Document]) -> None:
    one = open_annotation(str(stored(tmp_path, "one", documents, random_marks(documents, 1))))
    chosen = compare(one, Annotation(one.folder, RuleConfig(kinds="DATE"), one.fingerprint))
    assert {kind for _, kind in chosen.pairs} == {"", "DATE"}


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.update(name for name, _ in attrs)


def test_hostile_documents_break_neither_page_nor_terminal(tmp_path: Path) -> None:
    text = HOSTILE * 30
    documents = [Document(f"{HOSTILE}{n}", HOSTILE if n % 2 else "", text) for n in range(3)]
    kind = '<b onclick="x">\x1b[2J'
    marks: Marks = [[(200, 260, kind), (300, 420, "GPE")]] * 3
    first = open_annotation(str(stored(tmp_path, "one", documents, marks)))
    second = open_annotation(str(stored(tmp_path, "two", documents, [[(230, 350, "GPE")]] * 3)))
    found = compare(first, second)
    page = tmp_path / "page.html"
    write_comparison_page(str(page), found, first=first, second=second, command="prepare <x>")
    content = page.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(content)
    assert not {"script", "img", "b", "iframe", "link"} & set(tags.tags)
    assert not {name for name in tags.attributes if name.startswith("on") or name in ("src", "href")}
    assert tags.tags.count("mark") > 6
    assert "\x00" not in content
    assert "\x1b" not in content
    assert content.count('class="text"') == 3
    said = "\n".join(lines(found, first, second))
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert re.search(r"^\| all \|", said, re.MULTILINE)


def test_the_door_compares_and_writes_the_page(
    tmp_path: Path, documents: list[Document], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [stored(tmp_path, name, documents, random_marks(documents, seed)) for seed, name in enumerate("ab")]
    page = tmp_path / "page.html"
    assert enter(DOOR, [f"--compare={folders[0].parent},{folders[1]}", f"--html={page}"]) == 0
    said = capsys.readouterr().out
    assert "| kind | A | B | precision | recall | F1 | kappa |" in said
    assert said.endswith(f"{page}\n")
    assert page.stat().st_size > 10_000
    for words, problem in (
        (["--compare=x"], "name two folders, with a comma"),
        ([f"--compare={folders[0]},{tmp_path}/none"], "there is no folder"),
        ([f"--html={page}", "--config=configs/slm_tiny.py"], "--html goes with --show or --compare"),
        ([f"--compare={folders[0]},{folders[1]}", f"--html={tmp_path}"], "is a folder; name a file"),
        ([f"--compare={folders[0]},{folders[1]}", "--tokens"], "--tokens goes with --show"),
        ([], "--config is needed"),
    ):
        assert enter(DOOR, words) == 2
        assert problem in capsys.readouterr().err


def test_annotations_of_different_corpora_are_refused(tmp_path: Path, documents: list[Document]) -> None:
    marks = random_marks(documents, 1)
    one = open_annotation(str(stored(tmp_path, "one", documents, marks)))
    fewer = open_annotation(str(stored(tmp_path, "fewer", documents[:-1], marks[:-1])))
    with pytest.raises(DataError, match=r"has 20 documents, .* has 19"):
        compare(one, fewer)
    changed = [Document(each.id, each.title, f"{each.text}!") for each in documents]
    other = open_annotation(str(stored(tmp_path, "other", changed, marks)))
    with pytest.raises(DataError, match="document '0' has another text there"):
        compare(one, other)
    with pytest.raises(DataError, match="there is no folder"):
        open_annotation(str(tmp_path / "none"))
    with pytest.raises(DataError, match="no complete annotated dataset"):
        open_annotation(str(tmp_path))


def test_who_marked_is_said_in_words() -> None:
    spacy = {"annotator": "spacy", "model": "en_core_web_sm", "version": "3.8.0"}
    partner = {"annotator": "partner", "partner": ["documents", ""]}
    found = (spacy, partner, {"annotator": "links"})
    said = [Annotation(Path(), None, {"annotator": each}).described for each in found]
    assert said == ["en_core_web_sm 3.8.0, all marks", "partner documents, all marks", "links, all marks"]
    assert Annotation(Path(), RuleConfig(), {}).described == "nobody known, what its rule chooses"
