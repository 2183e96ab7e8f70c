"""The family llama: rotary positions, RMSNorm, SwiGLU, grouped heads, kernels as [out, in]."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lacy_jax.checkpoints.family import Parts, layers_of, same
from lacy_jax.config import ModelConfig
from lacy_jax.errors import CheckpointError

SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "sliding_window": (None,),
    "partial_rotary_factor": (1.0, None),
    "quantization_config": (None,),
}
_ROPE_TYPES = ("default", "linear", "llama3")


def model_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings for a config.json."""
    return {
        "layers": settings["num_hidden_layers"],
        "width": settings["hidden_size"],
        "heads": settings["num_attention_heads"],
        "head_width": settings.get("head_dim") or 0,
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
        raise CheckpointError(f"rope_type {kind!r} is not supported; supported are {', '.join(_ROPE_TYPES)}")
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


def parts(config: ModelConfig) -> Parts:
    """Kernels are kept as [out, in]."""
    width, heads, head_width = config.width, config.heads, config.head_size

    def heads_of(x: np.ndarray) -> np.ndarray:
        return x.T.reshape(width, -1, head_width)

    found: Parts = {
        "embedding/embedding": ("embed_tokens.weight", same),
        "output/embedding": ("lm_head.weight", same),
        "final_norm/scale": ("norm.weight", same),
        "blocks/attention_norm/scale": ("layers.{}.input_layernorm.weight", same),
        "blocks/mlp_norm/scale": ("layers.{}.post_attention_layernorm.weight", same),
        "blocks/attention/output/kernel": (
            "layers.{}.self_attn.o_proj.weight",
            lambda x: x.T.reshape(heads, head_width, width),
        ),
    }
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        found[f"blocks/attention/{ours}/kernel"] = (f"layers.{{}}.self_attn.{theirs}.weight", heads_of)
    for name in ("gate", "up", "down"):
        found[f"blocks/mlp/{name}/kernel"] = (f"layers.{{}}.mlp.{name}_proj.weight", np.transpose)
    return found


def written_settings(config: ModelConfig) -> dict[str, Any]:
    """The config.json that `model_settings` reads as this config."""
    found = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads or config.heads,
        "intermediate_size": config.mlp_width or 4 * config.width,
        "max_position_embeddings": config.context,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied_embedding,
        "rope_theta": config.rope_theta,
    }
    if config.head_width:
        found["head_dim"] = config.head_width
    if config.rope_scaling != "none":
        found["rope_scaling"] = _written_rope(config)
    return found


def _written_rope(config: ModelConfig) -> dict[str, Any]:
    found: dict[str, Any] = {"rope_type": config.rope_scaling, "factor": config.rope_factor}
    if config.rope_scaling == "llama3":
        found |= {
            "low_freq_factor": config.rope_low_factor,
            "high_freq_factor": config.rope_high_factor,
            "original_max_position_embeddings": config.rope_original_context,
        }
    return found


def written_tensors(params: Mapping[str, Any], config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """The reverse of `parts`."""
    width = config.width
    yield "model.embed_tokens.weight", params["embedding"]["embedding"]
    yield "model.norm.weight", params["final_norm"]["scale"]
    if "output" in params:
        yield "lm_head.weight", params["output"]["embedding"]
    for index, layer in enumerate(layers_of(params, count=config.layers)):
        at, attention = f"model.layers.{index}", layer["attention"]
        yield f"{at}.input_layernorm.weight", layer["attention_norm"]["scale"]
        yield f"{at}.post_attention_layernorm.weight", layer["mlp_norm"]["scale"]
        for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
            yield f"{at}.self_attn.{theirs}.weight", attention[ours]["kernel"].reshape(width, -1).T
        yield f"{at}.self_attn.o_proj.weight", attention["output"]["kernel"].reshape(-1, width).T
        for name in ("gate", "up", "down"):
            yield f"{at}.mlp.{name}_proj.weight", layer["mlp"][name]["kernel"].T
