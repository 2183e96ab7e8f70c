"""Prepared data of somebody else's: its description is read, or refused in one line."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lacy_jax.data.checksums import CHECKSUMS_FILE
from lacy_jax.data.loader import window_batch
from lacy_jax.data.pack import open_packed
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import DataError
from tests.fuzz.values import changed_bytes, changed_json, fuzz, refused

FILES = ("dataset_info.json", "features.json", "metadata.json", "tokenizer.model", CHECKSUMS_FILE)


@pytest.fixture(scope="module")
def folder(small_data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed dataset."""
    to = tmp_path_factory.mktemp("packed") / "1.0.0"
    shutil.copytree(small_data.packed.directory, to)
    return to


@fuzz
@given(st.data())
def test_what_describes_prepared_data(folder: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([each for each in FILES if (folder / each).exists()]))
    path = folder / name
    before, sums = path.read_bytes(), (folder / CHECKSUMS_FILE).read_bytes()
    changes = changed_bytes(before)
    if name.endswith(".json"):
        changes |= changed_json(json.loads(before)).map(str.encode)
    after = data.draw(changes)
    try:
        if name != CHECKSUMS_FILE:  # who changes one, changes the other
            (folder / CHECKSUMS_FILE).unlink()
        path.write_bytes(after)
        with refused(DataError):
            packed = open_packed(folder)
            window_batch(packed.train, 0, batch_size=2)
    finally:
        path.write_bytes(before)
        (folder / CHECKSUMS_FILE).write_bytes(sums)
