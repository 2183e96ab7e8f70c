"""Paths as people write them: ~ is the home folder, in every flag, setting and partner."""

import dataclasses
import importlib
import os
import re
from pathlib import Path

import pytest

import lacy_jax
from lacy_jax import flags
from lacy_jax.cascade.partners import read_spec
from lacy_jax.checkpoints.format import check_savable
from lacy_jax.config import Config
from lacy_jax.config_dict import config_from_dict, config_to_dict
from lacy_jax.data.corpora import jsonl
from lacy_jax.errors import LacyError
from lacy_jax.start import training_problems

FLAGS = {
    "main": ["workdir"],
    "generate": ["checkpoint", "directory", "prompts_file"],
    "serve": ["checkpoint", "directory", "api_key_file"],
    "export": ["checkpoint", "out"],
    "evaluate": ["checkpoint", "out", "workdir"],
    "factscore": ["checkpoint", "directory", "generations", "entities", "knowledge", "demonstrations", "out"],
    "acceptability": ["checkpoint", "out"],
}
SETTINGS = {
    "corpus": {"files": "~/a/*.jsonl, ~/b.jsonl", "tfds_dir": "~/tfds"},
    "annotate": {"spans_file": "~/spans.jsonl", "spacy_model": "~/model"},
    "tokenizer": {"path": "~/tokenizer.model"},
    "data": {"directory": "~/d", "packed": "~/packed"},
    "objective": {"reference": "~/reference"},
}


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_settings(home: Path) -> None:
    config = config_to_dict(config_from_dict(SETTINGS))
    for section, own in SETTINGS.items():
        for name, given in own.items():
            assert config[section][name] == given.replace("~", str(home)), name
    assert Config(data=dataclasses.replace(Config().data, directory="~/x")).data.directory == f"{home}/x"
    for kept in ("gs://b/~x", "a/~", "./~/x", "x~, y"):
        assert config_from_dict({"corpus": {"files": kept}}).corpus.files == kept


@pytest.mark.parametrize(("door", "name"), [(door, name) for door, names in FLAGS.items() for name in names])
def test_flags(home: Path, door: str, name: str) -> None:
    flag = next(flag for flag in importlib.import_module(f"lacy_jax.{door}").DOOR.flags if flag.name == name)
    assert getattr(flags.parse([flag], [f"--{name}=~/x"]), name) == f"{home}/x"


def test_config_files_and_checkpoints(home: Path) -> None:
    (home / "c.py").write_text("from lacy_jax.config import base_config\ndef get_config():\n    return base_config()\n")
    assert lacy_jax.read_config("~/c.py", {"training.steps": "3"}).training.steps == 3
    (home / "x").write_text("")
    with pytest.raises(LacyError, match="it is a file"):
        lacy_jax.load("~/x")


def test_partners(home: Path) -> None:
    assert read_spec("documents:~/a.jsonl,~/b.jsonl") == ("documents", f"{home}/a.jsonl,{home}/b.jsonl")
    assert read_spec("database:~/facts.csv") == ("database", f"{home}/facts.csv")
    assert read_spec("checkpoint:~/run") == ("checkpoint", f"{home}/run")
    (home / "run").mkdir()
    assert read_spec("~/run") == ("checkpoint", f"{home}/run")
    assert read_spec("http://host/~me") == ("http", "//host/~me")


def test_a_corpus_in_the_home_folder_is_read(home: Path) -> None:
    (home / "a.jsonl").write_text('{"id": "a", "text": "x"}\n')
    corpus = config_from_dict({"corpus": {"name": "jsonl", "files": "~/a.jsonl"}}).corpus
    assert [document.id for _, document in jsonl.documents(corpus)] == ["a"]


@pytest.mark.parametrize("folder", ["r [v2]", "a\\b", "[1]/r"])
def test_folders_from_which_no_checkpoint_can_be_read_are_refused(home: Path, folder: str) -> None:
    named = re.escape(f"workdir={folder}: a checkpoint cannot be read again from a path with [...] or \\")
    with pytest.raises(LacyError, match=re.escape(f"--out={folder}: a checkpoint cannot")):
        lacy_jax.export("nowhere", out=folder)
    with pytest.raises(LacyError, match=named):
        lacy_jax.train(Config(), workdir=folder)
    assert any(re.match(f"--{named}", line) for line in training_problems(Config(), workdir=folder))
    (home / folder).mkdir(parents=True)
    os.chdir(home / folder)
    assert any("a checkpoint cannot be read again" in line for line in training_problems(Config(), workdir="run"))


@pytest.mark.parametrize("folder", ["r", "a b", "r]", "[r", "[/]", "gs://bucket/r", "a*?"])
def test_other_folders_are_not(folder: str) -> None:
    check_savable(folder, name="--workdir")
