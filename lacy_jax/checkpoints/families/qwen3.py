"""The family qwen3: Llama's, with queries and keys normalized within each head, and a head width of its own."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lacy_jax.checkpoints.families import llama
from lacy_jax.checkpoints.family import Parts, layers_of, same
from lacy_jax.config import ModelConfig

SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False, None),
    "use_sliding_window": (False, None),
    "quantization_config": (None,),
}


def model_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings for a config.json; without a head_dim it is 128, as in the family's code."""
    return llama.model_settings({"head_dim": 128, **settings}) | {"qk_norm": True}


def parts(config: ModelConfig) -> Parts:
    """Llama's, and the norms."""
    return llama.parts(config) | {
        "blocks/attention/query_norm/scale": ("layers.{}.self_attn.q_norm.weight", same),
        "blocks/attention/key_norm/scale": ("layers.{}.self_attn.k_norm.weight", same),
    }


def written_settings(config: ModelConfig) -> dict[str, Any]:
    """The config.json that `model_settings` reads as this config."""
    own = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "use_sliding_window": False}
    return llama.written_settings(config) | own | {"head_dim": config.head_size}


def written_tensors(params: Mapping[str, Any], config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Llama's, and the norms."""
    yield from llama.written_tensors(params, config)
    for index, layer in enumerate(layers_of(params, count=config.layers)):
        for ours, theirs in (("query_norm", "q_norm"), ("key_norm", "k_norm")):
            yield f"model.layers.{index}.self_attn.{theirs}.weight", layer["attention"][ours]["scale"]
