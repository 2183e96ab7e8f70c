"""W&B and MLflow without a server: a run that is killed and goes on is one run there, with every step once."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import pytest

from lacy_jax.config import Config
from lacy_jax.config_dict import config_to_dict
from lacy_jax.errors import ConfigError
from lacy_jax.training.metrics import read_metrics
from lacy_jax.training.tracking import sender
from lacy_jax.training.tracking.trackers import Tracked, open_tracker

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_data")]
pytest.importorskip("wandb")
pytest.importorskip("mlflow")

RUN = """
import json, os, signal, sys
from lacy_jax.config_dict import config_from_dict
from lacy_jax.console import Reporter
from lacy_jax.data.prepare import prepare
from lacy_jax.training.loop import train

class Killing(Reporter):
    def update(self, stage, done, *rest):
        if stage.startswith("train") and done == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

config = config_from_dict(json.loads(sys.argv[1]))
train(config, prepared=prepare(config), workdir=sys.argv[2], reporter=Killing())
"""


def start(config: Config, workdir: Path, *, kill_at: int, **variables: str) -> subprocess.CompletedProcess[str]:
    settings = config_to_dict(config)
    settings["training"]["trackers"] = "wandb,mlflow"
    environment = os.environ | {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": f"sqlite:///{workdir.parent}/a.db"}
    return subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(settings), str(workdir), str(kill_at)],
        env=environment | variables,
        capture_output=True,  # returns when the processes that send have ended, too
        text=True,
        check=False,
    )


def steps_in_wandb(workdir: Path) -> list[int]:
    """Of all files of W&B in a work folder, read with W&B's own messages: LevelDB's log, after a header."""
    from wandb.proto.wandb_internal_pb2 import Record

    files = list((workdir / "tracking" / "wandb").glob("offline-run-*/run-*.wandb"))
    records = [Record.FromString(content) for path in files for content in log_records(path.read_bytes())]
    return [each.history.step.num for each in records if each.WhichOneof("record_type") == "history"]


def log_records(content: bytes) -> Iterator[bytes]:
    place, parts = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def in_mlflow(workdir: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workdir.parent}/a.db")
    place = client.get_experiment_by_name("lacy_jax")
    return [(run, client) for run in client.search_runs([place.experiment_id])]


def test_a_run_that_is_killed_and_goes_on_is_one_run_without_double_steps(small_config: Config, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    first = start(small_config, workdir, kill_at=5)
    assert first.returncode == -signal.SIGKILL, first.stderr
    assert steps_in_wandb(workdir)
    second = start(small_config, workdir, kill_at=-1)
    assert second.returncode == 0, second.stderr
    assert Counter(steps_in_wandb(workdir)) == Counter(range(1, 7))
    assert len(list((workdir / "tracking" / "wandb").glob("offline-run-*"))) == 1
    ((run, client),) = in_mlflow(workdir)
    assert run.info.status == "FINISHED"
    assert run.data.params["model.layers"] == "2"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    log = {record["step"]: record["loss"] for record in read_metrics(str(workdir)) if record["split"] == "train"}
    assert [(each.step, each.value) for each in sorted(history, key=lambda each: each.step)] == list(log.items())
    assert [each.step for each in client.get_metric_history(run.info.run_id, "validation/recall/factual_at_0.22")]
    other = start(small_config, tmp_path / "other", kill_at=-1)
    assert other.returncode == 0, other.stderr
    assert len(in_mlflow(workdir)) == 2


def test_servers_that_are_down_stop_nothing(small_config: Config, tmp_path: Path) -> None:
    """Nobody listens there. The run says so once for each, ends within the limit, and sends all when it can."""
    down = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}
    down |= {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    workdir = tmp_path / "run"
    result = start(small_config, workdir, kill_at=-1, **down)
    assert result.returncode == 0, result.stderr
    told = [line for line in result.stderr.splitlines() if line.startswith("tracker mlflow:")]
    assert ["the run goes on" in line for line in told] == [True, False], told
    steps = [record["step"] for record in read_metrics(str(workdir)) if record["split"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]
    again = start(small_config, workdir, kill_at=-1)
    assert again.returncode == 0, again.stderr
    assert sorted(steps_in_wandb(workdir)) == steps
    ((run, client),) = in_mlflow(workdir)
    assert sorted(each.step for each in client.get_metric_history(run.info.run_id, "train/loss")) == steps


def test_a_start_waits_for_the_process_of_the_start_before(tmp_path: Path) -> None:
    """A start that was killed leaves a process that sends what it has: two at once would send steps twice."""
    log, database = tmp_path / "metrics.jsonl", tmp_path / "a.db"
    log.write_text('{"step": 1, "split": "train", "loss": 2.0}\n')
    run = {"id": "a", "name": "a", "folder": str(tmp_path), "settings": {}}
    with filelock.FileLock(tmp_path / "mlflow.lock"):
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "lacy_jax.training.tracking.sender",
                json.dumps({"tracker": "mlflow", "path": str(log), "run": run}),
            ],
            env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{database}"},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        assert any("waiting for the process of an earlier start" in line for line in process.stderr)
        assert not database.exists()
    process.communicate()
    assert process.returncode == 0
    assert database.exists()


def test_settings_of_wandb_in_the_folder_of_a_run_are_refused(tmp_path: Path) -> None:
    stray = tmp_path / "wandb" / "settings"
    stray.parent.mkdir()
    stray.write_text("[default]\nbase_url = http://127.0.0.1:9\n")
    with pytest.raises(ConfigError, match="can name another server: remove it"):
        open_tracker("wandb", Tracked(id="a", name="a", folder=str(tmp_path), settings={}))


def test_the_limit_is_that_of_the_page() -> None:
    page = Path("docs/tracking.md").read_text()
    assert f"{sender.END_SECONDS} seconds" in page
