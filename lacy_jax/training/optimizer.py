"""AdamW or Muon with clipping, a learning rate that follows the run's budget, and the average of the weights."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from lacy_jax.config import OptimizerConfig
from lacy_jax.model.decoder import Params, parameter_axes

MUON_MOMENTUM = 0.95  # of Muon's authors (github.com/KellerJordan/Muon), and optax's default
# Root mean square of an update of Muon, about that of AdamW's, so that both take the same learning rate and weight
# decay (arXiv 2502.16982, section 2.2).
MUON_RMS = 0.2


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Clipping, moments and weight decay; the step multiplies by `-learning_rate` itself.

    The learning rate is not optax's schedule of a step count, because a run's budget may be counted in tokens.
    Matrices decay; biases and norms do not.
    """

    def decays(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)

    # Not `optax.contrib.muon` (0.2.8): what is no matrix would get NAdam, with Nesterov's correction as Muon has it.
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.epsilon)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm > 0 else optax.identity(),
        adam if config.name == "adamw" else optax.partition({"adam": adam, "muon": _muon()}, _labels),
        optax.add_decayed_weights(config.weight_decay, mask=decays),
    )


def _muon() -> optax.GradientTransformation:
    """Orthogonalized momentum, of the root mean square that AdamW's updates have (arXiv 2502.16982, equation 4)."""

    def to_same_rms(updates: Any, _params: Any) -> Any:
        return jax.tree.map(lambda update, axes: update * _scale(update.shape, axes), updates, _matrices(updates))

    orthogonal = optax.contrib.scale_by_muon(beta=MUON_MOMENTUM, weight_dimension_numbers=_matrices)
    return optax.chain(orthogonal, optax.stateless(to_same_rms))


def _scale(shape: tuple[int, ...], axes: MuonDimensionNumbers) -> float:
    sides = (math.prod(shape[axis] for axis in side) for side in (axes.reduction_axis, axes.output_axis))
    return MUON_RMS * math.sqrt(max(sides))


def _labels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: "muon" if _is_matrix(path) else "adam", params)


def _is_matrix(path: Any) -> bool:
    """Whether a parameter is a matrix of the blocks: the embeddings are tables of vectors, and stay with Adam."""
    return path[0].key == "blocks" and path[-1].key == "kernel"


def _matrices(params: Any) -> Any:
    """The axes of each matrix, inputs and outputs: heads and their width are one side, each layer is a matrix."""

    def one(path: Any, _: Any) -> MuonDimensionNumbers:
        names = parameter_axes(jax.tree_util.keystr(path, simple=True, separator="/"))
        inputs = 1 if names[1] == "embed" else len(names) - 2
        return MuonDimensionNumbers(tuple(range(1, 1 + inputs)), tuple(range(1 + inputs, len(names))))

    return jax.tree_util.tree_map_with_path(one, params)


def learning_rate(config: OptimizerConfig, *, step: jax.Array, progress: jax.Array) -> jax.Array:
    """Linear warm-up over steps, then the schedule's decay to `final_share` of the peak; float32 scalar.

    Args:
      step: int32, completed updates.
      progress: float32 in [0, 1], the share of the run's budget that is used up, in the budget's own unit, so that runs
        matched by ground-truth-gradient tokens (paper section 2) all end at the same point of the decay.
    """
    warm = jnp.minimum((step + 1.0) / max(config.warmup_steps, 1), 1.0)
    shape = _wsd(progress, share=config.decay_share) if config.schedule == "wsd" else _cosine(progress)
    return config.learning_rate * warm * (config.final_share + (1.0 - config.final_share) * shape)


def _cosine(progress: jax.Array) -> jax.Array:
    return 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))


def _wsd(progress: jax.Array, *, share: float) -> jax.Array:
    """1 up to the last `share` of the budget (MiniCPM, arXiv 2404.06395), there 1 - sqrt (arXiv 2405.18392)."""
    decayed = (progress - (1.0 - share)) / max(share, 1e-9)
    return 1.0 - jnp.sqrt(jnp.clip(decayed, 0.0, 1.0))


def average(old: Params, new: Params, *, step: jax.Array, decay: float) -> Params:
    """The moving average of the weights after update number `step`, which gave `new`; float32.

    It is an average of weights that were trained, whatever the first ones were: those of update i weigh in proportion
    to decay**(step - i), as in Adam's corrected moments (arXiv 1412.6980, section 3).
    """
    # 1 - decay**step, of which rounding would leave little in the first steps.
    known = -jnp.expm1(step * jnp.float32(math.log(decay)))
    share = jnp.minimum((1.0 - decay) / known, 1.0)
    return jax.tree.map(lambda average, own: average + share * (own - average), old, new)
