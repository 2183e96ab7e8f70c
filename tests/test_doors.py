"""The commands as a user runs them, in processes of their own: killed, stopped, two at once, given wrong input."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from configs import slm_tiny
from lacy_jax.checks import parse
from lacy_jax.config import Config
from lacy_jax.console import Reporter
from lacy_jax.data.prepare import prepare
from lacy_jax.training.loop import train
from tests.xla import xla_flags

ROOT = Path(__file__).parent.parent


def settings_of(config: Config, **more: Any) -> dict[str, Any]:
    """What makes configs/slm_tiny.py read the prepared data of `small_config`, in a model of a second a step."""
    return {
        "data.directory": config.data.directory,
        "corpus.max_documents": 80,
        "corpus.validation_share": 0.1,
        "tokenizer.vocab_size": 400,
        "model.context": 32,
        "model.width": 32,
        "model.heads": 4,
        "model.layers": 2,
        "training.steps": 40,
        "training.evaluate_every": 20,
        "training.checkpoint_every": 4,
        "cascade.samples": 1,
        "cascade.max_new_tokens": 8,
        **more,
    }


def flags_of(settings: Config | dict[str, Any], workdir: Path, *more: str) -> list[str]:
    """Flags of `main` for these settings, or for those of `settings_of`."""
    settings = settings_of(settings) if isinstance(settings, Config) else settings
    changes = [f"--config.{name}={value}" for name, value in settings.items()]
    return ["--config=configs/slm_tiny.py", f"--workdir={workdir}", *changes, *more]


def start(*arguments: str, devices: int = 1, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": xla_flags(devices=devices), "COLUMNS": "200", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], *, status: int = 0) -> str:
    out, err = process.communicate(timeout=600)
    assert process.returncode == status, f"{out}\n{err}"
    return out + err


def wait_for_checkpoint(process: subprocess.Popen[str], workdir: Path, *, beyond: int = 0) -> None:
    deadline = time.monotonic() + 600
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
    assert "for what is left of the budget" in said
    return workdir


@pytest.mark.slow
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
    _, said = process.communicate(timeout=600)
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


@pytest.mark.slow
def test_export_is_read_by_plain_orbax_and_by_generate(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "export"
    finish(start("lacy_jax.export", f"--checkpoint={finished}", f"--out={out}"))
    expected, found = parameters(finished / "checkpoints" / "40" / "params"), parameters(out / "params")
    assert {name: value.tobytes() for name, value in expected.items()} == {n: v.tobytes() for n, v in found.items()}
    assert not (out / "train").exists()
    assert (out / "tokenizer.model").stat().st_size > 1000
    process = start("lacy_jax.generate", f"--checkpoint={out}", "--partner=none", "--prompt=The river", "--json")
    line = json.loads(process.communicate(timeout=600)[0])
    assert line["prompt"] == "The river"
    said = finish(start("lacy_jax.export", f"--checkpoint={finished}", f"--out={out}"), status=2)
    assert "exists already" in said


def start_two(*arguments: str) -> list[subprocess.Popen[str]]:
    """Two of slurm's tasks with four devices each, which find each other as slurm's tasks do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def task(index: int) -> subprocess.Popen[str]:
        slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2"}
        place = {"SLURM_PROCID": str(index), "SLURM_LOCALID": str(index), "SLURM_STEP_NUM_NODES": "1"}
        address = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_COORDINATOR_PORT": port}
        return start("lacy_jax.main", *arguments, devices=4, **slurm, **place, **address)

    return [task(0), task(1)]


def log_of(workdir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def train_here(settings: dict[str, Any], workdir: Path) -> None:
    """What `main` would train with these settings, in this process."""
    config = slm_tiny.get_config()
    config.update_from_flattened_dict(settings)
    checked = parse(config)
    train(checked, prepared=prepare(checked), workdir=str(workdir), reporter=Reporter(quiet=True))


@pytest.mark.slow  # tests/runtime/test_distributed.py has two processes, too
def test_a_run_goes_from_two_processes_to_one_and_back(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A preempted process stops both after one step; eight devices, one device and two processes go on from there."""
    # The learning rate is constant after the warm-up, so that a run's length changes none of its steps.
    constant = {"training.log_every": 1, "optimizer.final_share": 1.0, "optimizer.warmup_steps": 2}
    settings = settings_of(small_config, **constant, **{"training.evaluate_every": 100_000, "model.layers": 1})
    mesh = {"mesh.slice": 2, "mesh.data": -1, "mesh.fsdp": 2}

    both = start_two(*flags_of(settings | mesh | {"training.steps": 100_000}, tmp_path))
    wait_for_checkpoint(both[0], tmp_path)
    both[1].send_signal(signal.SIGTERM)
    said = [finish(process, status=143) for process in both]
    stopped = log_of(tmp_path)[-1]["step"]
    assert f"stopped at step {stopped:,}, which is saved" in said[0]
    assert (tmp_path / "checkpoints" / str(stopped) / "params").is_dir()
    assert "8 x cpu in 2 processes, mesh slice 2 x data 2 x fsdp 2 x tensor 1" in said[0]
    assert "stopped" not in said[1]  # only one of them talks

    train_here(settings | {"mesh.fsdp": 4, "training.steps": stopped + 2}, tmp_path)
    with monkeypatch.context() as patched:
        first = jax.devices()[:1]
        patched.setattr(jax, "devices", lambda: first)
        train_here(settings | {"training.steps": stopped + 4}, tmp_path)
        train_here(settings | {"training.steps": stopped + 6}, tmp_path / "alone")
    again = start_two(*flags_of(settings | mesh | {"training.steps": stopped + 6}, tmp_path))
    said = [finish(process) for process in again]
    assert f"continuing from step {stopped + 4:,}" in said[0]
    assert f"finished at step {stopped + 6:,}" in said[0]
    assert "finished" not in said[1]

    expected, found = (
        [r for r in log_of(folder) if r["split"] == "train"] for folder in (tmp_path / "alone", tmp_path)
    )
    assert [record["step"] for record in found] == list(range(1, stopped + 7))
    for one, other in zip(expected, found, strict=True):
        # Counts tell the batch: of its tokens, of its facts.
        for name in ("tokens", "share/factual"):
            assert one[name] == other[name], one["step"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5 if one["step"] <= 4 else 1e-3)
