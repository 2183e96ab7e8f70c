"""The family qwen3: Llama's, with queries and keys normalized within each head, and a head width of its own."""

from collections.abc import Mapping
from typing import Any

from lacy_jax.checkpoints.families import llama
from lacy_jax.checkpoints.family import Parts, same
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
