"""AdamW with clipping, and a learning rate that follows the run's budget."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from lacy_jax.config import OptimizerConfig


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clipping, Adam moments and weight decay; the step multiplies by `-learning_rate` itself.

    The learning rate is not optax's schedule of a step count, because a run's budget may be counted in tokens.
    Matrices decay; biases and norms do not.
    """

    def decays(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)

    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm > 0 else optax.identity(),
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=decays),
    )


def learning_rate(config: OptimizerConfig, *, step: jax.Array, progress: jax.Array) -> jax.Array:
    """Linear warm-up over steps, then cosine decay to `final_share` of the peak; float32 scalar.

    Args:
      step: int32, completed updates.
      progress: float32 in [0, 1], the share of the run's budget that is used up, in the budget's own unit, so that runs
        matched by ground-truth-gradient tokens (paper section 2) all end at the same point of the decay.
    """
    warm = jnp.minimum((step + 1.0) / max(config.warmup_steps, 1), 1.0)
    cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
    return config.learning_rate * warm * (config.final_share + (1.0 - config.final_share) * cosine)
