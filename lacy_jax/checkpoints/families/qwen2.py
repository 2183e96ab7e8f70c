"""The family qwen2 (also Qwen2.5): Llama's, with biases of queries, keys and values."""

from collections.abc import Mapping
from typing import Any

from lacy_jax.checkpoints.families import llama
from lacy_jax.checkpoints.family import Parts
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
