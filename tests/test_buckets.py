"""Runs, checkpoints, exports and logs in gs:// and s3://, against emulators over HTTP (buckets.py, s3.py)."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jax
import numpy as np
import pytest
from etils.epath import backend

import lacy_jax
from lacy_jax import folders
from lacy_jax.checkpoints.export import export
from lacy_jax.checkpoints.format import find_checkpoint
from lacy_jax.config import Config, MeshConfig
from lacy_jax.config_dict import config_to_dict
from lacy_jax.console import Reporter
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import CheckpointError, StorageError
from lacy_jax.evidence.run_report.report import report_run
from lacy_jax.folders import local_copy
from lacy_jax.model import decoder
from lacy_jax.paths import absolute
from lacy_jax.runtime import sharding
from lacy_jax.training import mirror
from lacy_jax.training.checkpoints import Checkpoints
from lacy_jax.training.loop import train
from lacy_jax.training.metrics import MetricWriter, read_metrics
from lacy_jax.training.reference import load_reference
from tests.bucket_files import cut_arrays, objects, put
from tests.buckets import watching
from tests.s3 import emulated
from tests.test_serve import serving
from tests.xla import xla_flags

pytestmark = pytest.mark.slow  # a server that stands in for the cloud

ROOT = Path(__file__).parent.parent
CLOCKS = {"seconds", "tokens_per_second", "mfu"}
# A lease of a killed run runs out at once.
SHORT_LEASE = "from lacy_jax.runtime import claims; claims.BEAT_SECONDS, claims.EXPIRY_SECONDS = 0.2, 1.0"


@pytest.fixture(scope="module", params=["gs", "s3"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    with emulated(request.param) as address:
        yield address


def records(workdir: str | Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    log = [record for record in read_metrics(str(workdir)) if record["split"] != "goodput"]
    return [{k: v for k, v in record.items() if k not in CLOCKS} for record in log]


def assert_same_model(one: str | Path, other: str | Path) -> None:
    leaves = [jax.tree.leaves(lacy_jax.load(str(each)).params) for each in (one, other)]
    for first, second in zip(*leaves, strict=True):
        assert np.asarray(first).tobytes() == np.asarray(second).tobytes()


def test_a_run_in_a_bucket(
    bucket: str, small_config: Config, small_data: Prepared, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, gone on with, exported and reported there: what a folder on a disk holds, to the bit."""
    run = f"{bucket}/small/run"
    monkeypatch.setattr(mirror, "SECONDS", math.inf)
    written: list[str] = []
    with watching(written.append):
        train(small_config, prepared=small_data, workdir=run, reporter=Reporter())
    # Of a save the records come first: a kill in its middle loses none of steps that are not repeated.
    places = {name: written.index(name) for name in reversed(written)}
    saves = [min(places[name] for name in written if f"checkpoints/{step}/" in name) for step in (3, 6)]
    logs = [place for place, name in enumerate(written) if name.endswith("metrics.jsonl")]
    assert logs[0] < saves[0]
    assert sum(place < saves[1] for place in logs) >= 2
    assert records(run) == records(small_run)
    assert_same_model(run, small_run)
    assert train(small_config, prepared=small_data, workdir=run, reporter=Reporter()).step == 6
    assert records(run) == records(small_run)
    path = report_run(small_config, prepared=small_data, workdir=run, command="c", reporter=Reporter())
    assert path == f"{run}/report.html"
    assert absolute(path).read_text().startswith("<!DOCTYPE html>")
    assert any("tensorboard/events" in name for name in objects(run))

    objective = dataclasses.replace(small_config.objective, rule="excess_loss", reference=run)
    mesh, tokenizer = sharding.make_mesh(MeshConfig(), batch_size=8), small_data.tokenizer
    vocab = decoder.padded_vocab(tokenizer.vocab_size)
    asks = dataclasses.replace(small_config, objective=objective)
    assert load_reference(asks, tokenizer=tokenizer.fingerprint, vocab=vocab, mesh=mesh) is not None

    export(run, out=f"{bucket}/small/export")
    assert_same_model(f"{bucket}/small/export", small_run)
    with pytest.raises(CheckpointError, match="exists already"):
        export(run, out=f"{bucket}/small/export")
    assert export(run, out=f"{bucket}/small/hf", format="hf").endswith(f"-> {bucket}/small/hf")
    export(run, out=f"{bucket}/small/slm.gguf", format="gguf")
    written, read = lacy_jax.load(str(local_copy(f"{bucket}/small/hf"))), lacy_jax.load(run)
    np.testing.assert_array_equal(*(each.params["positions"]["embedding"] for each in (written, read)))
    assert absolute(f"{bucket}/small/slm.gguf").read_bytes()[:4] == b"GGUF"
    with pytest.raises(CheckpointError, match="exists already"):
        export(run, out=f"{bucket}/small/slm.gguf", format="gguf")
    assert not Path("gs:").exists()
    assert not Path("s3:").exists()


def test_a_save_that_was_cut_off_is_no_checkpoint(bucket: str, small_run: Path) -> None:
    put(small_run / "checkpoints", to=f"{bucket}/cut/checkpoints")
    newest = absolute(f"{bucket}/cut/checkpoints/6")
    assert find_checkpoint(f"{bucket}/cut") == newest
    (newest / "commit_success.txt").unlink()
    assert find_checkpoint(f"{bucket}/cut").name == "3"
    with pytest.raises(CheckpointError, match="no finished checkpoint"):
        find_checkpoint(str(newest))


def test_an_export_that_was_cut_off_is_no_checkpoint(
    bucket: str, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    def send(files: Any, source: Path, *, to: str) -> None:
        if to.endswith("meta/metadata"):
            cut()
        original(files, source, to=to)

    original = folders._send
    monkeypatch.setattr(folders, "_send", send)
    if bucket.startswith("gs:"):
        monkeypatch.setattr("lacy_jax.checkpoints.export.with_checksums", cut)
    with pytest.raises(KeyboardInterrupt):
        export(str(small_run), out=f"{bucket}/cut_export")
    assert objects(f"{bucket}/cut_export")
    with pytest.raises(CheckpointError, match="no finished checkpoint"):
        lacy_jax.load(f"{bucket}/cut_export")


def test_a_step_that_is_not_whole_is_set_aside_there(
    bucket: str, small_config: Config, small_data: Prepared, small_run: Path
) -> None:
    workdir = f"{bucket}/aside"
    put(small_run, to=workdir)
    (absolute(workdir) / "checkpoints/6/train/manifest.ocdbt").unlink()
    kept = set(objects(f"{workdir}/checkpoints/6"))
    result = train(small_config, prepared=small_data, workdir=workdir, reporter=Reporter())
    assert result.step == 6
    assert set(objects(f"{workdir}/checkpoints/6.incomplete")) == kept
    assert_same_model(workdir, small_run)
    assert records(workdir) == records(small_run)


def test_a_step_whose_arrays_are_damaged_is_set_aside_there(
    bucket: str, small_config: Config, small_data: Prepared, small_run: Path
) -> None:
    workdir = f"{bucket}/damaged"
    put(small_run, to=workdir)
    cut_arrays(f"{workdir}/checkpoints/6/train")
    assert train(small_config, prepared=small_data, workdir=workdir, reporter=Reporter()).step == 6
    assert objects(f"{workdir}/checkpoints/6.incomplete")
    assert_same_model(workdir, small_run)


def test_a_bucket_that_does_not_answer_is_no_empty_one(
    bucket: str, small_config: Config, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fsspec's `isdir` says no there: the run would begin anew beside its checkpoints."""
    workdir = f"{bucket}/silent"
    put(small_run, to=workdir)
    files = backend.fsspec_backend.fs(workdir)

    async def silent(*_: object, **__: object) -> None:
        raise ConnectionResetError("reset by peer")

    with monkeypatch.context() as patch:
        for name in {"_info", "_lsdir", "_list_objects"} & set(dir(files)):
            patch.setattr(files, name, silent)
        files.invalidate_cache()
        with pytest.raises(StorageError, match=r"checkpoints cannot be read \(ConnectionResetError: reset by peer"):
            Checkpoints(workdir, small_config)
    assert_same_model(workdir, small_run)


def test_records_reach_the_bucket_before_a_save(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    workdir = f"{bucket}/records"
    writer = MetricWriter(workdir, resume_step=0)
    writer.write({"loss": 1.0}, step=1, split="train")
    assert read_metrics(workdir) == []  # once a minute is enough
    writer.sync()
    assert [record["step"] for record in read_metrics(workdir)] == [1]
    writer.write({"loss": 1.0}, step=2, split="train")
    monkeypatch.setattr(mirror, "SECONDS", 0.0)
    writer.write({"loss": 1.0}, step=3, split="train")
    writer.close()
    assert [record["step"] for record in read_metrics(workdir)] == [1, 2, 3]
    again = MetricWriter(workdir, resume_step=2)
    again.write({"loss": 2.0}, step=3, split="train")
    again.close()
    assert [record["loss"] for record in read_metrics(workdir)] == [1.0, 1.0, 2.0]


def test_a_bucket_that_takes_nothing_more_ends_the_run_in_one_line(
    bucket: str, small_config: Config, small_data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("Forbidden, 403")

    monkeypatch.setattr(mirror.Mirror, "_copy", fail)
    with pytest.raises(StorageError, match=f"{bucket}/closed cannot be written to .*Forbidden, 403"):
        train(small_config, prepared=small_data, workdir=f"{bucket}/closed", reporter=Reporter())


def main_command(config: Path, *words: str) -> list[str]:
    code = f"{SHORT_LEASE}; from lacy_jax.doors import run; from lacy_jax.main import DOOR; run(DOOR)"
    return [sys.executable, "-c", code, f"--config={config}", *words]


def test_killed_while_saving_to_a_bucket_and_gone_on_with(
    bucket: str, small_config: Config, small_data: Prepared, small_run: Path, tmp_path: Path
) -> None:
    """The commands as a user runs them: data from a bucket, a run killed in a save, resumed, served, exported."""
    packed, workdir = f"{bucket}/all/data/packed/small-1/1.0.0", f"{bucket}/all/run"
    put(small_data.packed.directory, to=packed)
    config = tmp_path / "small.py"
    own = {name: value for name, value in config_to_dict(small_config).items() if name != "method"}
    config.write_text(
        "import json\nfrom lacy_jax.config import base_config\n\ndef get_config():\n    config = base_config()\n"
        f"    config.update(json.loads({json.dumps(own)!r}))\n    return config\n"
    )
    command = main_command(config, f"--workdir={workdir}", f"--config.data.packed={packed}")
    environment = {**os.environ, "LACY_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    first = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)

    def kill(name: str) -> None:
        if name.startswith("all/run/checkpoints/6/train/"):
            first.kill()

    with watching(kill):
        _, said = first.communicate()
    assert first.returncode == -9, said
    assert ".lock" in objects(workdir)
    assert find_checkpoint(workdir).name == "3"

    second = subprocess.run(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert second.returncode == 0, second.stderr
    assert "was claimed by process" in second.stderr
    assert "continuing from step 3" in second.stderr
    assert ".lock" not in objects(workdir)
    assert not any(".incomplete" in name for name in objects(workdir))
    assert records(workdir) == records(small_run)
    assert_same_model(workdir, small_run)
    assert absolute(f"{workdir}/report.html").exists()

    if bucket.startswith("gs:"):  # reading is the same code for both, and `test_a_run_in_a_bucket` reads from both
        served_and_exported(workdir, small_run, out=f"{bucket}/all/export", here=tmp_path)


def door(name: str, *words: str) -> str:
    """What a door prints, in a process of its own."""
    command = [sys.executable, "-m", f"lacy_jax.{name}", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def served_and_exported(workdir: str, small_run: Path, *, out: str, here: Path) -> None:
    door("export", f"--checkpoint={workdir}", f"--out={out}")
    door("export", f"--checkpoint={out}", f"--out={here}/export")
    assert_same_model(out, here / "export")
    asked = ("--partner=none", "--prompt=The", "--max_new_tokens=5")
    written = door("generate", f"--checkpoint={workdir}", *asked)
    assert written == door("generate", f"--checkpoint={small_run}", *asked)
    with serving(f"--checkpoint={workdir}", "--partner=none", XLA_FLAGS=xla_flags(devices=1)) as (_, url):
        body = {"prompt": "The", "max_tokens": 5, "temperature": 0}
        answer = httpx.post(f"{url}/v1/completions", json=body, timeout=300, trust_env=False).json()
    assert answer["choices"][0]["text"] in written
    assert not Path("gs:").exists()
    assert not Path("s3:").exists()
