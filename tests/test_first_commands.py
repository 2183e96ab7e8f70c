"""The first command of each page runs after `make demo`: here after a tiny run, with tiny sizes added. So does every
other command that trains.
"""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from configs import slm_tiny
from lacy_jax import doors, flags
from lacy_jax.checks import parse
from lacy_jax.config import Config
from lacy_jax.config_dict import config_to_dict
from lacy_jax.data.corpora import vital_articles
from tests.docs_commands import PAGES, ROOT, Command, shell_commands
from tests.xla import xla_flags

pytestmark = pytest.mark.slow

FEW = ("--max_new_tokens=8",)
# The page -> flags that make its first command (`make demo` aside) one of seconds. SMALL: the settings of the tiny run.
SMALL = "SMALL"
SAMPLES = ("--config.cascade.samples=1", "--config.cascade.max_new_tokens=8")
RUN = {
    "README.md": FEW,
    "annotation.md": (SMALL,),
    "cascade.md": FEW,
    "data_format.md": (SMALL,),
    "defer.md": (SMALL, *SAMPLES),
    "distributed.md": (SMALL, *SAMPLES),
    "exporting.md": (),
    "factscore.md": ("--limit=1",),
    "languages.md": (SMALL,),
    "methods.md": ("--batches=1",),
    "objective.md": (SMALL, *SAMPLES),
    "partners.md": FEW,
    "real_text.md": ("--people=2", "--budgets=0.22"),
    "settings.md": (),
}
ELSEWHERE = {
    "adapting.md": "tests/test_adapt.py",
    "biographies.md": "tests/test_package.py, as lacy-train",
    "tagger.md": "tests/tagging",
    "buckets.md": "tests/test_buckets.py",
    "faults.md": "tests/benchmarks",
    "launch.md": "tests/launch",
    "mixtures.md": "tests/training/test_mixtures.py",
    "measuring.md": "tests/evidence/test_harness.py",
    "performance.md": "tests/benchmarks",
    "preparing.md": "tests/data/test_beam.py",
    "serving.md": "test_the_server_starts",
    "tracking.md": "tests/training/tracking",
    "tpu.md": "tests/training/test_ahead.py, where libtpu is",
    "training.md": "tests/training/test_replay.py",
}


def first_of(page: Path) -> Command | None:
    return next((command for command in shell_commands(page) if command.words[0] != "make"), None)


FIRST = {page.name: command for page in PAGES if (command := first_of(page))}


def test_every_first_command_is_run() -> None:
    assert FIRST.keys() == RUN.keys() | ELSEWHERE.keys()


def flattened(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def small_flags(config: Config, *, changed: Config | None = None) -> list[str]:
    """What makes the demo's config file, or the settings `changed`, that of the tiny run."""
    before = dict(flattened(config_to_dict(changed or parse(slm_tiny.get_config()))))
    wanted = dict(flattened(config_to_dict(config)))
    return [f"--config.{name}={value}" for name, value in wanted.items() if value != before[name]]


@pytest.fixture(scope="module")
def after_demo(small_config: Config, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the demo leaves its checkout."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(small_run, folder / "runs" / "slm_tiny")
    (folder / "runs" / "data").symlink_to(small_config.data.directory)
    for name in ("configs", "launch", "docs"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def run_door(command: Command, extra: list[str]) -> int:
    return doors.enter(importlib.import_module(command.module).DOOR, [*command.arguments, *extra])


@pytest.mark.parametrize("page", RUN)
def test_the_first_command_runs(
    page: str, after_demo: Path, small_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(after_demo)
    everybody = dict.fromkeys(vital_articles.topics(), "People")  # the tiny corpus has an article about nobody
    monkeypatch.setattr(vital_articles, "topics", lambda: everybody)
    command = FIRST[page]
    extra = [word for each in RUN[page] for word in (small_flags(small_config) if each == SMALL else [each])]
    if command.module.startswith("benchmarks."):
        monkeypatch.setattr(sys, "argv", [command.module, *command.arguments, *extra])
        importlib.import_module(command.module).main()
    else:
        assert run_door(command, extra) == 0


# What trains, but for commands that are not whole (`...`, HASH) and the one on texts of one's own.
TRAINING = {
    str(command): command
    for page in PAGES
    for command in shell_commands(page)
    if command.module == "lacy_jax.main" and command not in FIRST.values()
    if not re.search(r"\.\.\.|-HASH/|corpus\.files=", str(command))
}


@pytest.mark.parametrize("name", TRAINING)
def test_every_other_command_that_trains_runs(
    name: str, after_demo: Path, small_config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the sizes of the tiny run, on its articles; the method, the mesh and all else are the command's own.

    A model that marks the text is the tiny run, in place of one that takes minutes for it.
    """
    monkeypatch.chdir(after_demo)
    command = TRAINING[name]
    asked = flags.parse(importlib.import_module(command.module).DOOR.flags, command.arguments)
    by_model = (asked.config.annotate.partner or "").startswith("checkpoint:")
    own = ("name", "method", "objective.", "mesh.", "cascade.", *(("annotate.", "rule.") if by_model else ()))
    small = [flag for flag in small_flags(small_config, changed=asked.config) if not flag[9:].startswith(own)]
    if by_model:
        small.append("--config.annotate.partner=checkpoint:runs/slm_tiny")
    if not any(word.startswith("--workdir") for word in command.arguments):
        small.append(f"--workdir={tmp_path}")  # several would take the one of their config
    if any(word.startswith("--profile_steps") for word in command.arguments):
        small.append("--profile_steps=2:4")  # the tiny run has six
    assert run_door(command, [*small, *SAMPLES]) == 0


def test_your_own_text_trains(
    after_demo: Path, small_config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """README's first command for it, with a text for every line and nothing else."""
    (command,) = [c for c in shell_commands(ROOT / "README.md") if any("corpus.files" in word for word in c.words)]
    monkeypatch.chdir(after_demo)
    Path("data").mkdir()
    lines = [
        json.dumps({"text": f"In {1800 + year} the river rose, and Ada Grey of Ulm wrote of it."}) for year in range(60)
    ]
    Path("data/mine.jsonl").write_text("\n".join(lines))
    kept = ("model.", "training.", "tokenizer.")
    small = [flag for flag in small_flags(small_config) if flag.removeprefix("--config.").startswith(kept)]
    few = ["--config.tokenizer.vocab_size=300", "--config.corpus.validation_share=0.2", *SAMPLES]
    assert run_door(command, [*small, *few]) == 0
    assert "finished at step 6" in capsys.readouterr().err


def test_the_export_is_written(after_demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = [c for c in shell_commands(ROOT / "README.md") if c.module == "lacy_jax.export"]
    monkeypatch.chdir(after_demo)
    assert run_door(command, []) == 0
    assert Path("runs/slm_tiny_export/tokenizer.model").is_file()


def test_judges_say_what_they_would_cost(
    after_demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (command,) = [c for c in shell_commands(ROOT / "docs/factscore.md") if c.module == "lacy_jax.acceptability"]
    monkeypatch.chdir(after_demo)
    assert run_door(command, ["--documents=2", "--mismatches=3"]) == 0
    assert "judge mismatches" in capsys.readouterr().err


def test_the_server_starts(after_demo: Path) -> None:
    command = FIRST["serving.md"]
    inherited = {name: value for name, value in os.environ.items() if name != "LACY_API_KEY"}
    process = subprocess.Popen(
        [sys.executable, *command.words[1:], "--port=0", "--batch_size=1"],
        cwd=after_demo,
        env={**inherited, "XLA_FLAGS": xla_flags(devices=1), "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        said = iter(process.stderr.readline, "")
        url = next(found[1] for line in said if (found := re.search(r"serving .* at (http://\S+)", line)))
        assert httpx.get(f"{url}/health", timeout=60).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
