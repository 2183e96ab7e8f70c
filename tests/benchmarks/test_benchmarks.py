"""Benchmarks run, at a size that says nothing about speed, and the commands that they give are ones that main takes."""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    first_save,
    groups,
    methods,
    objective,
    optimizers,
    outward,
    scores,
    step,
    training_step,
    world_marks,
)
from lacy_jax.config import Config
from lacy_jax.data.prepared import Prepared
from lacy_jax.presets import METHODS

TINY = ("layers=1", "width=32", "heads=2", "context=16")


@pytest.mark.slow
def test_the_training_step_has_a_line_for_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    settings = [word for setting in TINY for word in ("--set", f"model.{setting}")]
    training_step.main(["--methods", "rho", "--rounds", "2", "--repeat", "1", *settings])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("128 tokens")
    assert [line.split()[0] for line in lines[3:]] == ["ntp", "rho", "documents", "unchecked", "optax", "the"]


@pytest.mark.slow
def test_the_step_has_a_floor_and_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    settings = [word for setting in TINY for word in ("--set", f"model.{setting}")]
    step.main(["--method", "lacy", "--peer", "none", "--rounds", "2", "--repeat", "1", *settings])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("batch 8 x 16")
    assert lines[1].startswith("floor ")
    assert [line.split()[0] for line in lines[3:]] == ["lacy_jax"]


@pytest.mark.slow
def test_optimizers_have_a_line_each(
    small_config: Config, small_data: Prepared, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def small(changes: dict[str, Any], **_: object) -> Config:
        return replace(small_config, optimizer=replace(small_config.optimizer, **changes))

    monkeypatch.setattr(optimizers, "prepare", lambda _config: small_data)
    monkeypatch.setattr(optimizers, "arm_config", small)
    monkeypatch.setattr(optimizers, "ARMS", {name: optimizers.ARMS[name] for name in [optimizers.PEER, "muon, cosine"]})
    optimizers.main(["--steps", "2", "--seeds", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:-1]] == list(optimizers.ARMS)
    assert all(math.isfinite(float(line.split(" | ")[1])) for line in lines[2:-1])


@pytest.mark.parity
def test_the_peer_trains_the_same_architecture(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")  # a minute, and nothing here is about speed
    settings = [word for setting in TINY for word in ("--set", f"model.{setting}")]
    step.main(["--rounds", "2", "--repeat", "1", *settings])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:5]] == ["lacy_jax", "PyTorch"]
    assert "lacy_jax / PyTorch" in lines[5]


def test_both_ways_of_a_save_are_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["first_save", "--rounds=2"])
    monkeypatch.setattr(first_save, "in_a_process", lambda _, way, **__: [1.0 + len(way), 0.5, 0.5])
    first_save.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| lacy_jax | 9.00 (9.00 to 9.00) | 0.50 (0.50 to 0.50) |"
    assert lines[-1] == "first save, lacy_jax / Orbax alone: 0.750 (0.750 to 0.750)"


@pytest.mark.slow
@pytest.mark.parametrize("way", first_save.WAYS)
def test_a_save_is_timed(way: first_save.Way) -> None:
    seconds = first_save.held("configs/slm_tiny.py", way, saves=2)
    assert len(seconds) == 2
    assert min(seconds) > 0


def test_the_objective_has_a_line_for_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--batch", "2", "--time", "8", "--width", "16", "--vocab", "256", "--rounds", "2"]
    objective.main([*sizes, "--methods", "lacy,joint"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[4:]] == ["ce", "lacy", "joint", "optax"]


@pytest.mark.parametrize("method", METHODS)
def test_every_methods_command_is_one_that_main_takes(tmp_path: Path, method: str) -> None:
    options = argparse.Namespace(workdir=str(tmp_path), ground_truth_tokens=1000, marks=None)
    if method == "judge":
        example = {"text": "T\n\nBorn in Ulm.", "annotated_text": "Born in [dblookup('T', 'P') -> Ulm] Ulm."}
        (tmp_path / "marked.json").write_text(json.dumps({"examples": [example]}))
        options.marks = tmp_path / "marked.json"
    words = methods.command(method, options)
    assert words[3] == f"--config=configs/slm_tiny.py:method={method}"
    changes = [word.removeprefix("--config.") for word in words if word.startswith("--config.")]
    config = training_step.method_config("configs/slm_tiny.py", method, changes)
    assert config.training.ground_truth_tokens == 1000
    assert config.annotate.annotator == ("spans" if method == "judge" else "spacy")


def test_the_table_leaves_out_what_a_method_does_not_have() -> None:
    record = {"step": 7, "share/taken": 0.081, "train:tokens": 1_500_000, "nll/all": 5.0}
    line = methods.table({"lacy": record}).splitlines()[2]
    assert line.startswith("| `lacy` | 7 | 1.50 | - | 8.1 | 5.000 | - |")


def test_spacys_marks_have_a_line_for_every_rule(capsys: pytest.CaptureFixture[str]) -> None:
    world = ("corpus.biographies.people=20", "corpus.biographies.documents=60", "tokenizer.vocab_size=500")
    settings = [word for setting in world for word in ("--set", setting)]
    world_marks.main(["--biographies", "5", "--workers", "1", *settings])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("5 biographies, ")
    # Looser rules mark more and miss less: what is left of a mark by a stricter rule is among the looser one's.
    shares = [float(line[34:42].strip().rstrip("%")) for line in lines[2:]]
    recalls = [float(line[53:61]) for line in lines[2:]]
    assert shares == sorted(shares, reverse=True)
    assert recalls == sorted(recalls, reverse=True)


@pytest.mark.slow
def test_every_score_of_a_checkpoint_has_a_line(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["scores", str(small_run), "--batches", "1"])
    scores.main()
    lines = capsys.readouterr().out.splitlines()
    plain = ["uncertainty", "entropy", "call_score", "call_logit"]
    names = [*(each for name in plain for each in (name, f"{name}, gated")), "factual"]
    assert [line.split(" | ")[1] for line in lines[2:]] == names
    for line in lines[2:]:
        assert all(0.0 <= float(cell) <= 1.0 for cell in line.strip(" |").split(" | ")[2:]), line


@pytest.mark.slow
def test_every_number_of_rows_has_a_line(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["groups", "--checkpoint", str(small_run), "--rows", "2,5", "--rounds", "2"])
    groups.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["rows", "2", "5"]
    assert all(float(line[2]) > 0 and line[-1] == "1" for line in lines[1:])


def test_a_step_has_a_line_by_how_the_matrices_lie(
    small_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["outward", "--checkpoint", str(small_run), "--rows", "2", "--rounds", "2"])
    outward.main()
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split()[0] == "rows"
    assert line.split()[0] == "2"
    assert all(float(seconds) > 0 for seconds in line.split()[1:4])
