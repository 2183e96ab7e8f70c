"""The training step as a compiled program, before there is a state or a batch."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from lacy_jax.config import Config
from lacy_jax.data.batch import Batch
from lacy_jax.errors import MeshError
from lacy_jax.runtime.platforms import compile_with_options
from lacy_jax.training.reference import Reference
from lacy_jax.training.state import state_shapes
from lacy_jax.training.step import jit_train_step


class OutOfMemory(MeshError):
    """The training step does not fit into a device's memory; `compiler` is the compiler's word."""

    def __init__(self, compiler: str):
        super().__init__(
            "the training step does not fit into a device's memory: raise config.mesh.fsdp or "
            "config.training.microbatches, lower config.data.batch_size, or try --config.model.remat=full "
            f"({compiler})"
        )
        self.compiler = compiler


def compile_train_step(
    config: Config,
    *,
    vocab: int,
    call_id: int,
    mesh: Mesh,
    reference: Reference | None = None,
) -> jax.stages.Compiled:
    """The program of (state, batch, reference), under `jax.set_mesh(mesh)`; its memory is known before it runs.

    A run of the same settings in the same process, as after an interruption in a notebook, has it at once.

    Raises:
        OutOfMemory: the compiler finds that a device's memory will not do.
    """
    if reference is None:
        return _compiled_alone(config, vocab=vocab, call_id=call_id, mesh=mesh)
    return _compiled(config, vocab=vocab, call_id=call_id, mesh=mesh, reference=reference)


def _compiled(
    config: Config, *, vocab: int, call_id: int, mesh: Mesh, reference: Reference | None = None
) -> jax.stages.Compiled:
    step = jit_train_step(config, vocab=vocab, call_id=call_id, mesh=mesh)
    state = state_shapes(config, vocab=vocab)
    batch = jax.eval_shape(lambda: _empty_batch(config))
    platform = mesh.devices.flat[0].platform
    try:
        return compile_with_options(step.lower(state, batch, reference), platform=platform)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemory(_first_line(error)) from error


_compiled_alone = functools.lru_cache(maxsize=4)(_compiled)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def _empty_batch(config: Config) -> Batch[jax.Array]:
    rows, length = config.data.batch_size, config.model.context + 1
    return Batch(
        tokens=jnp.zeros((rows, length), jnp.int32),
        factual=jnp.zeros((rows, length), jnp.bool),
        starts=jnp.zeros((rows, length), jnp.int32),
        lengths=jnp.zeros(rows, jnp.int32),
        sources=jnp.zeros(rows, jnp.int32) if config.data.mixture else None,
        partner_losses=jnp.zeros((rows, length)) if config.objective.partner_losses == "stored" else None,
    )
