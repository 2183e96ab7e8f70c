"""Checksums: the same as a slow one in NumPy on any mesh, and no changed bit of a checkpoint goes unnoticed."""

import dataclasses
import errno
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint._src.serialization import serialization

from lacy_jax.checkpoints.checksums import array_checksums, differing, is_genuine, signed
from lacy_jax.checkpoints.export import export
from lacy_jax.checkpoints.format import META_FILE, model_meta
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.config import Config, MeshConfig, ObjectiveConfig
from lacy_jax.console import Reporter
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import CheckpointError, DamagedError, LacyError, StorageError
from lacy_jax.model import decoder
from lacy_jax.runtime import sharding
from lacy_jax.training.checkpoints import Checkpoints
from lacy_jax.training.loop import train
from lacy_jax.training.state import init_state, new_state


def slow(array: np.ndarray) -> str:
    """The checksum by its definition, element by element in Python's own integers."""
    total = 0
    unsigned = array.astype(np.uint32) if array.dtype == np.bool_ else array.view(f"u{array.dtype.itemsize}")
    for index, element in enumerate(unsigned.reshape(-1).tolist()):
        x = (element + index * 0x9E3779B9) % 2**32
        x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
        x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
        total += x ^ x >> 16
    return f"{total % 2**32:08x}"


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16, np.int32, np.int8, np.bool_])
@pytest.mark.parametrize("shape", [(), (1,), (8, 6), (2, 3, 8)])
def test_the_checksum_is_that_of_its_definition(dtype: type, shape: tuple[int, ...]) -> None:
    array = (np.random.default_rng(0).normal(size=shape) * 50).astype(dtype)
    assert array_checksums({"a": {"b": jnp.asarray(array)}}) == {"a/b": slow(np.asarray(array).reshape(shape or (1,)))}


@pytest.mark.parametrize("spec", [("x", None), (None, "x"), (("x", "y"), None), ("y", "x"), (None, None)])
def test_it_does_not_depend_on_the_mesh(spec: tuple) -> None:
    array = np.random.default_rng(1).normal(size=(16, 8)).astype(np.float32)
    mesh = jax.make_mesh((2, 4), ("x", "y"))
    placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))
    assert array_checksums([placed]) == {"0": slow(array)}


def test_every_bit_counts_and_so_does_every_place() -> None:
    array = np.random.default_rng(2).normal(size=(3, 5)).astype(np.float32)
    own = array_checksums([array])
    found = set()
    for element in range(array.size):
        for bit in range(32):
            changed = array.copy()
            changed.reshape(-1).view(np.uint32)[element] ^= np.uint32(1 << bit)
            found.add(array_checksums([changed])["0"])
    assert len(found) == 15 * 32
    assert own["0"] not in found
    assert array_checksums([array[::-1].copy()]) != own
    assert array_checksums([np.zeros((2, 3), np.float32)]) != array_checksums([np.zeros((2, 2), np.float32)])


def test_differing_names_what_is_missing_on_either_side() -> None:
    assert differing({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "0", "d": "4"}) == ["b", "c", "d"]


def test_a_signature_holds_through_json_and_for_nothing_else() -> None:
    description = signed({"step": 3, "scores": (0.1, 1e-30), "name": "Ä", "sha256": "an old one"})
    read = json.loads(json.dumps(description))
    assert is_genuine(read)
    assert is_genuine(signed(read))
    assert is_genuine({"step": 4})  # never signed
    assert not is_genuine(read | {"step": 4})
    assert not is_genuine({name: value for name, value in read.items() if name != "name"})
    assert not is_genuine(read | {"sha256": None})


@pytest.fixture
def copy(small_run: Path, tmp_path: Path) -> Path:
    """A copy of the run of six steps, with checkpoints 3 and 6."""
    shutil.copytree(small_run, tmp_path / "run")
    return tmp_path / "run"


def damage_arrays(step: Path, item: str = "params") -> None:
    """Flips a bit in each sixteenth of the largest file of arrays: some of it is values that nothing refers to."""
    largest = max((step / item).rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    content = bytearray(largest.read_bytes())
    for part in range(16):
        content[(2 * part + 1) * len(content) // 32] ^= 1
    largest.write_bytes(content)


def cut_arrays(step: Path, item: str = "params") -> None:
    largest = max((step / item).rglob("*"), key=lambda file: file.stat().st_size if file.is_file() else 0)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


@pytest.mark.parametrize("damage", [damage_arrays, pytest.param(cut_arrays, marks=pytest.mark.slow)])
def test_every_reader_passes_a_damaged_newest_step_over_in_one_line(
    copy: Path,
    small_config: Config,
    small_data: Prepared,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
) -> None:
    newest = copy / "checkpoints" / "6"
    before = load_model(str(copy))
    damage(newest)

    def said() -> list[str]:
        lines = [record.getMessage() for record in caplog.records if "not whole" in record.getMessage()]
        caplog.clear()
        return lines

    assert load_model(str(copy)).step == 3
    (line,) = said()
    assert line.startswith(f"{newest} is not whole (params is damaged: ")
    assert line.endswith("): step 3 is used")
    assert "\n" not in line
    assert "(step 3)" in export(str(copy), out=str(tmp_path / "out"))
    assert len(said()) == 1
    rho = dataclasses.replace(small_config, objective=ObjectiveConfig(rule="excess_loss", reference=str(copy)))
    train(rho, prepared=small_data, workdir=str(tmp_path / "rho"), reporter=Reporter(quiet=True))
    assert len(said()) == 1
    with pytest.raises(DamagedError, match="params is damaged") as named:
        load_model(str(newest))
    assert "\n" not in str(named.value)
    assert train(small_config, prepared=small_data, workdir=str(copy), reporter=Reporter(quiet=True)).step == 6
    assert len(said()) == 1
    assert (copy / "checkpoints" / "6.incomplete").is_dir()
    after = load_model(str(copy))
    assert after.step == 6
    for left, right in zip(jax.tree.leaves(after.params), jax.tree.leaves(before.params), strict=True):
        np.testing.assert_array_equal(left, right)
    assert "Traceback" not in capfd.readouterr().err


def test_a_damaged_optimizer_stops_a_resume_but_no_reader(
    copy: Path, small_config: Config, small_data: Prepared, caplog: pytest.LogCaptureFixture
) -> None:
    folder = epath.Path(copy / "checkpoints" / "6" / "train")
    with ocp.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore(folder)
        changed = jax.tree.map(lambda array: -np.asarray(array), arrays["optimizer"])
        checkpointer.save(folder, arrays | {"optimizer": changed}, force=True)
    assert load_model(str(copy)).step == 6
    caplog.clear()  # Orbax warns of sharding that it was not given
    train(small_config, prepared=small_data, workdir=str(copy), reporter=Reporter(quiet=True))
    assert "(train is damaged: optimizer/" in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    ("cause", "raised", "says"),
    [
        (ValueError("UNAVAILABLE: CURL error: Could not resolve host"), StorageError, "cannot be read .*UNAVAILABLE"),
        (ValueError("PERMISSION_DENIED: Error opening file"), StorageError, "cannot be read .*PERMISSION_DENIED"),
        (ValueError("UNKNOWN: Input/output error [os_error_code='5']"), StorageError, "cannot be read .*Input/output"),
        (ValueError("FAILED_PRECONDITION: Transport endpoint is not connected"), StorageError, "cannot be read"),
        (OSError(5, "Input/output error"), StorageError, "cannot be read .*Input/output"),
        (ValueError("DATA_LOSS: Error decoding chunk"), DamagedError, "params is damaged: .*DATA_LOSS"),
        (MemoryError(), MemoryError, "^$"),
        (KeyboardInterrupt(), KeyboardInterrupt, "^$"),
    ],
    ids=["unavailable", "permission", "disk", "gone", "system", "damaged", "memory", "interrupted"],
)
def test_only_damage_sets_a_step_aside(
    copy: Path,
    small_config: Config,
    small_data: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    cause: BaseException,
    raised: type[BaseException],
    says: str,
) -> None:
    """Orbax raises its own error for whatever happens to a read. A bucket out of reach is no damage."""

    async def fails(**_: object) -> None:
        raise cause

    monkeypatch.setattr(serialization, "_read_shard", fails)
    with pytest.raises(raised, match=says) as error:
        load_model(str(copy / "checkpoints" / "6"))
    assert type(error.value) is raised
    with pytest.raises((raised, CheckpointError)):  # where every step is damaged, none is left
        train(small_config, prepared=small_data, workdir=str(copy), reporter=Reporter(quiet=True))
    assert (copy / "checkpoints" / "6.incomplete").exists() == (raised is DamagedError)


@pytest.mark.parametrize("which", ["checkpoints", "6", "meta/metadata", "6/params"])
def test_a_disk_that_does_not_answer_is_no_damage(
    copy: Path, small_config: Config, small_data: Prepared, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Without its folders a run would begin anew; without its newest step it would go on from an older one."""
    exists, listdir, read = os.path.exists, os.listdir, type(epath.Path(copy)).read_bytes

    def asked(path: object) -> bool:
        return str(path).endswith(f"/{which}")

    def fails_at(work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def called(path: Any = ".") -> Any:
            if asked(path):
                raise OSError(errno.EIO, "Input/output error")
            return work(path)

        return called

    monkeypatch.setattr(os.path, "exists", lambda path: not asked(path) and exists(path))
    monkeypatch.setattr(os, "listdir", fails_at(listdir))
    monkeypatch.setattr(type(epath.Path(copy)), "read_bytes", fails_at(read))
    with pytest.raises(StorageError, match=rf"{which} cannot be read .*Input/output error"):
        train(small_config, prepared=small_data, workdir=str(copy), reporter=Reporter(quiet=True))
    monkeypatch.undo()
    assert {child.name for child in (copy / "checkpoints").iterdir()} == {"3", "6"}


def test_orbax_too_must_have_found_the_newest_step(
    copy: Path, small_config: Config, small_data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks `is_dir` of every step, which says no where a disk does not answer."""
    monkeypatch.setattr(ocp.CheckpointManager, "all_steps", lambda *_, **__: [3])
    with pytest.raises(StorageError, match="step 6 is there, and cannot be read now"):
        train(small_config, prepared=small_data, workdir=str(copy), reporter=Reporter(quiet=True))
    assert (copy / "checkpoints" / "6").is_dir()


def test_a_model_s_size_is_not_guessed_where_its_folder_cannot_be_listed(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that a disk does not list are no missing bytes: a step would be passed over as damaged."""
    scandir = os.scandir

    def fails(path: Any = ".") -> Any:
        if str(path).endswith("6/params"):
            raise OSError(errno.ESTALE, "Stale file handle")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fails)
    with pytest.raises(StorageError, match=r"6/params cannot be read .*Stale"):
        load_model(str(copy))


def test_no_step_that_can_be_read_is_one_line(copy: Path, small_config: Config, small_data: Prepared) -> None:
    for step in ("3", "6"):
        damage_arrays(copy / "checkpoints" / step)
    with pytest.raises(CheckpointError, match=r"no finished checkpoint \(6: params is damaged") as error:
        load_model(str(copy))
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match=r"3 is not whole \(params is damaged.*, and no older step is"):
        train(small_config, prepared=small_data, workdir=str(copy), reporter=Reporter(quiet=True))
    assert (copy / "checkpoints" / "3").is_dir()
    assert (copy / "checkpoints" / "6.incomplete").is_dir()


def test_another_tokenizer_than_that_of_the_data_is_damage(copy: Path) -> None:
    """What was saved without checksums still holds the hash of its tokenizer."""
    for step in ("3", "6"):
        path = copy / "checkpoints" / step / META_FILE
        meta = json.loads(path.read_text())
        del meta["sha256"]
        meta["data"]["tokenizer"] = "0" * 64
        path.write_text(json.dumps(meta))
    with pytest.raises(CheckpointError, match="its tokenizer is not the one that its data was prepared with"):
        load_model(str(copy / "checkpoints" / "6"))


def test_without_checksums_nothing_is_compared(
    small_config: Config, small_data: Prepared, small_run: Path, tmp_path: Path
) -> None:
    training = dataclasses.replace(small_config.training, checksums=False)
    config = dataclasses.replace(small_config, training=training)
    train(config, prepared=small_data, workdir=str(tmp_path / "run"), reporter=Reporter(quiet=True))
    meta = json.loads((tmp_path / "run" / "checkpoints" / "6" / META_FILE).read_text())
    assert "checksums" not in meta
    assert "sha256" not in meta
    pairs = [jax.tree.leaves(load_model(str(path)).params) for path in (tmp_path / "run", small_run)]
    assert all((left == right).all() for left, right in zip(*pairs, strict=True))


def test_flips_anywhere_in_an_export_are_refused_or_have_no_effect(copy: Path, tmp_path: Path) -> None:
    """30 of them; `python -m benchmarks.faults` does thousands."""
    source, target = tmp_path / "whole", tmp_path / "flipped"
    export(str(copy), out=str(source))
    whole = load_model(str(source))
    rng = random.Random(0)
    files = sorted(file.relative_to(source) for file in source.rglob("*") if file.is_file() and file.stat().st_size)
    refused = 0
    for _ in range(30):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        file = target / rng.choice(files)
        content = bytearray(file.read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        try:
            found = load_model(str(target))
        except LacyError:
            refused += 1
            continue
        assert array_checksums(found.params) == array_checksums(whole.params)
        assert (found.config, found.tokenizer.fingerprint) == (whole.config, whole.tokenizer.fingerprint)
        assert found.call_scores == whole.call_scores
    assert refused > 5


def test_a_save_compiles_nothing_for_arrays_that_all_devices_hold(
    small_config: Config, small_data: Prepared, tmp_path: Path
) -> None:
    training = dataclasses.replace(small_config.training, checksums=False)  # they are a program, one for all arrays
    config = dataclasses.replace(small_config, training=training)
    vocab = decoder.padded_vocab(small_data.tokenizer.vocab_size)
    mesh = sharding.make_mesh(MeshConfig(), batch_size=8)
    meta = model_meta(config, tokenizer=small_data.tokenizer, step=1, data=small_data.fingerprint)
    compiled: list[str] = []

    def listen(event: str, _seconds: float, **_: object) -> None:
        compiled.extend([event] if "backend_compile" in event else [])

    with jax.set_mesh(mesh):
        state = jax.block_until_ready(new_state(config, vocab=vocab, mesh=mesh))
        assert all(leaf.is_fully_replicated for leaf in jax.tree.leaves(state))
        checkpoints = Checkpoints(str(tmp_path), config)
        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            checkpoints.save(state, step=1, meta=meta)
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
        checkpoints.close()
    assert compiled == []
    assert array_checksums(load_model(str(tmp_path)).params) == array_checksums(jax.device_get(state.params))


def test_a_save_is_read_back(small_config: Config, small_data: Prepared, tmp_path: Path) -> None:
    """Not the arrays: that their files are there, and that the description is the one that was written."""
    vocab = decoder.padded_vocab(small_data.tokenizer.vocab_size)
    meta = model_meta(small_config, tokenizer=small_data.tokenizer, step=1, data=small_data.fingerprint)
    checkpoints = Checkpoints(str(tmp_path), small_config)
    checkpoints.save(init_state(small_config, vocab=vocab), step=1, meta=meta)
    checkpoints._manager.wait_until_finished()
    change = (tmp_path / "checkpoints" / "1" / META_FILE).read_text().replace('"step": 1', '"step": 2')
    (tmp_path / "checkpoints" / "1" / META_FILE).write_text(change)
    with pytest.raises(
        CheckpointError, match=r"was saved, and is not whole when it is read back \(meta/metadata is damaged"
    ):
        checkpoints.close()
