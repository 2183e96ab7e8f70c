"""Prepared data that was changed or cut after it was made: refused in one line at the door, or when it is read."""

import dataclasses
import errno
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from etils import epath
from tensorflow_datasets.core.data_sources.array_record import ArrayRecordDataSource

from lacy_jax.config import Config
from lacy_jax.data.checksums import CHECKSUMS_FILE
from lacy_jax.data.files import HASHES_FILE, file_sha256, remembered_hashes
from lacy_jax.data.prepare import prepare
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import DataError, LacyError, StorageError


@pytest.fixture
def copied(small_config: Config, small_data: Prepared, tmp_path: Path) -> Config:
    """The settings of a copy of the session's prepared data, which has exactly one dataset of each kind."""
    root = Path(small_config.data.directory)
    packed, annotated = small_data.packed.directory.parent, small_data.annotated_directory.parent
    for folder in (packed, annotated):
        shutil.copytree(folder, tmp_path / "data" / folder.relative_to(root))
    shutil.copytree(root / "tokenizer", tmp_path / "data" / "tokenizer")
    return dataclasses.replace(
        small_config, data=dataclasses.replace(small_config.data, directory=str(tmp_path / "data"))
    )


def content(prepared: Prepared) -> list[Any]:
    """All that a run reads, as plain values."""
    windows = [
        (record["tokens"].tolist(), record["factual"].tolist(), record["length"])
        for split in (prepared.train, prepared.validation)
        for record in (split[index] for index in range(len(split)))
    ]
    spans = [(document, marks.starts.tolist(), marks.kinds) for document, marks in prepared.validation_documents()]
    about = [prepared.fingerprint, prepared.packed.statistics, prepared.tokenizer.fingerprint]
    return [*windows, *about, *prepared.documents(), *spans]


def test_flips_and_cuts_are_refused_or_have_no_effect(copied: Config, tmp_path: Path) -> None:
    """60 of them; `python -m benchmarks.faults` does thousands."""
    whole, source, target = content(prepare(copied)), tmp_path / "data", tmp_path / "damaged"
    config = dataclasses.replace(copied, data=dataclasses.replace(copied.data, directory=str(target)))
    rng, said = random.Random(0), list[str]()
    files = sorted(file.relative_to(source) for file in source.rglob("*") if file.is_file() and file.stat().st_size)
    for number in range(60):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        file = target / files[number % len(files)]
        damaged = bytearray(file.read_bytes())
        place = rng.randrange(len(damaged))
        damaged[place] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged[:place] if number % 5 == 4 else damaged)
        try:
            found = content(prepare(config))
        except LacyError as error:
            said.append(str(error))
            continue
        assert found == whole
    assert len(said) > 30
    assert not [line for line in said if "\n" in line]


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def change(name: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (change("metadata.json", '"windows": ', '"windows": 1'), r"metadata.json is damaged: expected \{'size'"),
        (change("dataset_info.json", '"shardLengths"', '"shardlengths"'), "dataset_info.json is damaged"),
        (without("features.json"), "features.json is damaged: .* found no file"),
        (without("tokenizer.model"), "tokenizer.model is damaged: .* found no file"),
        (change(CHECKSUMS_FILE, '"size"', '"rize"'), "is damaged: expected"),
        (change(CHECKSUMS_FILE, "{", "["), "checksums.json is damaged"),
        (change(CHECKSUMS_FILE, '"metadata', '"../../metadata'), "checksums.json is damaged"),
    ],
)
def test_a_changed_file_is_named(copied: Config, edit: Callable[[Path], None], words: str) -> None:
    edit(prepare(copied).packed.directory)
    with pytest.raises(DataError, match=words) as error:
        prepare(copied)
    assert "delete" in str(error.value)


@pytest.mark.parametrize("name", [CHECKSUMS_FILE, "metadata.json", "tokenizer.model", "a record"])
def test_a_disk_that_does_not_answer_is_no_reason_to_delete(
    copied: Config, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    read = type(epath.Path("/")).read_bytes

    def fails(path: Any) -> bytes:
        if path.name == name:
            raise OSError(errno.ESTALE, "Stale file handle")
        return read(path)

    def lost(*_: object) -> None:
        raise RuntimeError("UNKNOWN: pread() failed: Input/output error [EIO 5]; reading a file")

    monkeypatch.setattr(type(epath.Path("/")), "read_bytes", fails)
    monkeypatch.setattr(ArrayRecordDataSource, "__getitem__", lost)
    with pytest.raises(StorageError, match="cannot be read") as error:
        content(prepare(copied))
    monkeypatch.undo()
    assert "delete" not in str(error.value)
    content(prepare(copied))


def test_what_says_nothing_of_a_tokenizer_is_named(copied: Config) -> None:
    (about,) = Path(copied.data.directory).glob("tokenizer/*/fingerprint.json")
    for written in ("", "[]", "[" * 10**5, '{"sha256": 1'):
        about.write_text(written)
        with pytest.raises(DataError, match=r"fingerprint\.json is damaged .*delete"):
            prepare(copied)


def test_data_of_an_older_lacy_jax_has_no_checksums_and_is_read(copied: Config) -> None:
    prepared = prepare(copied)
    whole = content(prepared)
    for folder in (prepared.packed.directory, prepared.annotated_directory):
        (folder / CHECKSUMS_FILE).unlink()
    for about in Path(copied.data.directory).glob("tokenizer/*/fingerprint.json"):
        entries = json.loads(about.read_text())
        del entries["sha256"]
        about.write_text(json.dumps(entries))
    assert content(prepare(copied)) == whole


def test_a_changed_hash_in_memory_is_not_believed(tmp_path: Path) -> None:
    file = tmp_path / "text.jsonl"
    file.write_text("{}\n")
    with remembered_hashes(tmp_path):
        digest = file_sha256(file)
    memory = tmp_path / HASHES_FILE
    assert digest in memory.read_text()
    memory.write_text(memory.read_text().replace(digest[:8], "00000000"))
    with remembered_hashes(tmp_path):
        assert file_sha256(file) == digest
