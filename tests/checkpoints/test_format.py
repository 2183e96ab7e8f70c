"""Checkpoints that this lacy_jax cannot read: every reader says so in one line, and names what it does not know."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
from etils import epath

from lacy_jax.checkpoints.chat_template import MOST_CHARACTERS, template_of_description
from lacy_jax.checkpoints.format import META_FILE, read_config, read_meta
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.config import Config, ObjectiveConfig
from lacy_jax.console import Reporter
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import CheckpointError
from lacy_jax.training.ahead import plan_step
from lacy_jax.training.loop import train

Edit = Callable[[dict[str, Any]], Any]


@pytest.fixture
def edited(small_run: Path, tmp_path: Path) -> Callable[[Edit], Path]:
    """A function that copies the run, lets its newest description be edited, and gives the copy's workdir."""

    def copy(edit: Edit) -> Path:
        workdir = tmp_path / "run"
        shutil.copytree(small_run, workdir)
        path = workdir / "checkpoints" / "6" / META_FILE
        meta = json.loads(path.read_text())
        del meta["sha256"]  # or the edit would be refused
        edit(meta)
        path.write_text(json.dumps(meta))
        return workdir

    return copy


def newer(meta: dict[str, Any]) -> None:
    meta["config"]["objective"]["temperature"] = 2.0


def test_every_reader_names_a_setting_that_is_unknown_here(
    edited: Callable[[Edit], Path], small_config: Config, small_data: Prepared, tmp_path: Path
) -> None:
    workdir = edited(newer)
    objective = ObjectiveConfig(rule="excess_loss", reference=str(workdir))
    rho = dataclasses.replace(small_config, objective=objective)

    def resume() -> None:
        train(small_config, prepared=small_data, workdir=str(workdir), reporter=Reporter(quiet=True))

    def learn_from_it() -> None:
        train(rho, prepared=small_data, workdir=str(tmp_path / "rho"), reporter=Reporter(quiet=True))

    readers = [lambda: load_model(str(workdir)), resume, learn_from_it, lambda: plan_step(rho, jax.devices())]
    for read in readers:
        with pytest.raises(CheckpointError) as error:
            read()
        assert str(error.value) == (
            f"{workdir}/checkpoints/6 was written by a newer lacy_jax: "
            "setting config.objective.temperature is unknown here; upgrade it"
        )


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda meta: meta["config"].update(retrieval={"a": 1}, speed=1),
            "newer lacy_jax: settings config.retrieval, config.speed are unknown here; upgrade it",
        ),
        (
            lambda meta: meta["config"]["objective"].update(rule="magic", rate=2),
            r"this one refuses: config.objective.rule: got 'magic'.*; config.objective.rate: got 2",
        ),
        (lambda meta: meta.update(format=99), "has checkpoint format 99, this lacy_jax reads up to 1: upgrade it"),
        (lambda meta: meta.pop("config"), "is not the description of a lacy_jax checkpoint: 'config'"),
        (lambda meta: meta.update(tokenizer="AAAA"), "its tokenizer cannot be read"),
        (lambda meta: meta.update(checksums=[]), "an entry of it is of another kind"),
        (lambda meta: meta.update(checksums={"params": 1}), "an entry of it is of another kind"),
        (lambda meta: meta.update(step="six"), "an entry of it is of another kind"),
        (lambda meta: meta.update(data=[1]), "an entry of it is of another kind"),
        (lambda meta: meta.update(checksums={"params": None}), "an entry of it is of another kind"),
        (lambda meta: meta.update(factual_probe=[1]), "an entry of it is of another kind"),
        (lambda meta: meta.update(factual_probe={"weights": [1.0], "bias": 0.0}), "its probe is not of the width 32"),
        (lambda meta: meta.update(saving_probe={"weights": 1, "bias": 0.0}), "an entry of it is of another kind"),
        (lambda meta: meta.update(saving_probe={"weights": [1.0], "bias": 0.0}), "its probe is not of the width 32"),
        (lambda meta: meta.update(saving_probe={"weights": [None], "bias": 0.0}), "a score of it is no number"),
        (lambda meta: meta.update(call_scores=["high"]), "a score of it is no number"),
        (lambda meta: meta.update(format=[]), "is not the description of a lacy_jax checkpoint"),
        (lambda meta: meta["config"]["model"].update(layers=10**9), r"arrays would have [\d,]+ bytes"),
        (lambda meta: meta["config"]["model"].update(layers=10**30), r"arrays would have [\d,]+ bytes"),
        (lambda meta: meta["config"]["model"].update(mlp_width=10**12), r"arrays would have [\d,]+ bytes"),
        (lambda meta: meta["config"]["model"].update(width=4 * 10**30), "no model has the sizes in its settings"),
        (lambda meta: meta["config"]["model"].update(context=10**12), "this one refuses: config.model.context"),
    ],
    ids=[
        "newer",
        "refused",
        "format",
        "missing",
        "tokenizer",
        "checksums",
        "item",
        "step",
        "data",
        "checksums",
        "probe",
        "probe_width",
        "saving_weights",
        "saving_width",
        "saving_number",
        "scores",
        "list",
        "layers",
        "more_layers",
        "mlp_width",
        "width",
        "context",
    ],
)
def test_what_cannot_be_read_is_one_line(edited: Callable[[Edit], Path], edit: Edit, words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as error:
        load_model(str(edited(edit) / "checkpoints" / "6"))
    assert "\n" not in str(error.value)


def test_a_setting_that_an_older_one_did_not_have_is_at_its_default(edited: Callable[[Edit], Path]) -> None:
    def older(meta: dict[str, Any]) -> None:
        del meta["config"]["mesh"], meta["config"]["objective"]["vocab_chunks"]

    folder = epath.Path(edited(older)) / "checkpoints" / "6"
    config = read_config(read_meta(folder), folder=folder)
    assert (config.mesh, config.objective.vocab_chunks) == (Config().mesh, ObjectiveConfig().vocab_chunks)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def change(file: Path, old: bytes, new: bytes) -> None:
    before = file.read_bytes()
    assert before.count(old) == 1
    file.write_bytes(before.replace(old, new))


BROKEN: dict[str, Callable[[Path], Any]] = {
    "empty": lambda step: [shutil.rmtree(step), step.mkdir()],
    "no meta": lambda step: shutil.rmtree(step / "meta"),
    "empty meta": lambda step: (step / META_FILE).write_text(""),
    "cut meta": lambda step: cut(step / META_FILE),
    "changed meta": lambda step: change(step / META_FILE, b'"step": 6', b'"step": 7'),
    "no params": lambda step: shutil.rmtree(step / "params"),
    "half of params": lambda step: (step / "params" / "manifest.ocdbt").unlink(),
}


@pytest.mark.parametrize("kind", [*BROKEN, "no train"])
def test_the_newest_whole_step_is_used(
    small_run: Path,
    small_config: Config,
    small_data: Prepared,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(small_run, workdir)
    newest = workdir / "checkpoints" / "6"
    before = load_model(str(workdir))
    {**BROKEN, "no train": lambda step: shutil.rmtree(step / "train")}[kind](newest)
    if kind != "no train":  # to use the model it is whole
        loaded = load_model(str(workdir))
        assert loaded.step == 3
        lines = [record.getMessage() for record in caplog.records if "not whole" in record.getMessage()]
        assert len(lines) == 1
        assert str(newest) in lines[0]
        assert "step 3 is used" in lines[0]
    if kind in ("empty", "cut meta", "no train"):
        result = train(small_config, prepared=small_data, workdir=str(workdir), reporter=Reporter(quiet=True))
        assert result.step == 6
        assert (workdir / "checkpoints" / "6.incomplete").is_dir()
        again = load_model(str(workdir))
        assert again.step == 6
        for left, right in zip(jax.tree.leaves(again.params), jax.tree.leaves(before.params), strict=True):
            assert (left == right).all()


def test_no_whole_step_is_one_line(small_run: Path, small_config: Config, small_data: Prepared, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(small_run, workdir)
    for step in ("3", "6"):
        BROKEN["cut meta"](workdir / "checkpoints" / step)
    with pytest.raises(CheckpointError, match=r"no finished checkpoint \(6: meta/metadata is cut off\)"):
        load_model(str(workdir))
    with pytest.raises(CheckpointError, match=r"6 is not whole .* and no older step is"):
        train(small_config, prepared=small_data, workdir=str(workdir), reporter=Reporter(quiet=True))


@pytest.mark.parametrize("entry", [[], "template", 7, {"source": "x"}, {"source": "x", "names": 7}])
def test_a_chat_template_of_another_kind_is_one_line(entry: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^here: the chat template in its description is of another kind$"):
        template_of_description(entry, where="here")


def test_what_is_no_chat_template_is_none() -> None:
    assert template_of_description(None, where="here") is None
    assert template_of_description({"source": "", "names": {}}, where="here") is None
    with pytest.raises(CheckpointError, match="at most"):
        template_of_description({"source": "x" * (MOST_CHARACTERS + 1), "names": {}}, where="here")
