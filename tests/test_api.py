"""lacy_jax from Python: the lines of docs/python.md as they stand, what `import lacy_jax` offers, and what it costs."""

import importlib
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import lacy_jax
from lacy_jax.config import Config

ROOT = Path(__file__).parent.parent
NAMES = {"Cascade", "Completion", "Config", "LacyError", "PartnerError", "Request", "Sampling"}
NAMES |= {"export", "load", "make_partner", "prepare", "read_config", "train"}
# Stands for configs/slm_tiny.py in the folder where the lines are run.
TINY = """
from lacy_jax.config import base_config

from lacy_jax.presets import apply_variant


def get_config(variant=""):
    config = base_config()
    config.tokenizer.vocab_size = 320
    config.corpus.validation_share = 0.2
    config.annotate.update(annotator="spans", spans_file="marks.jsonl")
    config.model.update(layers=1, width=16, heads=2, context=16, compute_dtype="float32", layer_loop="unroll")
    config.data.batch_size = 8
    config.training.update(steps=3, evaluate_batches=1)
    return apply_variant(config, variant)
"""
TEXTS = [f"Person {i} was born in {1700 + 7 * i} and lived in Town {i % 9}." for i in range(40)]


def lines_of_the_page() -> str:
    """The longer of the two blocks of docs/python.md."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    return max(blocks, key=len)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/slm_tiny.py").write_text(TINY)
    marks = ({"id": f"texts.jsonl:{i + 1}", "spans": [[0, 6, "PROPN"]]} for i in range(len(TEXTS)))
    (tmp_path / "marks.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in marks))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_lines_of_the_page_run_as_they_stand(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Outside the main thread, as some notebooks run them: no signal can be handled there."""
    names: dict[str, Any] = {"texts": TEXTS}
    failed: list[BaseException] = []

    def run() -> None:
        try:
            exec(compile(lines_of_the_page(), "docs/python.md", "exec"), names)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failed, failed
    assert names["answer"].text
    assert f"{names['answer'].text} {names['answer'].counts.share}\n" == capsys.readouterr().out
    assert isinstance(names["answer"], lacy_jax.Completion)
    assert names["slm"].step == 3
    assert (place / "runs/mine_export/params").is_dir()
    again = lacy_jax.train(names["config"], say="nothing")
    assert (again.step, again.path) == (3, names["slm"].path)
    assert capsys.readouterr().err == ""


def test_at_most_ten_lines_lead_from_text_to_a_cascade() -> None:
    lines = [line for line in lines_of_the_page().splitlines() if line.strip()]
    assert next(number for number, line in enumerate(lines) if ".generate(" in line) <= 10


def test_problems_are_raised_all_at_once_and_nothing_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    config = Config(corpus=lacy_jax.config.CorpusConfig(name="jsonl"), tokenizer={"path": "none.model"})  # type: ignore[arg-type]
    for call in (lacy_jax.prepare, lacy_jax.train):
        with pytest.raises(lacy_jax.LacyError) as error:
            call(config, say="nothing")
        assert [problem.partition(":")[0] for problem in error.value.problems] == [
            "config.corpus.files",
            "config.tokenizer.path",
        ]
    assert capfd.readouterr() == ("", "")


def test_training_looks_at_all_that_it_needs_before_it_prepares(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "texts.jsonl").write_text("".join(f"{json.dumps({'text': text})}\n" for text in TEXTS))
    (place / "none.jsonl").write_text("")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    changes = {
        "corpus.files": "texts.jsonl",
        "training.questions": "none.jsonl",
        "training.trackers": "wandb,comet",
        "objective.rule": "excess_loss",
        "objective.reference": "runs/none",
    }
    config = lacy_jax.read_config("configs/slm_tiny.py:corpus=jsonl", changes)
    with pytest.raises(lacy_jax.LacyError) as error:
        lacy_jax.train(config)
    found = sorted(problem.partition(":")[0] for problem in error.value.problems)
    assert found == ["config.objective.reference", "config.training.questions", *["config.training.trackers"] * 2]
    assert not (place / "runs").exists()
    assert not (place / config.data.directory).exists()
    assert capfd.readouterr() == ("", "")


def test_changes_that_are_none_are_refused_by_name() -> None:
    for name, words in (
        ("training.stepz", "did you mean steps"),
        ("name.x", "not a section"),
        ("modle.width", "modle"),
    ):
        with pytest.raises(lacy_jax.LacyError, match=words):
            lacy_jax.read_config(str(ROOT / "configs/slm_tiny.py"), {name: 1})


def test_names_are_offered_and_nothing_is_imported_before_they_are_used() -> None:
    code = "import lacy_jax, sys; print(*dir(lacy_jax)); print('jax' in sys.modules, 'pydantic' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    offered, heavy = out.splitlines()
    assert set(offered.split()) >= NAMES
    assert set(lacy_jax.__all__) == NAMES
    assert heavy == "False False"
    assert all(callable(getattr(lacy_jax, name)) for name in NAMES)
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = lacy_jax.absent


def test_programs_of_the_same_name_do_not_hide_functions() -> None:
    for name in ("prepare", "export"):
        door = importlib.import_module(f"lacy_jax.{name}")
        assert door.DOOR.name == name
        assert getattr(lacy_jax, name).__module__ in ("lacy_jax.api", "lacy_jax.checkpoints.export")
    code = "import lacy_jax.prepare, lacy_jax.export, lacy_jax; from lacy_jax import prepare; print(prepare.__module__)"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out == "lacy_jax.api\n"
