"""Wrong input of the kind that people make, at every door: status 2 and one line that says what to do, no traceback.

All in one process: a door's flags belong to the call.
"""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lacy_jax.config import Config
from lacy_jax.console import Reporter
from lacy_jax.data.prepared import Prepared
from lacy_jax.doors import Door, enter
from lacy_jax.evidence.run_report.report import report_run
from lacy_jax.flags import Given
from tests.cascade.conftest import random_model, write_checkpoint
from tests.test_doors import flags_of, start

ROOT = Path(__file__).parent.parent
DOORS = (
    "main", "prepare", "adapt", "calibrate", "generate", "serve", "export", "evaluate", "factscore", "acceptability",
    "compile_ahead",
)  # fmt: skip
TINY = "--config=configs/slm_tiny.py"
# Door and what is given to it -> what its one line says. {run} is an export, {here} a folder with the files below.
WRONG: dict[tuple[str, ...], str] = {
    ("main",): "--config is needed",
    ("main", "more", TINY): "unexpected argument 'more'; settings are given as --config.<section>.<setting>=<value>",
    ("main", TINY, TINY): "--config is given 2 times (configs/slm_tiny.py, configs/slm_tiny.py); give one file",
    ("main", "--config=configs/slm_tinny.py"): "no file configs/slm_tinny.py; did you mean configs/slm_tiny.py?",
    ("main", "--config=README.md"): "README.md is not a Python file",
    ("main", "--config={here}/raises.py"): "line 2: ZeroDivisionError: division by zero",
    ("main", "--config={here}/syntax.py"): "line 1: SyntaxError",
    ("main", "--config={here}/nothing.py"): "nothing.py has no function get_config()",
    ("main", "--config={here}/returns.py"): "get_config() gives NoneType, not settings",
    ("main", "--config=configs/slm_tiny.py:method=best"): "method='best': allowed are ntp, lacy",
    ("main", "--config=configs/slm_tiny.py:metod=lacy"): "'metod=lacy': allowed are preset=..., corpus=..., method=...",
    ("main", TINY, "--config.training.stepz=3"): "config.training.stepz: unknown setting; allowed are steps",
    ("main", TINY, "--config.trainning.steps=3"): "did you mean training?",
    ("main", TINY, "--config.training=3"): "--config.training is a section; its settings are steps, tokens",
    ("main", TINY, "--config.training.steps.more=3"): "--config.training.steps has no parts",
    ("main", TINY, "--", "--workdir=x"): "unexpected argument '--workdir=x'",
    ("main", "--config="): "--config=: it is empty",
    ("main", TINY, "--config.training.steps=abc"): "config.training.steps: got 'abc'; input should be a valid integer",
    ("main", TINY, "--config.training.steps"): "Missing value for flag --config.training.steps",
    ("main", TINY, "--config.training.tokens=5"): "--config.training.steps=0 to go by tokens",
    ("main", TINY, "--config.cascade.budget=22"): "write 0.22 for 22%",
    ("main", TINY, "--config.objective.rule=best"): "config.objective.rule: got 'best'",
    ("main", TINY, "--config.method=ntp"): "write --config=FILE.py:method=ntp",
    ("main", TINY, "--config.corpus.name=jsonl"): "add --config.corpus.files=",
    ("main", TINY, "--config.cascade.partner=documets"): "unknown partner 'documets'",
    ("main", TINY, "--config.cascade.partner={here}/facts.csv"): "did you mean database:{here}/facts.csv?",
    (
        "main",
        TINY,
        "--config.cascade.partner=database:{here}/none.csv",
    ): "config.cascade.partner: database: no such file",
    ("main", TINY, "--config.cascade.partner=documents:{here}/none.jsonl"): "no such file: {here}/none.jsonl",
    ("main", "--config=configs/slm_tiny.py:method=rho", "--config.objective.reference={here}"): "it holds no finished "
    "checkpoint",
    ("main", TINY, "--workdir={here}/facts.csv/run"): "facts.csv is a file, not a folder",
    ("main", TINY, "--config.data.packed={here}/none"): "config.data.packed: there is no folder {here}/none",
    ("main", TINY, "--config.data.mixture=web:0.9"): "config.data.mixture: 'web:0.9' is not NAME:WEIGHTS:FOLDER",
    ("main", TINY, "--config.data.mixture=web:1:{here}/none"): "config.data.mixture: web: there is no folder {here}/no",
    ("prepare", TINY, "--config.data.mixture=web:1..0:{here}"): "no dataset has a weight above 0 at step 800",
    ("main", TINY, "--config.tokenizer.path={here}/none.model"): "config.tokenizer.path: there is no file",
    ("main", TINY, "--steps=3"): "--steps: unknown flag",
    ("main", TINY, "--workdirr=x"): "--workdirr: unknown flag; did you mean --workdir?",
    ("main", TINY, "--distributed=maybe"): "--distributed=maybe: input should be 'auto', 'on' or 'off'",
    ("prepare", TINY, "--config.model.widht=3"): "did you mean width?",
    ("prepare", TINY, "--config.corpus.files={here}/none.jsonl", "--config.corpus.name=jsonl"): "no such file",
    ("calibrate", "--checkpoint={run}"): "--share is needed",
    ("calibrate", "--share=0.1"): "no checkpoint; give --checkpoint=...",
    ("calibrate", "--share=10", "--checkpoint={run}"): "write 0.1 for 10%",
    ("calibrate", "--share=0", "--checkpoint={run}"): "--share=0: input should be greater than 0",
    ("calibrate", "--share=0.1", "--checkpoint={run}", "--partner=none"): "nobody answers",
    ("calibrate", "--share=0.5", "--checkpoint={run}"): "is more than a long text may spend, 0.22; give a larger",
    ("calibrate", "--share=0.1", "--checkpoint={run}"): "does not say what it was trained on, so no held-out text",
    ("calibrate", "--share=0.1", "--checkpoint={here}/none"): "there is no such folder",
    ("calibrate", "--share=0.1", "--checkpoint={here}/model.gguf"): "which has no place for a price",
    ("calibrate", "--share=0.1", "--checkpoint=gs://a/b"): "gs://a/b lies in a bucket, and a price is saved only on",
    ("calibrate", "--share=0.1", "--checkpoint={run}", "--prompts_file={here}/texts.jsonl"): "neither a JSON string",
    ("generate", "--checkpoint={run}"): "no prompt; give --prompt=...",
    ("generate", "--checkpoint={run}", "Marie Curie"): "prompts are given by --prompt=...",
    ("generate", "--prompt=a"): "no checkpoint; give --checkpoint=...",
    ("generate", "--checkpoint={here}/none", "--prompt=a"): "there is no such folder",
    ("generate", "--chekpoint={run}", "--prompt=a"): "--chekpoint: unknown flag; did you mean --checkpoint?",
    ("generate", "--checkpoint={run}", "--prompt=a", "--budget=22"): "--budget=22: input should be less than or equal "
    "to 1; write 0.22 for 22%",
    ("generate", "--checkpoint={run}", "--prompt=a", "--budget=x"): "--budget=x: input should be a valid number",
    ("generate", "--checkpoint={run}", "--prompt=a", "--span=sentence"): "--span=sentence: input should be 'token', ",
    ("generate", "--checkpoint={here}/model.gguf", "--prompt=a"): "cannot read {here}/model.gguf as GGUF",
    ("generate", "--checkpoint={run}", "--prompt=a", "--partner=oracle"): "unknown partner 'oracle'",
    (
        "generate",
        "--checkpoint={run}",
        "--prompt=a",
        "--partner={here}/facts.csv",
    ): "did you mean database:{here}/facts",
    (
        "generate",
        "--checkpoint={run}",
        "--prompt=a",
        "--partner={here}/texts.jsonl",
    ): "did you mean documents:{here}/te",
    ("generate", "--checkpoint={run}", "--prompt=a", "--partner={here}/model.gguf"): "cannot read {here}/model",
    ("generate", "--checkpoint={run}", "--prompt=a", "--partner=runs/none"): "there is no such folder",
    ("generate", "--checkpoint={run}", "--prompt=a", "--partner=none.gguf"): "there is no such file",
    ("main", TINY, "--config.cascade.partner=none.gguf"): "config.cascade.partner: unknown partner 'none.gguf'",
    (
        "generate",
        "--checkpoint={run}",
        "--prompt=a",
        "--partner=README.md",
    ): "it is a file, and a checkpoint is a folder",
    ("generate", "--checkpoint={run}", "--prompt=a", "--partner=checkpoint:README.md"): "it is a file, and",
    ("generate", "--checkpoint={run}", "--prompt=a", "--partner=database:{here}/none.csv"): "database: no such file",
    ("serve",): "no checkpoint; give --checkpoint=...",
    ("serve", "--checkpoint={run}", "--port=http"): "--port=http: input should be a valid integer",
    ("serve", "--checkpoint={run}", "--batch_size=0"): "--batch_size=0: allowed is 1 or more",
    ("serve", "--checkpoint={here}/none", "--port=0"): "there is no such folder",
    ("export", "--checkpoint={run}"): "--out is needed",
    ("export", "--checkpoint={run}", "--out={here}"): "exists already; give a new folder",
    ("export", "--checkpoint={here}/facts.csv", "--out={here}/new"): "it is a file, and a checkpoint is a folder",
    ("export", "--checkpoint={run}", "--out={here}/facts.csv/new"): "is a file, not a folder",
    ("export", "--out={here}/new"): "no checkpoint; give --checkpoint=...",
    ("evaluate",): "give either --suite=closed_world or real_text with --checkpoint=..., or --study=FILE.py",
    ("evaluate", "--suite=close_world", "--checkpoint={run}"): "unknown suite 'close_world'",
    ("evaluate", "--study=configs/study_biography.py"): "did you mean configs/study_biographies.py?",
    ("evaluate", "--study=configs/slm_tiny.py"): "has no function get_study()",
    ("evaluate", "--study=configs/study_biographies.py:all"): "allowed are reduced, methods",
    ("evaluate", "--study=configs/study_biographies.py", "--workdir={here}/facts.csv"): "is a file, not a folder",
    ("evaluate", "--suite=real_text", "--study=s.py"): "give either --suite",
    ("evaluate", "--suite=real_text", "--known=0.5"): "--known does not go with --suite=real_text",
    ("factscore",): "--generations is needed",
    ("factscore", "--generations={here}/a.jsonl"): "give --checkpoint to write --generations, --judge to score them",
    ("factscore", "--generations={here}/a.jsonl", "--judge=http://x/v1"): "--knowledge=FILE is needed",
    ("acceptability", "--checkpoint={run}"): "--judge=http://HOST:PORT/v1 and --out=FOLDER are both needed",
    ("acceptability", "--checkpoint={run}", "--judge=http://x/v1#m", "--out={here}", "--judge_body=x"): "not JSON",
    ("compile_ahead", TINY): "--topology is needed",
    ("compile_ahead", TINY, "--topology=v5e:2x2", "--slices=0"): "--slices=0: input should be greater than or equal",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    here = tmp_path_factory.mktemp("wrong")
    (here / "raises.py").write_text("def get_config():\n    return 1 / 0\n")
    (here / "syntax.py").write_text("def get_config(:\n")
    (here / "nothing.py").write_text("get_config = 3\n")
    (here / "returns.py").write_text("def get_config():\n    pass\n")
    (here / "facts.csv").write_text("subject,relation,value\nMarie Curie,birth place,Warsaw\n")
    (here / "model.gguf").write_bytes(b"GGUF")
    (here / "texts.jsonl").write_text(json.dumps({"text": "a"}) + "\n")
    return {"here": str(here), "run": str(write_checkpoint(random_model(), here / "export"))}


def ended(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Status, stdout and stderr of a door."""
    status = enter(importlib.import_module(f"lacy_jax.{words[0]}").DOOR, words[1:])
    return status, *capsys.readouterr()


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_input_is_one_line(
    words: tuple[str, ...],
    places: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    status, out, err = ended([word.format(**places) for word in words], capsys)
    assert (status, out) == (2, ""), err
    assert WRONG[words].format(**places) in err
    assert err.count("\n") == 1, err
    assert err.startswith("error: " if words[0] in ("main", "prepare", "compile_ahead") else f"{words[0]}: ")


def test_a_partner_that_cannot_be_made_ends_a_run_before_its_first_step(
    small_config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "facts.csv").write_text("who,what\nMarie Curie,physics\n")
    partner = f"--config.cascade.partner=database:{tmp_path}/facts.csv"
    status, out, err = ended(["main", *flags_of(small_config, tmp_path / "run", partner)], capsys)
    assert (status, out) == (2, "")
    assert "facts.csv" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "words"),
    [("--config.mesh.fsdp=3", "does not fit 8 devices"), ("--distributed=on", "JAX_COORDINATOR_ADDRESS=host:port")],
)
def test_what_devices_and_processes_do_not_fit_is_one_line(
    small_config: Config,
    small_data: Prepared,  # noqa: ARG001  # so that nothing is said of preparing it
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    flag: str,
    words: str,
) -> None:
    status, out, err = ended(["main", *flags_of(small_config, tmp_path / "run", flag)], capsys)
    assert (status, out) == (2, "")
    assert words in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_cascade_that_fails_at_the_end_leaves_a_report(
    small_config: Config, small_data: Prepared, small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = str(shutil.copytree(small_run, tmp_path / "run"))
    cascade = replace(small_config.cascade, partner="database:gone.csv")
    config = replace(small_config, cascade=cascade)
    page = report_run(config, prepared=small_data, workdir=workdir, command="", reporter=Reporter())
    assert "the cascade failed, PartnerError: database: no such file: gone.csv" in Path(page).read_text()
    assert "report without samples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)], ids=["ctrl_c", "sigterm"]
)
@pytest.mark.parametrize("words", [("generate", "--prompts_file="), ("serve", "--api_key_file=")], ids=" ".join)
def test_a_signal_is_quiet(words: tuple[str, str], number: signal.Signals, status: int, tmp_path: Path) -> None:
    """A shell shows the status of a process that SIGTERM has ended as 143."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a job in the background would ignore
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = start(f"lacy_jax.{words[0]}", f"{words[1]}{fifo}")
    with fifo.open("w"):  # returns when the door, at work, has opened it to read
        process.send_signal(number)
        assert process.communicate(timeout=300) == ("", "")
    assert process.returncode == status


def test_a_closed_pipe_is_quiet() -> None:
    process = start("lacy_jax.generate", "--help")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(60) == 141


def test_a_package_that_is_missing_is_named_with_its_extra(capsys: pytest.CaptureFixture[str]) -> None:
    def main(_given: Given) -> int:
        raise ModuleNotFoundError("No module named 'uvicorn.config'", name="uvicorn.config")

    assert enter(Door("serve", "", (), main), []) == 2
    assert capsys.readouterr().err == 'serve: uvicorn is not installed; pip install "lacy_jax[serve]"\n'


def test_faults_of_the_program_keep_their_traceback() -> None:
    def main(_given: Given) -> int:
        raise KeyError("a fault")

    with pytest.raises(KeyError, match="a fault"):
        enter(Door("serve", "", (), main), [])


def test_all_doors_in_one_process() -> None:
    code = f"import {', '.join(f'lacy_jax.{door}' for door in DOORS)}, sys; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")  # so that --help and wrong flags answer at once


@pytest.mark.parametrize("name", DOORS)
def test_help_shows_all_flags_and_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = ended([name, "--help"], capsys)
    assert (status, err) == (0, "")
    door = importlib.import_module(f"lacy_jax.{name}").DOOR
    assert f"python -m lacy_jax.{name} --" in out
    lines = out.splitlines()
    for flag in door.flags:
        assert len([line for line in lines if line.startswith((f"  --{flag.name}=", f"  --{flag.name} "))]) == 1, flag
    assert ("docs/settings.md" in out) == (name in ("main", "prepare", "compile_ahead"))
    assert max(map(len, lines)) <= 120
    assert out.count("--verbosity") == 0  # nor any other of absl's own


def test_several_problems_are_said_at_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    wrong = ["--workdri=x", "--distributed=x", "--config.training.steps=-1", "--config.model.heads=5"]
    status, _, err = ended(["main", TINY, *wrong], capsys)
    assert status == 2
    lines = err.splitlines()
    assert len(lines) == 4
    for line, words in zip(lines, ("--workdri", "--distributed=x", "training.steps", "model.heads"), strict=True):
        assert line.startswith("error: ")
        assert words in line


def test_names_that_flags_had_still_work(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["serve", "--slots=0"], ["factscore", "--rows=0"], ["generate", "--partner_timeout=0", "--prompt=a"]):
        status, _, err = ended([*words, "--generations=x"] if words[0] == "factscore" else words, capsys)
        assert status == 2
        assert "unknown flag" not in err
        assert "batch_size=0" in err or "timeout=0" in err
