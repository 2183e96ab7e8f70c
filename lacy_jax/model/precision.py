"""How exactly matrix products are computed."""

from contextlib import AbstractContextManager

import jax

from lacy_jax.config import ModelConfig


def product_precision(config: ModelConfig) -> AbstractContextManager[None]:
    """While it is entered, products of float32 are traced in float32 where the model computes in float32.

    Without it GPUs multiply float32 in 10 bits (tf32) and TPUs in 8 (bfloat16). A gradient must be
    taken inside, too, not only the forward pass.
    """
    return jax.default_matmul_precision("float32" if config.compute_dtype == "float32" else None)
