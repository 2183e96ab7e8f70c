"""The family gpt2: learned positions, LayerNorm, GELU, kernels as [in, out]."""

from collections.abc import Mapping
from typing import Any

from lacy_jax.checkpoints.family import Parts, Transform, same
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
