"""Every setting has a meaning; docs/settings.md is up to date; what --print_config prints can be given again."""

import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest

from lacy_jax import settings_page
from lacy_jax.checks import parse
from lacy_jax.config import Config
from lacy_jax.config_dict import config_to_dict
from lacy_jax.data.annotate import ANNOTATORS
from lacy_jax.data.corpus import CORPORA
from lacy_jax.doors import enter

ROOT = Path(__file__).parent.parent


def flattened(tree: dict, prefix: str = "") -> dict:
    flat: dict = {}
    for name, value in tree.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def test_the_page_is_up_to_date() -> None:
    found = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    same = found == settings_page.as_markdown()  # a diff of two long texts takes pytest minutes
    assert same, "docs/settings.md is stale: python -m lacy_jax.settings_page > docs/settings.md"


def test_every_setting_is_listed_once_with_a_meaning() -> None:
    listed = [each for section in settings_page.sections(Config()) for each in section.settings]
    expected = flattened(dataclasses.asdict(Config()))
    assert {each.name: each.value for each in listed} == expected
    assert len(listed) == len(expected)
    for each in listed:
        assert re.fullmatch(r".{3,}\.", each.meaning), each
        assert "|" not in each.meaning, each


def test_the_meanings_name_all_corpora_and_annotators() -> None:
    meanings = {each.name: each.meaning for section in settings_page.sections(Config()) for each in section.settings}
    for setting, registry in (("corpus.name", CORPORA), ("annotate.annotator", ANNOTATORS)):
        assert all(re.search(rf"\b{name}\b", meanings[setting]) for name in registry.built_in)


@pytest.mark.parametrize("door", ["main", "prepare"])
def test_the_flags_printed_give_the_same_config(
    door: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    run = importlib.import_module(f"lacy_jax.{door}").DOOR
    changed = ["--config.corpus.files=a b/*.jsonl", "--config.model.bias=False", "--config.optimizer.epsilon=1e-9"]
    assert enter(run, ["--config=configs/slm_tiny.py:method=joint", *changed, "--print_config"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# slm_tiny, method joint\n")
    flags = shlex.split(printed, comments=True)
    assert "--config.corpus.files=a b/*.jsonl" in flags
    # Another file, whose settings are all overridden.
    assert enter(run, ["--config=configs/slm_1b.py", *flags, "--print_config"]) == 0
    assert capsys.readouterr().out == printed


def test_the_word_of_a_flag_is_the_setting_itself() -> None:
    config = parse(config_to_dict(Config()))
    flags = dict(word.partition("=")[::2] for word in shlex.split(settings_page.as_flags(config), comments=True))
    expected = flattened(dataclasses.asdict(config))
    assert flags == {f"--config.{name}": str(value) for name, value in expected.items()}
