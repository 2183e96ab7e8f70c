"""Hugging Face weights of the GPT-2 and Llama kind as our decoder's parameters: config.json and safetensors.

A tensor of one layer becomes a slice of our stacked one, and only the stacked one being filled is held beside those
that are done. Nothing is downloaded, and PyTorch is not needed.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import safetensors
from flax import traverse_util

from lacy_jax.checks import parse
from lacy_jax.config import ModelConfig
from lacy_jax.errors import CheckpointError, ConfigError
from lacy_jax.model import decoder

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# Llama 3.2 says 131,072, of which a cascade's texts use little; the cache grows with what is used, up to here.
MAX_CONTEXT = 4096

ParamsDtype = Literal["stored", "float32", "bfloat16"]

# What a setting must be; a missing one is the first.
_SUPPORTED: dict[str, dict[str, tuple[Any, ...]]] = {
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "quantization_config": (None,),
    },
    "llama": {
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "sliding_window": (None,),
        "partial_rotary_factor": (1.0, None),
        "quantization_config": (None,),
    },
}
_ROPE_TYPES = ("default", "linear", "llama3")
_FLOATS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# In some files, and no parameters: causal masks, rotary frequencies.
_NO_PARAMETERS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")


def read_settings(folder: Path) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
        CheckpointError: it cannot be read, or describes a model of another kind.
    """
    try:
        settings: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        kind = settings.get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"cannot read {folder / CONFIG_FILE}: {error}") from None
    if kind not in _SUPPORTED:
        raise CheckpointError(f"{folder}: model_type {kind!r} is not supported; supported are {_listed(_SUPPORTED)}")
    for field, allowed in _SUPPORTED[kind].items():
        if settings.get(field, allowed[0]) not in allowed:
            raise CheckpointError(f"{folder}: {field} {settings[field]!r} is not supported; it must be {allowed[0]!r}")
    return settings


def model_config(settings: Mapping[str, Any], *, max_context: int = MAX_CONTEXT) -> ModelConfig:
    """The decoder that config.json describes, its context at most `max_context` tokens.

    Raises:
        CheckpointError: a setting that is missing, or not supported.
    """
    try:
        model = _gpt2_config(settings) if settings["model_type"] == "gpt2" else _llama_config(settings)
        model["context"] = min(model["context"], max_context)
        return parse({"model": model}).model
    except KeyError as error:
        raise CheckpointError(f"{CONFIG_FILE} has no {error}") from None
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"{CONFIG_FILE} describes no model that can be built here: {error}") from None


def read_params(
    folder: Path, settings: Mapping[str, Any], *, config: ModelConfig, tokens: int, dtype: ParamsDtype = "stored"
) -> decoder.Params:
    """The folder's weights as the decoder's parameters, on this process' first device.

    Args:
        config: what `model_config` made of `settings`.
        tokens: real tokens, N. The embedding has the rows of these, and zeros up to `padded_vocab(N + 1)`.
        dtype: of the parameters; "stored": as in the file, which for bfloat16 halves the memory of float32.

    Raises:
        CheckpointError: a file or a tensor that is missing, left over, or of an unexpected shape or type.
    """
    if tokens > settings["vocab_size"]:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokens} tokens, the model only {settings['vocab_size']} (vocab_size)"
        )
    vocab = decoder.padded_vocab(tokens + 1)
    shapes = jax.eval_shape(lambda: decoder.init_params(config, vocab=vocab, key=jax.random.key(0)))
    parts = _gpt2_parts(config) if settings["model_type"] == "gpt2" else _llama_parts(config)
    params: dict[str, jax.Array] = {}
    with _Tensors(folder) as tensors:
        tensors.refuse_others({name for name, _ in parts.values()}, config=config)
        for path, shape in traverse_util.flatten_dict(shapes, sep="/").items():
            array = _filled(tensors, *parts[path], shape=shape.shape, stacked=path.startswith("blocks/"), tokens=tokens)
            array = array if dtype == "stored" else array.astype(dtype)
            params[path] = jax.device_put(array, jax.local_devices()[0])
    nested: decoder.Params = traverse_util.unflatten_dict(params, sep="/")
    return nested


def _gpt2_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "layers": settings["n_layer"],
        "width": settings["n_embd"],
        "heads": settings["n_head"],
        "mlp_width": settings.get("n_inner") or 0,
        "context": settings["n_positions"],
        "norm_epsilon": settings.get("layer_norm_epsilon", 1e-5),
        "tied_embedding": settings.get("tie_word_embeddings", True),
    }


def _llama_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    width, heads = settings["hidden_size"], settings["num_attention_heads"]
    head_dim = settings.get("head_dim")
    if head_dim and head_dim * heads != width:
        raise CheckpointError(f"head_dim {head_dim} is not supported; it must be hidden_size / num_attention_heads")
    return {
        "layers": settings["num_hidden_layers"],
        "width": width,
        "heads": heads,
        "kv_heads": settings.get("num_key_value_heads") or 0,
        "mlp_width": settings["intermediate_size"],
        "context": settings["max_position_embeddings"],
        "positions": "rope",
        "norm": "rmsnorm",
        "activation": "swiglu",
        "bias": False,
        "norm_epsilon": settings.get("rms_norm_eps", 1e-6),
        "tied_embedding": settings.get("tie_word_embeddings", False),
        **_rope(settings),
    }


def _rope(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings: rope_parameters in newer files, rope_theta and rope_scaling in older ones."""
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind not in _ROPE_TYPES:
        raise CheckpointError(f"rope_type {kind!r} is not supported; supported are {_listed(_ROPE_TYPES)}")
    found = {"rope_theta": rope.get("rope_theta") or settings.get("rope_theta") or 10_000.0}
    if kind == "default":
        return found
    found |= {"rope_scaling": kind, "rope_factor": rope["factor"]}
    if kind == "llama3":
        found |= {
            "rope_low_factor": rope["low_freq_factor"],
            "rope_high_factor": rope["high_freq_factor"],
            "rope_original_context": rope["original_max_position_embeddings"],
        }
    return found


# Our parameter -> their tensor's name ("{}" stands for the layer) and what to do with it.
Parts = dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]


def _same(x: np.ndarray) -> np.ndarray:
    return x


def _gpt2_parts(config: ModelConfig) -> Parts:
    """GPT-2 keeps kernels as [in, out], and query, key and value in one."""
    width, heads = config.width, config.heads
    head_width = width // heads

    def third(index: int) -> Callable[[np.ndarray], np.ndarray]:
        columns = slice(index * width, (index + 1) * width)
        return lambda x: x[..., columns].reshape(*x.shape[:-1], heads, head_width)

    parts: Parts = {
        "embedding/embedding": ("wte.weight", _same),
        "positions/embedding": ("wpe.weight", lambda x: x[: config.context]),
        "output/embedding": ("lm_head.weight", _same),
        "blocks/attention/output/kernel": ("h.{}.attn.c_proj.weight", lambda x: x.reshape(heads, head_width, width)),
        "blocks/attention/output/bias": ("h.{}.attn.c_proj.bias", _same),
    }
    for index, part in enumerate(("query", "key", "value")):
        parts[f"blocks/attention/{part}/kernel"] = ("h.{}.attn.c_attn.weight", third(index))
        parts[f"blocks/attention/{part}/bias"] = ("h.{}.attn.c_attn.bias", third(index))
    for ours, theirs in (("up", "c_fc"), ("down", "c_proj")):
        parts[f"blocks/mlp/{ours}/kernel"] = (f"h.{{}}.mlp.{theirs}.weight", _same)
        parts[f"blocks/mlp/{ours}/bias"] = (f"h.{{}}.mlp.{theirs}.bias", _same)
    for ours, theirs in (
        ("blocks/attention_norm", "h.{}.ln_1"),
        ("blocks/mlp_norm", "h.{}.ln_2"),
        ("final_norm", "ln_f"),
    ):
        parts[f"{ours}/scale"] = (f"{theirs}.weight", _same)
        parts[f"{ours}/bias"] = (f"{theirs}.bias", _same)
    return _less_tied(parts, config)


def _llama_parts(config: ModelConfig) -> Parts:
    """Llama keeps kernels as [out, in]."""
    width, heads = config.width, config.heads
    head_width = width // heads

    def heads_of(x: np.ndarray) -> np.ndarray:
        return x.T.reshape(width, -1, head_width)

    parts: Parts = {
        "embedding/embedding": ("embed_tokens.weight", _same),
        "output/embedding": ("lm_head.weight", _same),
        "final_norm/scale": ("norm.weight", _same),
        "blocks/attention_norm/scale": ("layers.{}.input_layernorm.weight", _same),
        "blocks/mlp_norm/scale": ("layers.{}.post_attention_layernorm.weight", _same),
        "blocks/attention/output/kernel": (
            "layers.{}.self_attn.o_proj.weight",
            lambda x: x.T.reshape(heads, head_width, width),
        ),
    }
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        parts[f"blocks/attention/{ours}/kernel"] = (f"layers.{{}}.self_attn.{theirs}.weight", heads_of)
    for name in ("gate", "up", "down"):
        parts[f"blocks/mlp/{name}/kernel"] = (f"layers.{{}}.mlp.{name}_proj.weight", np.transpose)
    return _less_tied(parts, config)


def _less_tied(parts: Parts, config: ModelConfig) -> Parts:
    return {path: part for path, part in parts.items() if path != "output/embedding" or not config.tied_embedding}


class _Tensors:
    """The tensors of a folder by name, without the prefix of the whole model, read from disk one at a time."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._open = ExitStack()
        self._found: dict[str, tuple[Any, str]] = {}  # name -> the file it is in, its name there

    def __enter__(self) -> "_Tensors":
        with ExitStack() as opened:
            for path in _weight_files(self._folder):
                try:
                    file = opened.enter_context(safetensors.safe_open(path, framework="numpy"))
                except (OSError, safetensors.SafetensorError) as error:
                    raise CheckpointError(f"cannot read {path}: {error}") from None
                for name in file.keys():  # noqa: SIM118 (no mapping)
                    short = name.removeprefix("transformer.").removeprefix("model.")
                    self._found[short] = (file, name)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def read(self, name: str) -> np.ndarray:
        file, full = self._entry(name)
        tensor: np.ndarray = file.get_tensor(full)
        return tensor

    def dtype(self, name: str) -> str:
        file, full = self._entry(name)
        stored = file.get_slice(full).get_dtype()
        if stored not in _FLOATS:
            raise CheckpointError(f"{self._folder}: tensor {full} is {stored}; supported are {_listed(_FLOATS)}")
        return _FLOATS[stored]

    def refuse_others(self, names: set[str], *, config: ModelConfig) -> None:
        """Tensors that nothing here reads mean a model that is built in another way."""
        known = {name.format(layer) for name in names for layer in range(config.layers)}
        known |= {"lm_head.weight"} if config.tied_embedding else set()
        others = sorted(name for name in self._found if name not in known and not name.endswith(_NO_PARAMETERS))
        if others:
            raise CheckpointError(
                f"{self._folder}: {len(others)} tensors that a model of these settings does not have, the first "
                f"{others[0]!r}; adapters must be merged, and heads other than lm_head are not supported"
            )

    def _entry(self, name: str) -> tuple[Any, str]:
        if name not in self._found:
            raise CheckpointError(f"{self._folder}: its safetensors hold no tensor {name!r}")
        return self._found[name]


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX_FILE
    if (folder / WEIGHTS_FILE).exists() or not index.exists():
        names = [WEIGHTS_FILE]
    else:
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"cannot read {index}: {error!r}") from None
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        hint = "; weights in other formats become it by transformers' save_pretrained" if len(names) == 1 else ""
        raise CheckpointError(f"{folder}: there is no {_listed(missing)}{hint}")
    return [folder / name for name in names]


def _filled(
    tensors: _Tensors,
    name: str,
    transform: Callable[[np.ndarray], np.ndarray],
    *,
    shape: tuple[int, ...],
    stacked: bool,
    tokens: int,
) -> np.ndarray:
    """One of our parameters, of this shape; rows behind the tokens' are zeros."""
    names = [name.format(layer) for layer in range(shape[0])] if stacked else [name]
    dtypes = {tensors.dtype(each) for each in names}
    filled = np.zeros(shape, dtypes.pop() if len(dtypes) == 1 else "float32")
    vocabulary = name in ("wte.weight", "embed_tokens.weight", "lm_head.weight")
    for layer, each in enumerate(names):
        target = filled[layer] if stacked else filled[:tokens] if vocabulary else filled
        source = tensors.read(each)
        try:
            found = transform(source[:tokens] if vocabulary else source)
        except ValueError:
            found = source
        if found.shape != target.shape:
            raise CheckpointError(f"tensor {each!r} is {source.shape}, which does not fit the settings beside it")
        target[...] = found
    return filled


def _listed(names: Any) -> str:
    return ", ".join(names)
