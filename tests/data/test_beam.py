"""Beam: what is refused before any work, and, where a Python with it is named, that all runners give the same bytes.

Beam needs older versions of packages than the tests have, so it lies in an environment of its own:
LACY_BEAM_PYTHON names its Python (.ci/run makes one).
"""

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from lacy_jax import doors
from lacy_jax.prepare import DOOR

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("LACY_BEAM_PYTHON", "")
CONFIG = "--config=configs/slm_tiny.py"


def refused(*words: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert doors.enter(DOOR, [CONFIG, *words]) == doors.WRONG_INPUT
    return capsys.readouterr().err.splitlines()


def test_without_beam_one_line_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = importlib.util.find_spec
    hidden = lambda name, *more: None if name == "apache_beam" else real(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    data = f"--config.data.directory={tmp_path}"
    (line,) = refused("--beam_runner=DirectRunner", data, capsys=capsys)
    assert line == 'error: --beam_runner: apache_beam is not installed; pip install "lacy_jax[beam]"'
    (line,) = refused("--beam_options=--a=b", data, capsys=capsys)
    assert line == "error: --beam_options and --beam_parts go with --beam_runner"
    assert not list(tmp_path.iterdir())


def test_an_unknown_runner_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = refused("--beam_runner=Direct", capsys=capsys)
    assert "--beam_runner=Direct" in line
    assert "DataflowRunner" in line


def test_the_recipe_of_the_image_fits_the_project() -> None:
    text = (ROOT / "launch" / "Dockerfile.beam").read_text().replace("\\\n", " ")
    instructions = [line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    assert [name for name, _ in instructions] == ["FROM", "WORKDIR", "COPY", "COPY", "COPY", "RUN"]
    let_through = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for name, value in instructions:
        if name == "COPY":
            assert set(value.split()[:-1]) <= set(let_through)
    version = re.search(r"_sdk:([\d.]+)$", instructions[0][1])
    assert version is not None
    assert f"apache-beam[gcp]=={version[1]}" in text
    assert f"apache-beam[dask]=={version[1]}" in (ROOT / ".ci" / "run").read_text()


@pytest.fixture(scope="session")
def beam_python() -> str:
    if not PYTHON:
        pytest.skip("LACY_BEAM_PYTHON names no Python with apache_beam")
    return PYTHON


def run(python: str, *words: str) -> "subprocess.CompletedProcess[str]":
    words = words if words[0] == "-c" else ("-m", *words)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    return subprocess.run(
        [python, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=900
    )


@pytest.mark.slow
@pytest.mark.parametrize(("words", "compared"), [((), 3), (("--kills=1", "--plain"), 1)])
def test_every_runner_and_a_pool_that_is_killed_give_the_same_bytes(
    beam_python: str, words: tuple[str, ...], compared: int
) -> None:
    """Runners that are killed: `python -m benchmarks.prepare_runs --kills=10`, by hand (docs/preparing.md)."""
    done = run(beam_python, "benchmarks.prepare_runs", "--documents=40", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("identical") == compared


MISTAKES = [
    (["--beam_runner=DirectRunner", "--beam_options=--direct_num_wrkers=2"], "did you mean --direct_num_workers?"),
    (["--beam_runner=DirectRunner", "--beam_options=--direct_num_workers=two"], "invalid int value: 'two'"),
    (["--beam_runner=DirectRunner", "--beam_options=x"], "'x' is no option"),
    (["--beam_runner=DirectRunner", "--beam_options='"], "No closing quotation"),
    (["--beam_runner=DataflowRunner"], "give --beam_parts=gs://BUCKET/FOLDER"),
    (["--beam_runner=DirectRunner", "--config.annotate.annotator=spans", "--config.annotate.spans_file=README.md"],
     "the annotator spans marks in one process on this machine"),
]  # fmt: skip
# All in one process: its imports take most of a command's time.
ENTER_EACH = """
import json, sys
from lacy_jax.doors import enter
from lacy_jax.prepare import DOOR
for words in json.loads(sys.argv[1]):
    print(">>>", enter(DOOR, words), file=sys.stderr, flush=True)
"""


@pytest.mark.slow
def test_a_mistake_is_one_line(beam_python: str, tmp_path: Path) -> None:
    rows = (
        json.dumps({"id": f"{n}", "text": f"The stone of {n} lies in the river, seen from Ulm."}) for n in range(60)
    )
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows))
    small = [
        f"{CONFIG}:corpus=jsonl",
        f"--config.corpus.files={tmp_path}/corpus.jsonl",
        "--config.corpus.validation_share=0.2",
        "--config.tokenizer.vocab_size=300",
        f"--config.data.directory={tmp_path}/data",
    ]
    done = run(beam_python, "-c", ENTER_EACH, json.dumps([[*small, *words] for words, _ in MISTAKES]))
    *said, rest = re.split(r">>> (?=\d)", done.stderr)
    statuses = [each.partition("\n")[0] for each in [*said[1:], rest]]
    assert statuses == [str(doors.WRONG_INPUT)] * len(MISTAKES), done.stderr
    for (_, complaint), one in zip(MISTAKES, said, strict=True):
        assert complaint in one
    assert "Traceback" not in done.stderr
