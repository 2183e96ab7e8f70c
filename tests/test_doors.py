"""The commands as a user runs them, in processes of their own: killed, stopped, two at once, given wrong input."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from lacy_jax.config import Config

ROOT = Path(__file__).parent.parent


def flags_of(config: Config, workdir: Path, *more: str) -> list[str]:
    """Flags that make configs/slm_tiny.py read the prepared data of `small_config`, in a model of a second a step."""
    return [
        "--config=configs/slm_tiny.py",
        f"--workdir={workdir}",
        f"--config.data.directory={config.data.directory}",
        "--config.corpus.max_documents=80",
        "--config.corpus.validation_share=0.1",
        "--config.tokenizer.vocab_size=400",
        "--config.model.context=32",
        "--config.model.width=32",
        "--config.model.heads=4",
        "--config.model.layers=2",
        "--config.training.steps=40",
        "--config.training.evaluate_every=20",
        "--config.training.checkpoint_every=4",
        "--config.cascade.samples=1",
        "--config.cascade.max_new_tokens=8",
        *more,
    ]


def start(*arguments: str, devices: int = 1, **environment: str) -> subprocess.Popen[str]:
    flag = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flag, "COLUMNS": "200", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], *, status: int = 0) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == status, f"{out}\n{err}"
    return out + err


def wait_for_checkpoint(process: subprocess.Popen[str], workdir: Path, *, beyond: int = 0) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        steps = (workdir / "checkpoints").glob("[0-9]*")
        if any(path.name.isdecimal() and int(path.name) > beyond for path in steps):
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate())


def parameters(folder: Path) -> dict[str, np.ndarray]:
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(folder.absolute())
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.fixture(scope="module")
def finished(small_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run that nobody disturbed."""
    workdir = tmp_path_factory.mktemp("finished")
    said = finish(start("lacy_jax.main", *flags_of(small_config, workdir)))
    assert "finished at step 40" in said
    assert "training on a CPU: about" in said
    return workdir


def test_killed_twice_then_stopped_ends_with_the_same_bits(
    finished: Path, small_config: Config, tmp_path: Path
) -> None:
    command = ["lacy_jax.main", *flags_of(small_config, tmp_path)]
    for beyond in (0, 8):
        process = start(*command)
        wait_for_checkpoint(process, tmp_path, beyond=beyond)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(*command)
    wait_for_checkpoint(process, tmp_path, beyond=16)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 143, said
    assert "is saved; the same command goes on from there" in said
    finish(start(*command))
    expected = parameters(finished / "checkpoints" / "40" / "params")
    found = parameters(tmp_path / "checkpoints" / "40" / "params")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.tobytes() == found[name].tobytes(), name
    page = (tmp_path / "report.html").read_text()
    assert "ROC" in page
    assert "http-equiv" not in page


def test_export_is_read_by_plain_orbax_and_by_generate(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "export"
    finish(start("lacy_jax.export", f"--checkpoint={finished}", f"--out={out}"))
    expected, found = parameters(finished / "checkpoints" / "40" / "params"), parameters(out / "params")
    assert {name: value.tobytes() for name, value in expected.items()} == {n: v.tobytes() for n, v in found.items()}
    assert not (out / "train").exists()
    assert (out / "tokenizer.model").stat().st_size > 1000
    process = start("lacy_jax.generate", f"--checkpoint={out}", "--partner=none", "--prompt=The river", "--json")
    line = json.loads(process.communicate(timeout=200)[0])
    assert line["prompt"] == "The river"
    said = finish(start("lacy_jax.export", f"--checkpoint={finished}", f"--out={out}"), status=2)
    assert "exists already" in said


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--config.training.tokens=5"], "exactly one of steps, tokens, ground_truth_tokens"),
        (["--config.mesh.fsdp=3"], "does not fit 1 devices"),
        (["--config.corpus.name=jsonl"], "config.corpus.files: corpus jsonl needs"),
        (["--config.objective.rule=best"], "config.objective.rule: got 'best'"),
        (["more"], "unexpected argument 'more'"),
    ],
    ids=str,
)
def test_wrong_settings_end_in_one_line(small_config: Config, tmp_path: Path, flags: list[str], words: str) -> None:
    said = finish(start("lacy_jax.main", *flags_of(small_config, tmp_path, *flags)), status=2)
    assert words in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config=configs/slm_tiny.py", "--config.model.widht=3"], "widht"),
        (["--config=configs/slm_tiny.py:method=best"], "allowed are ntp, lacy"),
        (["--config=configs/absent.py"], "absent.py"),
        ([], "--config"),
    ],
    ids=str,
)
def test_wrong_flags_name_what_is_wrong(arguments: list[str], words: str) -> None:
    process = start("lacy_jax.main", *arguments)
    _, said = process.communicate(timeout=100)
    assert process.returncode not in (0, None)
    assert words in said


def test_two_processes_train_one_run_that_one_process_reads(small_config: Config, tmp_path: Path) -> None:
    """Two of slurm's tasks with four devices each, as `--distributed` finds them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    flags = flags_of(
        small_config, tmp_path, "--config.training.steps=6", "--config.mesh.fsdp=2", "--config.training.log_every=1"
    )

    def task(index: int) -> subprocess.Popen[str]:
        slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
        place = {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index), "SLURM_STEP_NUM_NODES": "1"}
        address = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_COORDINATOR_PORT": port}
        return start("lacy_jax.main", "--distributed", *flags, devices=4, **slurm, **place, **address)

    said = [finish(process) for process in [task(0), task(1)]]
    assert "finished at step 6" in said[0]
    assert "finished" not in said[1]
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    alone = tmp_path / "alone"
    finish(start("lacy_jax.main", *flags_of(small_config, alone, *flags[-3:]), devices=8))
    expected = [json.loads(line) for line in (alone / "metrics.jsonl").read_text().splitlines()]
    for one, other in zip(expected, log, strict=True):
        assert (one["step"], one["share/taken"]) == (other["step"], other["share/taken"])
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
    # One process of one device goes on with what two processes of four saved, and writes the report.
    more = flags_of(small_config, tmp_path, "--config.training.steps=8")
    assert "continuing from step 6" in finish(start("lacy_jax.main", *more))
    assert (tmp_path / "report.html").exists()
