"""A GGUF file of a model, by llama.cpp's own writer: the reverse of checkpoints/gguf_file.py, whose names it takes."""

import dataclasses
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from lacy_jax.checkpoints.exports import ExportDtype
from lacy_jax.checkpoints.exports.gguf_tokens import tokenizer_keys
from lacy_jax.checkpoints.exports.layout import Outgoing, outgoing, settings_of, tensors_of
from lacy_jax.checkpoints.exports.tokenizer_json import check_ids
from lacy_jax.checkpoints.gguf_file import ARCHITECTURES, PREFIXES, ROPE_FACTORS, GgufFile, halves_together
from lacy_jax.checkpoints.gguf_tokenizer import read_tokenizer
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import ModelConfig
from lacy_jax.model.attention import rope_frequencies

_KINDS = {
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}
_ALWAYS_FLOAT32 = "position_embd.weight"  # and whatever has one axis, as llama.cpp's own converter has it
_GPT2_KERNELS = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def write_gguf_file(path: Path, loaded: LoadedModel, *, dtype: ExportDtype) -> None:
    """Writes the model as `path`, and reads its tokenizer again.

    Raises:
        CheckpointError: the model cannot be written so.
    """
    model = outgoing(loaded)
    settings = settings_of(model)
    kind = settings["model_type"]
    keys = tokenizer_keys(model)
    tensors = dict(_tensors(model, dtype=dtype))
    writer = gguf.GGUFWriter(path, kind)
    try:
        writer.add_name(loaded.config.name)
        writer.add_file_type(_file_type(tensors.values()))
        for key, value in {**_settings_keys(settings, model.loaded.model), **keys}.items():
            _add(writer, key, value)
        for name, tensor in tensors.items():
            stored = _KINDS[tensor.dtype.name][0]
            if stored == gguf.GGMLQuantizationType.BF16:
                writer.add_tensor(name, gguf.quants.quantize(tensor.astype(np.float32), stored), raw_dtype=stored)
            else:
                writer.add_tensor(name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    # llama.cpp takes U+2581 for a space, and composes no characters.
    check_ids(
        model,
        read_tokenizer(GgufFile(path)),
        what="GGUF",
        may_differ=lambda text: "\u2581" in text or not unicodedata.is_normalized("NFC", text),
    )


def _tensors(model: Outgoing, *, dtype: ExportDtype) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors by the names, and in the order of numbers, that llama.cpp has."""
    config = model.loaded.model
    kind = settings_of(model)["model_type"]
    kinds = {name: architecture for architecture, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[kind], config.layers)
    for theirs, found in tensors_of(model, dtype=dtype):
        name = _name(names, theirs)
        tensor = found.T if kind == "gpt2" and theirs.endswith(_GPT2_KERNELS) else found
        if kind == "llama" and theirs.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.kv_heads or config.heads if "k_proj" in theirs else config.heads
            tensor = halves_together(found, heads=heads)
        wide = tensor.ndim == 1 or name == _ALWAYS_FLOAT32
        yield name, np.ascontiguousarray(tensor.astype(np.float32) if wide else tensor)
    if config.positions == "rope" and config.rope_scaling == "llama3":
        plain = dataclasses.replace(config, rope_scaling="none")
        yield ROPE_FACTORS, (rope_frequencies(plain) / rope_frequencies(config)).astype(np.float32)


def _name(names: gguf.TensorNameMap, theirs: str) -> str:
    short = theirs.removeprefix("model.").removeprefix("transformer.")
    found = (names.get_name(prefix + short, (".weight", ".bias")) for prefix in PREFIXES)
    return str(next(filter(None, found)))


def _file_type(tensors: Any) -> int:
    """What most of the numbers are."""
    numbers: dict[str, int] = {}
    for tensor in tensors:
        numbers[tensor.dtype.name] = numbers.get(tensor.dtype.name, 0) + tensor.size
    return int(_KINDS[max(numbers, key=lambda name: numbers[name])][1])


def _settings_keys(settings: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    kind = settings["model_type"]
    found = {key: settings[name] for name, key in ARCHITECTURES[kind].items() if name in settings}
    if config.positions == "rope":
        found |= {"attention.value_length": config.head_size, "rope.dimension_count": config.head_size}
        if config.rope_scaling == "linear":
            found |= {"rope.scaling.type": "linear", "rope.scaling.factor": config.rope_factor}
    found["vocab_size"] = settings["vocab_size"]
    return {f"{kind}.{key}": value for key, value in found.items()}


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_uint32(key, value)
