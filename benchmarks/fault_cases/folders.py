"""Folders from somebody else that were made to do harm: sizes that fill the memory, partners and files of theirs."""

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.fault_cases.common import Outcome, Row, Scene, Sizes
from lacy_jax.checkpoints.checksums import signed

META = Path("meta") / "metadata"
Edit = Callable[[dict[str, Any]], Any]

# What is written into the description of an export, with a signature that fits.
OURS: dict[str, Edit] = {
    "a server as partner": lambda meta: meta["config"]["cascade"].update(partner="http://127.0.0.1:9/v1"),
    "a file as partner": lambda meta: meta["config"]["cascade"].update(partner="documents:/etc/passwd"),
    "a corpus elsewhere": lambda meta: [
        meta["config"]["cascade"].update(partner="documents"),
        meta["config"]["corpus"].update(name="jsonl", files="/etc/passwd"),
    ],
    "10**9 layers": lambda meta: meta["config"]["model"].update(layers=10**9),
    "a width of 10**12": lambda meta: meta["config"]["model"].update(width=10**12),
    "a context of 10**15": lambda meta: meta["config"]["model"].update(context=10**15),
    "an unknown setting": lambda meta: meta["config"].update(code="import os"),
    "a format of the future": lambda meta: meta.update(format=10**9),
    "a step that is none": lambda meta: meta.update(step=[]),
    "no tokenizer": lambda meta: meta.update(tokenizer="AAAA"),
    "scores that are none": lambda meta: meta.update(call_scores=[{}]),
}
# config.json of a Hugging Face folder; the weights say nothing, or what they like.
_GPT2 = {
    "model_type": "gpt2",
    "n_layer": 1,
    "n_embd": 8,
    "n_head": 1,
    "n_positions": 16,
    "vocab_size": 1,
    "eos_token_id": 0,
}
THEIRS: dict[str, str] = {
    "n_layer 10**9": json.dumps(_GPT2 | {"n_layer": 10**9}),
    "n_inner 10**12": json.dumps(_GPT2 | {"n_inner": 10**12}),
    "vocab_size 10**15": json.dumps(_GPT2 | {"vocab_size": 10**15}),
    "a number of 5,000 digits": json.dumps(_GPT2)[:-1] + f', "n_ctx": {"9" * 5000}}}',
    "deep JSON": '{"a":' * 100_000,
    "a model_type of a package": json.dumps(_GPT2 | {"model_type": "os:system"}),
}
_LARGE = {"wte.weight": {"dtype": "F32", "shape": [10**9, 10**6], "data_offsets": [0, 4 * 10**15]}}
WEIGHTS: dict[str, bytes] = {
    "no header": b"",
    "a header of 2**60 bytes": struct.pack("<Q", 2**60),
    "tensors beyond the file": struct.pack("<Q", len(json.dumps(_LARGE))) + json.dumps(_LARGE).encode(),
}


def hostile(scene: Scene, sizes: Sizes) -> Iterator[Row]:
    """Each is given to `generate`, which refuses it in one line within minutes."""
    outcomes = [_given(scene, folder) for folder in _folders(scene, most=sizes.doors * 3)]
    yield Row("hostile folder", outcomes)


def _given(scene: Scene, folder: Path) -> Outcome:
    ended = scene.door("generate", f"--checkpoint={folder}", "--prompt=Who?", "--max_new_tokens=2")
    shutil.rmtree(folder)
    return "clear" if ended.refused else "silent" if not ended.status else "traceback"


def _folders(scene: Scene, *, most: int) -> Iterator[Path]:
    folder = scene.folder / "hostile"
    makers = [
        *(partial(_edited, folder, source=scene.export, edit=edit) for edit in OURS.values()),
        *(partial(_hugging_face, folder, config=each, weights=WEIGHTS["no header"]) for each in THEIRS.values()),
        *(partial(_hugging_face, folder, config=json.dumps(_GPT2), weights=each) for each in WEIGHTS.values()),
        partial(_hugging_face, folder, config=json.dumps(_GPT2), weights=b"", token_id=5 * 10**8),
    ]
    for make in makers[:most]:
        make()
        yield folder


def _edited(folder: Path, *, source: Path, edit: Edit) -> None:
    shutil.copytree(source, folder)
    meta = json.loads((folder / META).read_text())
    edit(meta)
    (folder / META).write_text(json.dumps(signed(meta)))


def _hugging_face(folder: Path, *, config: str, weights: bytes, token_id: int = 0) -> None:
    model = {"type": "BPE", "vocab": {"a": token_id}, "merges": []}
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    tokenizer = {"version": "1.0", "added_tokens": [], "decoder": decoder, "model": model}
    folder.mkdir()
    (folder / "config.json").write_text(config)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "model.safetensors").write_bytes(weights)
