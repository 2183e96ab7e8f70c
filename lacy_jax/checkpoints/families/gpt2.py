"""The family gpt2: learned positions, LayerNorm, GELU, kernels as [in, out]."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lacy_jax.checkpoints.family import Parts, Transform, layers_of, same
from lacy_jax.config import ModelConfig

SUPPORTED: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "quantization_config": (None,),
}


def model_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings for a config.json."""
    return {
        "layers": settings["n_layer"],
        "width": settings["n_embd"],
        "heads": settings["n_head"],
        "mlp_width": settings.get("n_inner") or 0,
        "context": settings["n_positions"],
        "norm_epsilon": settings.get("layer_norm_epsilon", 1e-5),
        "tied_embedding": settings.get("tie_word_embeddings", True),
    }


def parts(config: ModelConfig) -> Parts:
    """Kernels are kept as [in, out], and query, key and value in one."""
    width, heads = config.width, config.heads
    head_width = width // heads

    def third(index: int) -> Transform:
        columns = slice(index * width, (index + 1) * width)
        return lambda x: x[..., columns].reshape(*x.shape[:-1], heads, head_width)

    found: Parts = {
        "embedding/embedding": ("wte.weight", same),
        "positions/embedding": ("wpe.weight", lambda x: x[: config.context]),
        "output/embedding": ("lm_head.weight", same),
        "blocks/attention/output/kernel": ("h.{}.attn.c_proj.weight", lambda x: x.reshape(heads, head_width, width)),
        "blocks/attention/output/bias": ("h.{}.attn.c_proj.bias", same),
    }
    for index, part in enumerate(("query", "key", "value")):
        found[f"blocks/attention/{part}/kernel"] = ("h.{}.attn.c_attn.weight", third(index))
        found[f"blocks/attention/{part}/bias"] = ("h.{}.attn.c_attn.bias", third(index))
    for ours, theirs in (("up", "c_fc"), ("down", "c_proj")):
        found[f"blocks/mlp/{ours}/kernel"] = (f"h.{{}}.mlp.{theirs}.weight", same)
        found[f"blocks/mlp/{ours}/bias"] = (f"h.{{}}.mlp.{theirs}.bias", same)
    for ours, theirs in (
        ("blocks/attention_norm", "h.{}.ln_1"),
        ("blocks/mlp_norm", "h.{}.ln_2"),
        ("final_norm", "ln_f"),
    ):
        found[f"{ours}/scale"] = (f"{theirs}.weight", same)
        found[f"{ours}/bias"] = (f"{theirs}.bias", same)
    return found


def written_settings(config: ModelConfig) -> dict[str, Any]:
    """The config.json that `model_settings` reads as this config. Dropout is off, as in our training."""
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": config.layers,
        "n_embd": config.width,
        "n_head": config.heads,
        "n_inner": config.mlp_width or 4 * config.width,
        "n_positions": config.context,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_epsilon,
        "tie_word_embeddings": config.tied_embedding,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    }


def written_tensors(params: Mapping[str, Any], config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """The reverse of `parts`; a bias that our model does not have is zeros."""
    width = config.width
    yield "transformer.wte.weight", params["embedding"]["embedding"]
    yield "transformer.wpe.weight", params["positions"]["embedding"]
    if "output" in params:
        yield "lm_head.weight", params["output"]["embedding"]
    yield from _norm("transformer.ln_f", params["final_norm"])
    for index, layer in enumerate(layers_of(params, count=config.layers)):
        at, attention = f"transformer.h.{index}", layer["attention"]
        yield from _norm(f"{at}.ln_1", layer["attention_norm"])
        yield from _norm(f"{at}.ln_2", layer["mlp_norm"])
        entering = [_flat(attention[name], into=width) for name in ("query", "key", "value")]
        yield f"{at}.attn.c_attn.weight", np.concatenate([kernel for kernel, _ in entering], axis=1)
        yield f"{at}.attn.c_attn.bias", np.concatenate([bias for _, bias in entering])
        output = {**attention["output"], "kernel": attention["output"]["kernel"].reshape(width, width)}
        for name, part in (
            ("attn.c_proj", output),
            ("mlp.c_fc", layer["mlp"]["up"]),
            ("mlp.c_proj", layer["mlp"]["down"]),
        ):
            kernel, bias = _flat(part, into=part["kernel"].shape[0])
            yield f"{at}.{name}.weight", kernel
            yield f"{at}.{name}.bias", bias


def _norm(name: str, norm: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}.weight", norm["scale"]
    yield f"{name}.bias", norm.get("bias", np.zeros_like(norm["scale"]))


def _flat(linear: Mapping[str, np.ndarray], *, into: int) -> tuple[np.ndarray, np.ndarray]:
    """A layer's kernel [in, out] and bias [out], its heads side by side; `into` is the width that enters it."""
    kernel = linear["kernel"].reshape(into, -1)
    return kernel, linear["bias"].reshape(-1) if "bias" in linear else np.zeros(kernel.shape[1], kernel.dtype)
