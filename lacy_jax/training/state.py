"""What a step changes: parameters, optimizer moments and counters, as one pytree of arrays."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lacy_jax.checkpoints.initial import initial_params
from lacy_jax.config import Config
from lacy_jax.model import decoder
from lacy_jax.runtime import sharding
from lacy_jax.training.optimizer import make_optimizer

LIMB = 30  # bits of the low half of a token counter: 32-bit integers alone end at 2e9 tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """step: int32, completed updates. tokens, ground_truth_tokens: int32[2], see `add_count`.

    average: of the parameters (`optimizer.average`), where the run keeps one.
    """

    step: jax.Array
    tokens: jax.Array
    ground_truth_tokens: jax.Array
    params: decoder.Params
    optimizer: Any
    average: decoder.Params | None = None

    @property
    def inference_params(self) -> decoder.Params:
        """The parameters to validate and to use: the average, where there is one."""
        return self.params if self.average is None else self.average


def add_count(counter: jax.Array, amount: jax.Array) -> jax.Array:
    """Adds to a counter of two limbs (high, low < 2**30), exact up to 2e18; amount < 2**30."""
    low = counter[1] + amount
    return jnp.stack([counter[0] + (low >> LIMB), low & ((1 << LIMB) - 1)])


def count_value(counter: jax.Array | np.ndarray) -> int:
    """The counter as a Python int."""
    high, low = (int(limb) for limb in np.asarray(counter))
    return (high << LIMB) + low


def init_state(config: Config, *, vocab: int) -> TrainState:
    """A new run's state with random parameters; pure, so that `jax.jit` makes it in place on every device."""
    return _state_of(decoder.init_params(config.model, vocab=vocab, key=jax.random.key(config.training.seed)), config)


def state_shapes(config: Config, *, vocab: int) -> TrainState:
    """What `init_state` gives, as `jax.ShapeDtypeStruct`s: nothing is allocated."""
    params = decoder.param_shapes(config.model, vocab=vocab)
    shapes: TrainState = jax.eval_shape(lambda params: _state_of(params, config), params)
    return shapes


def _state_of(params: decoder.Params, config: Config) -> TrainState:
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        tokens=jnp.zeros(2, jnp.int32),
        ground_truth_tokens=jnp.zeros(2, jnp.int32),
        params=params,
        optimizer=make_optimizer(config.optimizer).init(params),
        average=jax.tree.map(jnp.copy, params) if config.optimizer.ema_decay else None,
    )


def new_state(config: Config, *, vocab: int, mesh: Mesh) -> TrainState:
    """A new run's state, placed as `state_shardings` has it: random, or with the parameters of `config.model.initial`.

    Raises:
        CheckpointError: that model cannot be read.
    """
    if not config.model.initial:
        made: TrainState = _jit_init_state(config, vocab=vocab, mesh=mesh)()
        return made
    placed = state_shardings(config, vocab=vocab, mesh=mesh)
    params = jax.tree.map(_placed, initial_params(config), placed.params)
    return jax.jit(lambda params: _state_of(params, config), out_shardings=placed)(params)


@functools.lru_cache(maxsize=4)
def _jit_init_state(config: Config, *, vocab: int, mesh: Mesh) -> jax.stages.Wrapped:
    """`init_state` on a mesh; for runs of equal settings."""
    placed = state_shardings(config, vocab=vocab, mesh=mesh)
    return jax.jit(functools.partial(init_state, config, vocab=vocab), out_shardings=placed)


def _placed(held: np.ndarray, where: NamedSharding) -> jax.Array:
    """An array that every process holds, as one global array."""
    return jax.make_array_from_callback(held.shape, where, lambda index: held[index])


def param_shardings(mesh: Mesh, shapes: decoder.Params) -> Any:
    """A sharding for every parameter of a decoder, from its path."""
    axes = jax.tree_util.tree_map_with_path(
        lambda path, _: decoder.parameter_axes(jax.tree_util.keystr(path, simple=True, separator="/")), shapes
    )
    return sharding.tree_shardings(axes, shapes, mesh=mesh)


def state_shardings(config: Config, *, vocab: int, mesh: Mesh) -> Any:
    """A TrainState with a sharding at every leaf: moments lie as their parameters do, the rest is replicated.

    Raises:
        MeshError: the mesh does not divide the model, or would leave a large array whole on every device.
    """
    sharding.check_model(mesh, config.model, vocab=vocab)
    shapes = state_shapes(config, vocab=vocab)
    whole = NamedSharding(mesh, PartitionSpec())
    params = param_shardings(mesh, shapes.params)
    moments = optax.tree_utils.tree_map_params(
        make_optimizer(config.optimizer),
        lambda moment, placed: moment if _is_none(moment) else placed,
        shapes.optimizer,
        params,
        transform_non_params=lambda _: whole,
        is_leaf=_is_none,
    )
    leaves: dict[str, Any] = {"step": whole, "tokens": whole, "ground_truth_tokens": whole}
    placed = TrainState(**leaves, params=params, optimizer=moments, average=None if shapes.average is None else params)
    sharding.check_replication(shapes, placed, mesh=mesh, largest_mib=config.mesh.largest_replicated_mib)
    return placed


def _is_none(moment: Any) -> bool:
    """Whether it stands for a parameter of which an optimizer of several parts keeps no such moment."""
    return isinstance(moment, optax.MaskedNode)
