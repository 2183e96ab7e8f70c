"""docs/adding.md: what it registers from outside works, and its diffs are changes of as many files as it says."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from lacy_jax.cascade.partners import make_partner
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.config import AnnotateConfig, CorpusConfig
from lacy_jax.config_dict import config_from_dict
from lacy_jax.data.annotate import annotate_documents, annotator_fingerprint
from lacy_jax.data.check import data_problems
from lacy_jax.data.corpus import corpus_fingerprint, read_documents
from lacy_jax.data.documents import Document, full_text
from lacy_jax.evidence import suites
from tests import hf_folders

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "adding.md").read_text()
SECTIONS = {text.partition("\n")[0]: text for text in PAGE.split("\n## ")[1:]}
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
DIFFS = [text for language, text in BLOCK.findall(PAGE) if language == "diff"]

Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs the example of a section as `pip` would: its module, and its entry point beside it."""
    folder = tmp_path / "site"
    names = []

    def installed(section: str) -> None:
        blocks = dict(BLOCK.findall(SECTIONS[section]))
        name = blocks["python"].split(".py")[0].removeprefix("# ")
        groups = tomllib.loads(blocks["toml"])["project"]["entry-points"]
        (folder / f"{name}-0.dist-info").mkdir(parents=True)
        (folder / f"{name}.py").write_text(blocks["python"])
        (folder / f"{name}-0.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 0\n")
        lines = [f"[{group}]\n{key} = {value}" for group, entry in groups.items() for key, value in entry.items()]
        (folder / f"{name}-0.dist-info" / "entry_points.txt").write_text("\n".join(lines))
        monkeypatch.syspath_prepend(str(folder))
        names.append(name)

    yield installed
    for name in names:
        sys.modules.pop(name, None)


def test_a_corpus(install: Install, tmp_path: Path) -> None:
    install("A corpus")
    (tmp_path / "b.txt").write_text("Second.")
    (tmp_path / "a.txt").write_text("First.")
    corpus = config_from_dict({"corpus": {"name": "notes", "files": str(tmp_path)}}).corpus
    assert list(read_documents(corpus)) == [Document("a.txt", "a", "First."), Document("b.txt", "b", "Second.")]
    before = corpus_fingerprint(corpus)
    (tmp_path / "a.txt").write_text("Changed.")
    assert corpus_fingerprint(corpus) != before


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("no_such_module", "cannot be imported: ModuleNotFoundError"),
        ("raises", "cannot be imported: ZeroDivisionError"),
        ("json", "has no function '{}' and no function 'fingerprint'"),
    ],
)
@pytest.mark.parametrize(("group", "function"), [("corpora", "documents"), ("annotators", "mark")])
def test_a_broken_one_is_one_line_and_only_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, function: str, value: str, said: str
) -> None:
    folder = tmp_path / "broken-0.dist-info"
    folder.mkdir()
    (tmp_path / "raises.py").write_text("1 / 0")
    (folder / "METADATA").write_text("Name: broken\nVersion: 0\n")
    (folder / "entry_points.txt").write_text(f"[lacy_jax.{group}]\nbroken = {value}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    part, setting = {"corpora": ("corpus", "name"), "annotators": ("annotate", "annotator")}[group]
    (problem,) = data_problems(config_from_dict({part: {setting: "broken"}}))
    assert said.format(function) in problem
    assert "\n" not in problem
    assert list(data_problems(config_from_dict({}))) == []


def test_an_annotator(install: Install) -> None:
    install("An annotator")
    annotate = config_from_dict({"annotate": {"annotator": "years"}}).annotate
    documents = [Document("1", "Of 1905", "In 1879, and in 123456."), Document("2", "", "Never.")]
    marked = [
        (document, [full_text(document)[start:end] for start, end in zip(spans.starts, spans.ends, strict=True)])
        for document, spans in annotate_documents(documents, annotate)
    ]
    assert marked == [(documents[0], ["1905", "1879"]), (documents[1], [])]
    assert annotator_fingerprint(annotate) != annotator_fingerprint(AnnotateConfig())


def test_a_partner(install: Install) -> None:
    install("A partner")
    partner = make_partner("clock:UTC", corpus=CorpusConfig(), directory="")
    assert partner is not None
    assert partner.name == "clock:UTC"
    time, nothing = partner.complete(["Now the time is", "Now the river is"])
    assert re.fullmatch(r" \d\d:\d\d", time)
    assert nothing == ""


def test_a_model_family(install: Install, tmp_path: Path) -> None:
    install("A model family")
    settings = hf_folders.settings_of("llama2")
    llama, mistral = (
        load_model(str(hf_folders.write_folder(tmp_path / name, "llama2", settings=settings | {"model_type": name})))
        for name in ("llama", "mistral")
    )
    assert mistral.model == llama.model
    jax.tree.map(np.testing.assert_array_equal, mistral.params, llama.params)


def test_a_suite(install: Install, small_run: Path, tmp_path: Path) -> None:
    install("A suite")
    suite = suites.load_suite("lengths")
    settings = suites.Settings(people=1, known=1.0, temperature=0.0, decode=(), budgets="0,1", partner="none")
    lines = suite.run(load_model(str(small_run)), settings, out=tmp_path, progress=lambda *_: None)
    assert len(lines) == 4
    assert re.fullmatch(r"\| 0 \| \d+ \|", lines[2])


# Run with a copy of lacy_jax that has the page's diffs.
CHANGED = """
import json
import numpy as np
import lacy_jax
from configs import slm_tiny
from lacy_jax.cascade.scores import CALL_SCORES, score_of
from lacy_jax.checks import parse
from lacy_jax.objective import HeadScalars, objective_sums, select_targets

factual, valid = np.array([[1, 1, 1, 1, 1, 0, 1]], bool), np.array([[1, 1, 1, 1, 1, 1, 0]], bool)
losses = np.float32([[5, 1, 4, 2, 3, 0, 0]])
rule = parse(slm_tiny.get_config("method=easiest")).objective
taken = select_targets(losses, factual, valid, rule=rule.rule, rate=0.4, rate_of=rule.rate_of)
scalars = HeadScalars(*(np.float32([[value] * 7]) for value in (2, 1, 0)))
treatment = parse(slm_tiny.get_config("method=both")).objective.treatment
sums = objective_sums(scalars, taken, valid, treatment=treatment)
config = slm_tiny.get_config()
config.cascade.score = "doubt"
score = parse(config).cascade.score
said = {"uncertainty": 0.5, "entropy": 3.0, "factual": 0.1}
print(json.dumps({
    "from": lacy_jax.__file__,
    "taken": np.flatnonzero(taken).tolist(),
    "sums": [float(sums.loss), float(sums.weight), int(sums.ground_truth)],
    "scores": [score_of(score, said, gate="none"), score_of(score, said, gate="factual")],
    "title": CALL_SCORES[score].title,
}))
"""


def test_its_diffs_change_the_files_that_it_says() -> None:
    rows = re.findall(r"^\| \[([^\]]+)\]\(#[^)]*\)[^|]*\| (\d+) \| (.*) \|$", PAGE, re.MULTILINE)
    said = {
        name: sorted(f"lacy_jax/{file}" for file in re.findall(r"`([\w/]+\.py)`", where)) for name, _, where in rows
    }
    assert all(len(said[name]) == int(count) for name, count, _ in rows if said[name])
    changed = [sorted(re.findall(r"^\+\+\+ b/(\S+)$", diff, re.MULTILINE)) for diff in DIFFS]
    assert changed == [said[name] for name in ("a rule", "a method", "a treatment", "a score of calling")]


def test_its_diffs_do_what_it_says(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "lacy_jax", tmp_path / "lacy_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for diff in DIFFS:
        subprocess.run(["git", "apply", "-"], input=diff, cwd=tmp_path, text=True, check=True)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHANGED],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, stdout=subprocess.PIPE, text=True, check=True,
    ).stdout  # fmt: skip
    found = json.loads(out)
    assert Path(found["from"]).is_relative_to(tmp_path)
    assert found["taken"] == [1, 3]  # the two lowest of five factual losses
    # NLL of y is 2 - 1, that of <CALL> is log(1 + e^2); six targets count, two are taken and pay half of each.
    assert found["sums"] == [pytest.approx(4 + 2 * (1 + math.log1p(math.e**2)) / 2, rel=1e-6), 6, 6]
    assert found["scores"] == [pytest.approx(1.5), pytest.approx(0.15)]
    assert found["title"] == "doubt"
