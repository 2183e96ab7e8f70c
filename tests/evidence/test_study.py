"""A study in small: trained, evaluated and shown by its door, resumed without doing anything twice."""

import dataclasses
import importlib.metadata
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lacy_jax
from lacy_jax import evaluate as door
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.doors import enter
from lacy_jax.errors import ConfigError
from lacy_jax.evidence.closed_world.decodes import ALONE, Decode, parse_decode
from lacy_jax.evidence.closed_world.kept import model_fingerprint, read_judged
from lacy_jax.evidence.closed_world.scores import estimate
from lacy_jax.evidence.study import runs
from lacy_jax.evidence.study.done import UNKNOWN_CODE, code_identity
from lacy_jax.evidence.study.page import mixed_code, write_study_page
from lacy_jax.evidence.study.plan import Arm, Study, load_study
from lacy_jax.evidence.study.results import read_results
from lacy_jax.evidence.study.runs import evaluate_command, evaluation_directory, finished, mark_finished, train_command
from tests.xla import xla_flags

ROOT = Path(__file__).parents[2]
BEFORE = ROOT / "tests/data/made_by_60e64f2"
CALL = Decode("log_odds", score="call_score", budgets=(0.22, 0.5))

STUDY = """
from lacy_jax.evidence.closed_world.decodes import Decode
from lacy_jax.evidence.study.plan import Arm, Contrast, Study

CALL = Decode("log_odds", score="call_score", budgets=(0.22, 0.5))
ASKING = Decode("asking", score="call_score", partner="ntp")
OURS = Decode("confidence", score="uncertainty", gate="factual", budgets=(0.22, 0.5))
SMALL = {
    "corpus.biographies.people": 30, "corpus.biographies.documents": 120, "corpus.validation_share": 0.1,
    "annotate.annotator": "oracle", "rule.exclude_subjects": False, "rule.first_mention_only": False,
    "tokenizer.vocab_size": 700, "model.layers": 1, "model.width": 32, "model.heads": 2, "data.batch_size": 8,
    "training.ground_truth_tokens": 6000,
    "optimizer.warmup_steps": 2, "objective.rate_warmup_steps": 0,
}

def get_study(variant):
    arms = (
        Arm("rho", "rho", "Rho-1", reference="ntp", decodes=(CALL, ASKING)),
        Arm("ntp", "ntp", "NTP", decodes=(OURS,)),
    )
    contrast = Contrast("H1: first", ("rho", "log_odds"), ("ntp", "confidence"))
    pairs = (("rho", "log_odds"), ("ntp", "confidence"))
    return Study("small", "configs/biographies.py", arms, (0,), (contrast,), SMALL, people=6, curves=pairs)
"""


def run(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": xla_flags(devices=1)}
    command = [sys.executable, "-m", "lacy_jax.evaluate", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_small_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "study.py").write_text(STUDY)
    runs = tmp_path / "our runs, all"
    words = (f"--study={tmp_path}/study.py", f"--workdir={runs}", "--workers=2")
    done = run(*words)
    assert done.returncode == 0, done.stderr + (runs / "ntp/seed0/log.txt").read_text()[-2000:]
    page = (runs / "study.html").read_text()
    titles = ("Rho-1: log-odds", "Rho-1: log-odds, asks NTP", "NTP: 1 - max p, gated")
    for expected in (*titles, "written by the partner", "birth_place"):
        assert expected in page
    assert "of 2 runs are finished" not in page
    assert "Further ways to call" not in page  # of which this study has none
    # The other model was asked, and other things came of it than of the database.
    asking, known = (read_judged(runs / f"rho/seed0/closed_world/{name}-0.22.jsonl") for name in ("asking", "log_odds"))
    assert sum(each.calls - each.fallbacks for each in asking) > 0
    assert [each.pieces for each in asking] != [each.pieces for each in known]
    kept = {path: path.stat().st_mtime_ns for path in runs.rglob("*.jsonl")}
    log = (runs / "rho/seed0/log.txt").read_text()
    assert run(*words).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*.jsonl")} == kept
    assert (runs / "rho/seed0/log.txt").read_text() == log
    # One checkpoint by its suite; the second time from its files, and never over those of other settings.
    suite = ("--suite=closed_world", f"--checkpoint={runs}/ntp/seed0", f"--out={tmp_path}/out", "--people=6")
    first = run(*suite)
    assert first.returncode == 0
    assert (enter(door.DOOR, suite), capsys.readouterr().out) == (0, first.stdout)
    assert "| default | 0.22 |" in first.stdout
    assert "| uncertainty, gated |" in first.stdout
    tokens = json.loads((tmp_path / "out/tokens.json").read_text())
    assert 0.1 < tokens["share_factual"] < 0.5
    assert {"birth_date", "other", "factual"} <= {*tokens["nll"]}
    # In this process, which has imported all that it needs.
    assert enter(door.DOOR, [*suite, "--known=0.5", '--decode={"name": "default", "score": "entropy"}']) == 2
    assert "known 0.9, now 0.5, decode default {'score': 'auto', 'gate': 'none'" in capsys.readouterr().err
    # What cannot be used claims no folder.
    assert enter(door.DOOR, [*suite[:2], f"--out={tmp_path}/none", "--people=99"]) == 2
    assert not (tmp_path / "none").exists()
    assert "people=99: allowed is 1 to 30" in capsys.readouterr().err
    # A run that fails is named, the others stay.
    (runs / "ntp/seed0/closed_world/done").unlink()
    (tmp_path / "study.py").write_text(STUDY.replace('"data.batch_size": 8', '"data.batch_size": 4'))
    failed = run(*words)
    assert failed.returncode == 1
    assert "failed      ntp, seed 0" in failed.stderr


def test_the_folder_of_an_evaluation_knows_its_model(small_run: Path) -> None:
    # As commit 60e64f2 had it: decodes can be added to what it evaluated.
    assert model_fingerprint(load_model(str(BEFORE / "export"))) == "720d44caa7ba"
    slm = load_model(str(small_run))
    config = slm.config
    assert model_fingerprint(slm) == model_fingerprint(load_model(str(small_run / "checkpoints/6")))
    moved = dataclasses.replace(config, data=dataclasses.replace(config.data, directory="elsewhere"))
    assert model_fingerprint(dataclasses.replace(slm, config=moved)) == model_fingerprint(slm)
    reseeded = dataclasses.replace(config, training=dataclasses.replace(config.training, seed=1))
    assert model_fingerprint(dataclasses.replace(slm, config=reseeded)) != model_fingerprint(slm)
    assert model_fingerprint(load_model(str(small_run / "checkpoints/3"))) != model_fingerprint(slm)


def test_partners_are_trained_once_and_before_those_that_ask_them() -> None:
    asking = Decode("asking", score="call_score", partner="large")
    arms = (
        Arm("rho", "rho", "Rho-1", reference="ntp"),
        Arm("ntp", "ntp", "NTP", decodes=(CALL, asking)),
        Arm("large", "ntp", "large", {"model.width": 192}, decodes=(ALONE,)),
    )
    made = Study("s", "c", arms, seeds=(4, 5))
    assert [(arm.name, seed) for arm, seed in made.jobs()] == [
        *(("rho", 4), ("ntp", 4), ("large", 4)),
        *(("rho", 5), ("ntp", 5)),
    ]
    # What each waits for; the small study above lists an arm before the one that it needs.
    assert {(arm.name, seed): made.needs(arm, seed) for arm, seed in made.jobs()} == {
        ("rho", 4): {("ntp", 4)},
        ("ntp", 4): {("large", 4)},
        ("large", 4): set(),
        ("rho", 5): {("ntp", 5)},
        ("ntp", 5): {("large", 4)},
    }
    for seed in made.seeds:
        own, others = evaluate_command(made, made.arm("ntp"), seed, workdir="w")[-2:]
        assert parse_decode(own.removeprefix("--decode=")) == CALL
        answers = dataclasses.replace(asking, partner="w/large/seed4")
        assert parse_decode(others.removeprefix("--decode=")) == answers


def test_data_is_prepared_by_settings_of_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a study says of its training may be half of what an arm says: such settings are refused."""
    commands = []
    monkeypatch.setattr(runs, "_logged", lambda command, **_: commands.append(command))
    study = load_study("configs/study_defer.py:capacity")
    runs._prepare(study, list(study.jobs()), workdir=str(tmp_path), report=lambda *_: None)
    kinds = {tuple(word for word in command if "people" in word or "sub_tokens" in word) for command in commands}
    assert len(kinds) == len(commands) == 4  # two sizes, two rules
    assert not [word for command in commands for word in command if "config.training." in word]


@pytest.mark.parametrize(("own", "expected"), [(None, "false"), ("true", "true")])
def test_runs_at_once_share_a_gpu(
    own: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    monkeypatch.delenv(name, raising=False)
    if own:
        monkeypatch.setenv(name, own)
    assert runs._logged([sys.executable, "-c", f"import os; print(os.environ['{name}'])"], log=tmp_path / "log.txt")
    assert (tmp_path / "log.txt").read_text().splitlines()[-1] == expected


def test_studies_of_one_name_take_over_what_is_the_same(tmp_path: Path) -> None:
    """In the shipped file: runs of one folder that are trained alike, and evaluated in at least these ways."""
    workdir = str(tmp_path)
    reduced, choices, partner = (
        load_study(f"configs/study_biographies.py:{name}") for name in ("reduced", "choices", "partner")
    )
    assert reduced.name == choices.name
    arm = reduced.arm("lacy_full")
    done = evaluation_directory(workdir, arm=arm.name, seed=2) / "done"
    done.parent.mkdir(parents=True)

    def is_finished(other: Study, **changes: object) -> bool:
        changed = dataclasses.replace(other.arm(arm.name), **changes)  # type: ignore[arg-type]
        return finished(other, changed, 2, workdir=workdir) is not None

    assert not is_finished(reduced)
    mark_finished(reduced, arm, 2, workdir=workdir, code="ours")
    assert is_finished(reduced)
    assert not is_finished(choices)  # which asks for one decode more
    assert is_finished(choices, decodes=arm.decodes)
    assert is_finished(reduced, decodes=arm.decodes[:1])
    assert not is_finished(reduced, decodes=(*arm.decodes, Decode("more")))
    assert not is_finished(reduced, settings={"model.width": 64})
    assert not is_finished(dataclasses.replace(reduced, people=64))
    # Evaluated for one study, then for another: it is finished for both. Trained anew, it is not.
    for other in (choices, partner):
        mark_finished(other, other.arm(arm.name), 2, workdir=workdir, code="ours")
    assert is_finished(choices)
    assert is_finished(partner)
    longer = dataclasses.replace(partner, settings={"training.ground_truth_tokens": 7})
    mark_finished(longer, longer.arm(arm.name), 2, workdir=workdir, code="ours")
    assert is_finished(longer)
    assert not is_finished(choices)
    assert not is_finished(longer, decodes=choices.arm(arm.name).decodes)


@pytest.fixture
def old_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The study that commit 60e64f2 finished, in a copy of its folder, where it was called "study"."""
    shutil.copytree(BEFORE, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    moved = {"evals.closed_world": "evidence.closed_world.decodes", "evals.study.plan": "evidence.study.plan"}
    text = Path("study.py").read_text()
    for then, now in moved.items():
        text = text.replace(f"lacy_jax.{then} import", f"lacy_jax.{now} import")
    Path("study.py").write_text(text)
    return load_study("study.py")


def test_a_study_finished_by_older_code_stays_finished(old_study: Study, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in Path("study").rglob("*") if path.is_file()}
    done = run(f"--study={tmp_path}/copy/study.py", "--workdir=study", cwd=tmp_path / "copy")
    assert done.returncode == 0, done.stderr
    page = Path("study/study.html").read_text()
    assert {path: path.read_bytes() for path in Path("study").rglob("*") if path.is_file()} == before | {
        Path("study/study.html"): page.encode()
    }
    known = json.loads(Path("study.json").read_text())
    for name, *cells in (*known["main_rows"], *known["knowledge_rows"]):
        assert f'<th scope="row">{name}</th>' + "".join(f"<td>{each}</td>" for each in cells) in page, name
    for (arm, seed), evaluation in read_results(old_study, workdir="study").runs.items():
        for (decode, budget), people in evaluation.judged.items():
            for name, value in known["scores"][f"{arm}/seed{seed}/{decode}-{budget:g}"].items():
                assert estimate(name, people) == pytest.approx(math.nan if value is None else value, nan_ok=True), name
    assert "of 2 runs are finished" not in page
    assert "Runs of different code" not in page  # all of one, though nobody knows which
    # Another way to evaluate it, or to train it, is not there yet.
    ntp = old_study.arm("ntp")
    for changed in (
        dataclasses.replace(ntp, decodes=(*ntp.decodes, Decode("more"))),
        dataclasses.replace(ntp, decodes=(dataclasses.replace(ntp.decodes[0], budgets=(0.2200001,)),)),
        dataclasses.replace(ntp, settings={"model.width": 64}),
    ):
        assert finished(old_study, changed, 0, workdir="study") is None


def test_runs_of_different_code_side_by_side_are_said_to_be(old_study: Study) -> None:
    assert mixed_code(read_results(old_study, workdir="study")) == ""
    mark_finished(old_study, old_study.arm("ntp"), 0, workdir="study", code="lacy_jax 9, source abc")
    results = read_results(old_study, workdir="study")
    assert {*results.runs} == {("rho", 0), ("ntp", 0)}  # what was noted before is kept
    assert mixed_code(results) == (
        f"Runs of different code stand side by side below: 2 runs by {UNKNOWN_CODE}; 1 run by lacy_jax 9, source abc. "
        "Part of a difference may be the code's."
    )
    page = Path(write_study_page(old_study, workdir="study", command="again")).read_text()
    assert "1 run by lacy_jax 9, source abc" in page
    # Trained anew by other settings, it is of the new code alone.
    longer = dataclasses.replace(old_study, people=7)
    mark_finished(longer, longer.arm("ntp"), 0, workdir="study", code="b")
    found = finished(longer, longer.arm("ntp"), 0, workdir="study")
    assert found is not None
    assert found.code == {"b"}


def test_a_page_needs_no_spacy(old_study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepared data may be given (config.data.packed), and spaCy is only for preparing it."""
    version = importlib.metadata.version

    def without_spacy(name: str) -> str:
        if name == "spacy":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_spacy)
    page = Path(write_study_page(old_study, workdir="study", command="again")).read_text()
    assert "sentencepiece" in page
    assert "spacy" not in page


def test_code_is_known_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = code_identity()
    shutil.copytree(Path(lacy_jax.__file__).parent, tmp_path / "lacy_jax", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(lacy_jax, "__file__", str(tmp_path / "lacy_jax/__init__.py"))
    assert code_identity() == here
    (tmp_path / "lacy_jax/__pycache__").mkdir()
    (tmp_path / "lacy_jax/__pycache__/x.pyc").write_bytes(b"x")
    assert code_identity() == here
    with (tmp_path / "lacy_jax/errors.py").open("a") as file:
        file.write("\n")
    assert code_identity() != here
    assert code_identity().startswith("lacy_jax ")


def test_the_shipped_study() -> None:
    reduced, full = load_study("configs/study_biographies.py"), load_study("configs/study_biographies.py:full")
    assert len(list(reduced.jobs())) == 30
    assert {arm.name for arm in reduced.arms} < {arm.name for arm in full.arms}
    assert {*reduced.contrasts} < {*full.contrasts}
    variants = ("methods", "choices", "partner", "control")
    others = {name: load_study(f"configs/study_biographies.py:{name}") for name in variants}
    assert {name: len(list(other.jobs())) for name, other in others.items()} == {
        "methods": 30,
        "choices": 35,
        "partner": 16,
        "control": 15,
    }
    assert [reduced.page, *(other.page for other in others.values())] == [
        *("study.html", "study_methods.html", "study_choices.html", "study_partner.html", "study_control.html")
    ]
    # Those of one name share a folder: an arm of one name must be one run.
    trained: dict[tuple[str, str], list[str]] = {}
    for study in (reduced, *others.values(), full):
        for arm in study.arms:
            command = train_command(study, arm, 0, workdir=study.name)
            assert trained.setdefault((study.name, arm.name), command) == command
    with pytest.raises(ConfigError, match="reduced, methods, choices, partner, control, full"):
        load_study("configs/study_biographies.py:huge")
    with pytest.raises(ConfigError, match=r"--study=configs/none.py: there is no file configs/none.py"):
        load_study("configs/none.py")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "give either"),
        (("--suite=closed_world",), "no checkpoint"),
        (("--suite=closed_world", "--checkpoint=none"), "no checkpoint at"),
        (("--study=none.py",), "--study=none.py: there is no file none.py"),
        (("--study=README.md",), "README.md is not a Python file"),
        # Flags that would change nothing.
        (("--study=none.py", "--people=3"), "--people does not go with --study, which takes --workdir"),
        (
            ("--suite=closed_world", "--budgets=0.1"),
            "--budgets does not go with --suite=closed_world, which takes --ch",
        ),
        (
            ("--suite=real_text", "--temperature=0"),
            "--temperature does not go with --suite=real_text, which takes --ch",
        ),
    ],
)
def test_wrong_input_is_one_line(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(door.DOOR, words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1
