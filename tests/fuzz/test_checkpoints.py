"""Folders of somebody else's: a Hugging Face folder and a checkpoint load, or are refused in one line."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lacy_jax.checkpoints.format import META_FILE, read_config, read_meta, read_tokenizer
from lacy_jax.checkpoints.gguf_file import _GPT2_SETTINGS, _LLAMA_SETTINGS
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.data.hf_tokenizer import HfTokenizer
from lacy_jax.errors import CheckpointError, DataError
from tests.checkpoints.test_gguf import write_gguf
from tests.fuzz.values import as_json, changed_bytes, changed_json, fuzz, odd, refused
from tests.hf_folders import control_ids, random_tensors, settings_of, tokenizer_json, write_folder

GGUF_STYLES = ("gpt2", "llama3")
STYLES = ("gpt2", "llama3", "llama2")


def one_line() -> contextlib.AbstractContextManager[None]:
    """Nothing is raised but what a door ends with in one line."""
    return refused(CheckpointError, DataError)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {style: write_folder(tmp_path_factory.mktemp(style), style) for style in STYLES}


@contextlib.contextmanager
def changed(folder: Path, name: str, content: bytes) -> Iterator[None]:
    """A file of a folder has other content for a while."""
    path = folder / name
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(content)
    try:
        yield
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)


@fuzz
@given(st.data())
def test_config_json(folders: dict[str, Path], data: st.DataObject) -> None:
    style = data.draw(st.sampled_from(STYLES))
    content = data.draw(changed_json(settings_of(style)))
    with changed(folders[style], "config.json", content.encode()), one_line():
        load_model(str(folders[style]))


@fuzz
@given(st.data())
def test_the_header_of_safetensors(folders: dict[str, Path], data: st.DataObject) -> None:
    style = data.draw(st.sampled_from(STYLES))
    file = (folders[style] / "model.safetensors").read_bytes()
    size = int.from_bytes(file[:8], "little")
    header, tensors = file[8 : 8 + size], file[8 + size :]
    header = data.draw(changed_json(json.loads(header)).map(str.encode) | changed_bytes(header))
    length = data.draw(st.just(len(header)) | st.sampled_from([0, 1, 10**8, 10**9, 2**63, 2**64 - 1]))
    content = length.to_bytes(8, "little") + header + tensors
    with changed(folders[style], "model.safetensors", content), one_line():
        load_model(str(folders[style]))


@fuzz
@given(st.data())
def test_the_index_of_shards(folders: dict[str, Path], data: st.DataObject) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": {"wte.weight": "a.safetensors", "h": "b.safetensors"}}
    hidden = folders["gpt2"] / "model.safetensors"
    content = data.draw(changed_json(index)).encode()
    moved = hidden.rename(hidden.with_name("a.safetensors"))
    try:
        with changed(folders["gpt2"], "model.safetensors.index.json", content), one_line():
            load_model(str(folders["gpt2"]))
    finally:
        moved.rename(hidden)


@fuzz
@given(st.data())
def test_tokenizer_json(data: st.DataObject) -> None:
    style = data.draw(st.sampled_from(STYLES))
    good = json.loads(tokenizer_json(style))
    part = data.draw(st.sampled_from([None, *good]))
    if part is None:
        definition = data.draw(changed_json(good))
    else:  # most of it is vocabulary: its other parts would hardly ever be met
        definition = as_json(good).replace(as_json(good[part]), data.draw(changed_json(good[part])), 1)
    start, end = control_ids(style)
    with one_line():
        tokenizer = HfTokenizer(definition, start_id=start, end_id=end)
        for text in ("Albert Einstein was born in 1879.", "", "a\u0301 日本 😀 </s> <0x41>"):
            tokenizer.decode_bytes(tokenizer.encode(text).ids.tolist())


@fuzz
@given(st.data())
def test_where_texts_begin_and_end(folders: dict[str, Path], data: st.DataObject) -> None:
    names = ("generation_config.json", "tokenizer_config.json")
    content = {"eos_token_id": [1, 2], "bos_token_id": 1, "eos_token": {"content": "</s>"}, "bos_token": "<s>"}
    settings = settings_of("llama2") | data.draw(st.dictionaries(st.sampled_from(list(content)), odd))
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(changed(folders["llama2"], name, data.draw(changed_json(content)).encode()))
        stack.enter_context(changed(folders["llama2"], "config.json", as_json(settings).encode()))
        with one_line():
            HfTokenizer.from_folder(folders["llama2"])


@pytest.fixture(scope="module")
def gguf_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("gguf")
    made = {}
    for style in GGUF_STYLES:
        settings = settings_of(style) | {"rope_scaling": None}
        made[style] = write_gguf(folder / f"{style}.gguf", style, settings, random_tensors(settings))
    return made


@fuzz
@given(st.data())
def test_the_bytes_of_a_gguf_file(
    gguf_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Its head, which is nearly all that its readers trust, is changed more than the tensors after it."""
    whole = gguf_files[data.draw(st.sampled_from(GGUF_STYLES))].read_bytes()
    size = data.draw(st.sampled_from([64, 400, 2_000, 20_000]))
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    path.write_bytes(data.draw(changed_bytes(whole[:size])) + whole[size:])
    with one_line():
        load_model(str(path))


@fuzz
@given(st.data())
def test_the_metadata_of_a_gguf_file(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    style = data.draw(st.sampled_from(GGUF_STYLES))
    settings = settings_of(style) | {"rope_scaling": None}
    kind = settings["model_type"]
    keys = [f"{kind}.{key}" for key in (*_LLAMA_SETTINGS.values(), *_GPT2_SETTINGS.values())]
    keys += [f"tokenizer.ggml.{key}" for key in ("model", "pre", "tokens", "merges", "scores", "token_type",
             "eos_token_id", "bos_token_id", "unknown_token_id", "add_bos_token", "add_space_prefix")]  # fmt: skip
    keys += [f"{kind}.rope.scaling.type", f"{kind}.rope.scaling.factor"]
    values = (
        st.none()
        | st.booleans()
        | st.integers(0, 2**32 - 1)
        | st.floats(width=32)
        | st.sampled_from(["", "x", "gpt2", "llama", [1], [0.5], ["a"], [""], [True], 10**9, 0, 1])
    )
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    changes = data.draw(st.dictionaries(st.sampled_from(keys), values, min_size=1, max_size=3))
    try:
        write_gguf(path, style, settings, random_tensors(settings), **changes)
    except Exception:  # the library does not write it
        assume(False)
    with one_line():
        load_model(str(path))


@pytest.fixture(scope="module")
def own(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step's folder, without the signature of its description."""
    folder = tmp_path_factory.mktemp("own") / "6"
    shutil.copytree(small_run / "checkpoints" / "6", folder)
    path = folder / META_FILE
    path.write_text(
        json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "sha256"})
    )
    return folder


@fuzz
@given(st.data())
def test_the_description_of_a_checkpoint(own: Path, data: st.DataObject) -> None:
    good: dict[str, Any] = json.loads((own / META_FILE).read_text())
    content = data.draw(changed_json(good))
    with changed(own, META_FILE, content.encode()), one_line():
        load_model(str(own))


@fuzz
@given(st.data())
def test_the_bytes_of_a_description(own: Path, data: st.DataObject) -> None:
    from etils import epath

    folder = epath.Path(own)
    content = data.draw(changed_bytes((own / META_FILE).read_bytes()))
    with changed(own, META_FILE, content), one_line():
        meta = read_meta(folder)
        read_config(meta, folder=folder)
        read_tokenizer(meta, folder=folder)
