"""GGUF, llama.cpp's file of a model: its settings, tensors and tokenizer in Hugging Face's terms.

The library gguf reads the file and makes float32 of quantised tensors. What it holds is then built as a Hugging Face
folder is (hf.py): a GGUF file of a family keeps what config.json, safetensors and tokenizer.json say. Format:
github.com/ggml-org/ggml, its page on gguf.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from lacy_jax.config import ModelConfig
from lacy_jax.errors import CheckpointError
from lacy_jax.model.attention import rope_frequencies

# Names in config.json <- keys of the file, without the architecture's name before them.
_LLAMA_SETTINGS = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
}
_GPT2_SETTINGS = {
    "n_layer": "block_count",
    "n_embd": "embedding_length",
    "n_head": "attention.head_count",
    "n_inner": "feed_forward_length",
    "n_positions": "context_length",
    "layer_norm_epsilon": "attention.layer_norm_epsilon",
}
ARCHITECTURES = {
    "gpt2": _GPT2_SETTINGS,
    "llama": _LLAMA_SETTINGS,
    "qwen2": _LLAMA_SETTINGS,
    "qwen3": _LLAMA_SETTINGS,
}
_OPTIONAL = ("attention.head_count_kv", "attention.key_length", "rope.freq_base")
ROPE_FACTORS = "rope_freqs.weight"  # Llama 3's: what each frequency is divided by
PREFIXES = ("model.", "transformer.", "")  # of the names in the library's table


class _Reader(gguf.GGUFReader):
    """The library's reader, which refuses to read past the file's end: the library would give empty values there."""

    def _get(self, offset: int, dtype: Any, count: int = 1, *more: Any, **named: Any) -> Any:
        if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
            raise ValueError("it ends before its header does")
        return super()._get(offset, dtype, count, *more, **named)


class GgufFile:
    """An open GGUF file: its metadata, and its tensors by the names of Hugging Face."""

    def __init__(self, path: Path):
        """Raises `CheckpointError` where it cannot be read, or no family of ours has its architecture."""
        try:
            self._reader = _Reader(path)
        except Exception as error:  # of nearly every kind: it indexes into whatever the file holds
            words = str(error).partition("\n")[0] or type(error).__name__
            raise CheckpointError(f"cannot read {path} as GGUF ({words}): cut off, or damaged?") from None
        self.where = path
        self.architecture = str(self.value("general.architecture", ""))
        if self.architecture not in ARCHITECTURES:
            raise CheckpointError(
                f"{path}: architecture {self.architecture!r} is not supported; supported are {', '.join(ARCHITECTURES)}"
            )
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        blocks = {name.split(".")[1] for name in self._tensors if name.startswith("blk.")}
        layers = self.value(f"{self.architecture}.block_count", 0)
        if len(blocks) != layers:
            raise CheckpointError(f"{path}: block_count is {layers!r}, but there are {len(blocks)} layers")
        kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
        self._names = gguf.get_tensor_name_map(kinds[self.architecture], len(blocks))

    @property
    def count(self) -> int:
        """How many tensors there are."""
        return len(self._tensors)

    @property
    def numbers(self) -> int:
        """How many numbers they hold together."""
        return sum(int(tensor.n_elements) for tensor in self._tensors.values())

    def value(self, key: str, default: Any = None) -> Any:
        """What the metadata say under `key`.

        Raises:
            CheckpointError: its value cannot be read.
        """
        field = self._reader.fields.get(key)
        if field is None:
            return default
        try:
            return field.contents()
        except (ValueError, IndexError, TypeError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{self.where}: the value of {key} cannot be read ({error})") from None

    def settings(self) -> dict[str, Any]:
        """What config.json of the same model says.

        Raises:
            CheckpointError: a setting that its family cannot build.
        """
        found: dict[str, Any] = {}
        for name, key in ARCHITECTURES[self.architecture].items():
            value = self.value(f"{self.architecture}.{key}")
            if value is not None:
                self._check_number(key, value)
                # Numbers are float32 there: the decimal that was meant is the shortest one.
                found[name] = float(str(np.float32(value))) if isinstance(value, float) else value
            elif key not in _OPTIONAL:
                raise CheckpointError(f"{self.where}: {self.architecture}.{key} is missing")
        found["model_type"] = self.architecture
        found["vocab_size"] = self._rows("token_embd.weight")
        found["tie_word_embeddings"] = "output.weight" not in self._tensors
        if scaling := self._rope_scaling(found):
            found["rope_scaling"] = scaling
        return found

    def _rows(self, name: str) -> int:
        if name not in self._tensors:
            raise CheckpointError(f"{self.where} holds no tensor {name!r}")
        return int(self._tensors[name].shape[-1])

    def _rope_scaling(self, found: Mapping[str, Any]) -> dict[str, Any] | None:
        kind = self.value(f"{self.architecture}.rope.scaling.type", "none")
        if ROPE_FACTORS in self._tensors:
            return self._llama3_scaling(found)
        if kind == "none":
            return None
        factor = self.value(f"{self.architecture}.rope.scaling.factor", 1.0)
        self._check_number("rope.scaling.factor", factor)
        return {"rope_type": kind, "factor": float(factor)}

    def _check_number(self, key: str, value: Any) -> None:
        """Raises `CheckpointError` where a setting is no number above 0."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise CheckpointError(f"{self.where}: {self.architecture}.{key} is {value!r}, and must be a number above 0")

    def _llama3_scaling(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Llama 3's settings; the file has only their result, which must be that of the published ones."""
        factors, theta = self._floats(ROPE_FACTORS).ravel(), found.get("rope_theta", 10_000.0)
        head_width = found.get("head_dim") or found["hidden_size"] / found["num_attention_heads"]
        if 2 * factors.size == head_width and np.isfinite(factors).all() and (factors > 0).all():
            scaling = {"factor": float(factors.max(initial=1.0)), "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            plain = ModelConfig(width=2 * factors.size, heads=1, positions="rope", rope_theta=theta)
            scaled = dataclasses.replace(plain, rope_scaling="llama3", rope_factor=scaling["factor"])
            if np.allclose(rope_frequencies(plain) / factors, rope_frequencies(scaled), rtol=1e-3):
                context = scaled.rope_original_context
                return {"rope_type": "llama3", "original_max_position_embeddings": context, **scaling}
        raise CheckpointError(f"{self.where}: its rotary frequencies are scaled in a way that is not supported")

    # What hf.py reads tensors by.

    def read(self, name: str) -> np.ndarray:
        """The tensor that a Hugging Face folder calls `name` (without the whole model's prefix), float32."""
        found = self._floats(self._name(name))
        if self.architecture == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            return found.T  # llama.cpp keeps all kernels as [out, in]
        if self.architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            return _halves_apart(found, heads=self._heads(name))
        return found

    def _floats(self, name: str) -> np.ndarray:
        """The tensor of this name in the file, float32."""
        tensor = self._tensors[name]
        try:
            return np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
        except (NotImplementedError, ValueError) as error:  # a type that the library has no rule for; no floats
            raise CheckpointError(f"{self.where}: tensor {name} cannot be read ({error})") from None

    def _heads(self, name: str) -> int:
        heads = int(self.value("llama.attention.head_count", 1))
        return int(self.value("llama.attention.head_count_kv", heads)) if "k_proj" in name else heads

    def dtype(self, name: str) -> str:
        """The dtype of what `read` gives."""
        self._name(name)
        return "float32"

    def refuse_others(self, names: set[str]) -> None:
        """Raises `CheckpointError` where there are tensors that none of `names` is: the model is another one."""
        known = {self._find(name) for name in names} | {ROPE_FACTORS}
        if others := sorted(name for name in self._tensors if name not in known):
            raise CheckpointError(
                f"{self.where}: {len(others)} tensors that a model of these settings does not have, the first "
                f"{others[0]!r}"
            )

    def _name(self, name: str) -> str:
        found = self._find(name)
        if found is None or found not in self._tensors:
            raise CheckpointError(f"{self.where} holds no tensor {found or name!r}")
        return found

    def _find(self, name: str) -> str | None:
        found = (self._names.get_name(prefix + name, (".weight", ".bias")) for prefix in PREFIXES)
        return next(filter(None, found), None)


def _halves_apart(kernel_OI: np.ndarray, *, heads: int) -> np.ndarray:
    """Rows of each head as Hugging Face orders them: llama.cpp puts the two halves of a rotary pair side by side.

    A kernel that such heads do not divide stays as it is: it has not the shape that its reader asks for.
    """
    rows, left = divmod(kernel_OI.shape[0], heads)
    if left or rows % 2:
        return kernel_OI
    return kernel_OI.reshape(heads, rows // 2, 2, -1).swapaxes(1, 2).reshape(kernel_OI.shape)


def halves_together(kernel_OI: np.ndarray, *, heads: int) -> np.ndarray:
    """The reverse of `_halves_apart`."""
    rows = kernel_OI.shape[0] // heads
    return kernel_OI.reshape(heads, 2, rows // 2, -1).swapaxes(1, 2).reshape(kernel_OI.shape)
