"""The family qwen2 (also Qwen2.5): Llama's, with biases of queries, keys and values."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lacy_jax.checkpoints.families import llama
from lacy_jax.checkpoints.family import Parts, layers_of
from lacy_jax.config import ModelConfig

SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "use_sliding_window": (False, None),
    "quantization_config": (None,),
}


def model_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings for a config.json."""
    return llama.model_settings(settings) | {"qkv_bias": True}


def parts(config: ModelConfig) -> Parts:
    """Llama's, and the biases, which are kept flat."""
    found = llama.parts(config)
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        found[f"blocks/attention/{ours}/bias"] = (
            f"layers.{{}}.self_attn.{theirs}.bias",
            lambda x: x.reshape(-1, config.head_size),
        )
    return found


def written_settings(config: ModelConfig) -> dict[str, Any]:
    """The config.json that `model_settings` reads as this config."""
    own = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False}
    return llama.written_settings(config) | own


def written_tensors(params: Mapping[str, Any], config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Llama's, and the biases."""
    yield from llama.written_tensors(params, config)
    for index, layer in enumerate(layers_of(params, count=config.layers)):
        for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
            yield f"model.layers.{index}.self_attn.{theirs}.bias", layer["attention"][ours]["bias"].reshape(-1)
