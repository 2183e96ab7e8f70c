"""A run in s3:// makes its checkpoints here and copies them there: what is kept, copied, removed, and when."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lacy_jax import folders
from lacy_jax.checkpoints.format import find_checkpoint
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.config import Config
from lacy_jax.console import Reporter
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import StorageError
from lacy_jax.paths import absolute
from lacy_jax.training import loop
from lacy_jax.training.loop import train
from tests.bucket_files import cut_arrays, objects
from tests.buckets import watching
from tests.s3 import emulated
from tests.training.test_numbers import change

pytestmark = pytest.mark.slow  # a server that stands in for the cloud


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with emulated("s3") as address:
        yield address


def steps(workdir: str) -> list[str]:
    return sorted(child.name for child in (absolute(workdir) / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("settings", "values", "expected"),
    [
        ({"keep_checkpoints": 2, "keep_every": 3}, [5, 4, 3, 2, 1, 6], ["3", "5", "6"]),
        ({"keep_checkpoints": 1, "keep_best": "loss"}, [5, 1, 3, 2, 4, 6], ["2", "6"]),
        ({"keep_checkpoints": 1, "keep_best": "loss"}, [math.nan, 7, 8, math.nan, 9, math.inf], ["2", "6"]),
    ],
    ids=range(3),
)
def test_another_machine_keeps_what_this_one_would(
    bucket: str,
    small_config: Config,
    small_data: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    settings: dict[str, Any],
    values: list[float],
    expected: list[str],
) -> None:
    workdir, waiting = f"{bucket}/kept/{request.node.callspec.id}", iter(values)
    monkeypatch.setattr(loop, "validation_record", lambda *_, **__: {"loss": float(next(waiting))})
    for limit in (4, 6):
        monkeypatch.setenv("LACY_CACHE", str(tmp_path / f"machine{limit}"))
        config = change(small_config, steps=limit, checkpoint_every=1, evaluate_every=1, **settings)
        train(config, prepared=small_data, workdir=workdir, reporter=Reporter(quiet=True))
    assert steps(workdir) == expected
    assert load_model(workdir).step == 6
    (here,) = (tmp_path / "machine6" / "runs").glob("*/checkpoints")
    assert sorted(path.name for path in here.iterdir()) == expected
    assert [(here / name / "params").exists() for name in expected[:1]] == [False]  # never needed there


def test_an_emptied_cache_folder_costs_no_step_there(
    bucket: str, small_config: Config, small_data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is gone here was removed by Orbax, or by somebody who tidies up."""
    monkeypatch.setenv("LACY_CACHE", str(tmp_path))
    validated = []

    def tidy(*_: object, **__: object) -> dict[str, float]:
        validated.append(1)
        if len(validated) == 5:
            (here,) = (tmp_path / "runs").glob("*/checkpoints/3")
            shutil.rmtree(here)
        return {"loss": 1.0}

    monkeypatch.setattr(loop, "validation_record", tidy)
    config = change(small_config, steps=6, checkpoint_every=1, evaluate_every=1, keep_checkpoints=1, keep_every=3)
    train(config, prepared=small_data, workdir=f"{bucket}/tidied", reporter=Reporter(quiet=True))
    assert steps(f"{bucket}/tidied") == ["3", "6"]


def test_a_machine_that_has_a_step_copies_nothing(
    bucket: str, small_config: Config, small_data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LACY_CACHE", str(tmp_path))
    workdir, fetched, original = f"{bucket}/same", list[str](), folders._fetch

    def fetch(files: Any, source: str, *, into: Path) -> int:
        fetched.append(source)
        return original(files, source, into=into)

    monkeypatch.setattr(folders, "_fetch", fetch)
    for _ in range(2):
        assert train(small_config, prepared=small_data, workdir=workdir, reporter=Reporter(quiet=True)).step == 6
    assert not fetched
    (here,) = (tmp_path / "runs").glob("*/checkpoints/6/train")
    sound = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    cut_arrays(str(here))
    assert train(small_config, prepared=small_data, workdir=workdir, reporter=Reporter(quiet=True)).step == 6
    assert fetched
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == sound
    assert steps(workdir) == ["3", "6"]


def test_an_older_step_is_removed_there_when_the_newer_one_is_whole(
    bucket: str, small_config: Config, small_data: Prepared
) -> None:
    workdir, found = f"{bucket}/order", list[str]()

    def look(name: str) -> None:
        if name == "order/checkpoints/6/commit_success.txt":
            found.append(find_checkpoint(workdir).name)
            found.extend(objects(f"{workdir}/checkpoints/6"))

    config = change(small_config, keep_checkpoints=1)
    with watching(look):
        train(config, prepared=small_data, workdir=workdir, reporter=Reporter(quiet=True))
    assert found[0] == "3"
    assert sorted([*found[1:], "commit_success.txt"]) == sorted(objects(f"{workdir}/checkpoints/6"))
    assert steps(workdir) == ["6"]


def test_a_step_that_cannot_be_copied_ends_the_run_in_one_line(
    bucket: str, small_config: Config, small_data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = folders._send

    def send(files: Any, source: Path, *, to: str) -> None:
        if "/checkpoints/6/train/" in to:
            raise PermissionError("Access Denied")
        original(files, source, to=to)

    monkeypatch.setattr(folders, "_send", send)
    with pytest.raises(StorageError) as error:
        train(small_config, prepared=small_data, workdir=f"{bucket}/denied", reporter=Reporter(quiet=True))
    assert str(error.value) == (
        "s3://runs/denied/checkpoints: a checkpoint cannot be written ([Errno 5] PermissionError: Access Denied); "
        "step 3 is whole"
    )
    monkeypatch.undo()
    assert find_checkpoint(f"{bucket}/denied").name == "3"
