"""A pass over held-out windows, to flat arrays with one entry a valid target."""

import functools

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lacy_jax import objective
from lacy_jax.config import Config
from lacy_jax.data.batch import Batch
from lacy_jax.data.loader import window_batch
from lacy_jax.data.order import Windows
from lacy_jax.model import decoder
from lacy_jax.model.precision import product_precision
from lacy_jax.runtime import sharding
from lacy_jax.training.loss import hidden_states, join_rows, reference_losses, split_rows, take_targets
from lacy_jax.training.reference import Reference
from lacy_jax.training.step import for_devices


def place_batch(batch: Batch[np.ndarray], mesh: Mesh, *, batch_size: int) -> Batch[jax.Array]:
    """This host's rows (`sharding.process_rows`) as global arrays of `batch_size` rows, split over the mesh."""
    put = functools.partial(sharding.place_rows, mesh, batch_size=batch_size)
    return Batch(
        tokens=put(batch.tokens),
        factual=put(batch.factual),
        starts=put(batch.starts),
        lengths=put(batch.lengths),
        sources=None if batch.sources is None else put(batch.sources),
        partner_losses=None if batch.partner_losses is None else put(batch.partner_losses),
    )


def target_values(
    params: decoder.Params,
    batch: Batch[jax.Array],
    step: jax.Array,
    reference: Reference | None,
    *,
    config: Config,
    call_id: int,
) -> dict[str, jax.Array]:
    """What `validation_record` wants to know of every target, [B, T] each, and `valid`.

    The model reads as many rows at once as in training: where that takes microbatches, a batch whole may not fit.
    """
    chunks, count = config.objective.vocab_chunks, config.training.microbatches

    def values_of(rows: Batch[jax.Array]) -> dict[str, jax.Array]:
        matrix = decoder.output_matrix(params)
        with product_precision(config.model):
            hidden_BTD = hidden_states(params, rows, model=config.model)
            scalars = objective.head_scalars(hidden_BTD, matrix, rows.targets, call_id, vocab_chunks=chunks)
            greedy = objective.greedy_tokens(hidden_BTD, matrix, call_id, vocab_chunks=chunks)
        values = {
            "nll": objective.nll_without_call(scalars),
            "nll_full": objective.nll_with_call(scalars),
            "call_score": objective.call_log_odds(scalars),
            "greedy_right": greedy == rows.targets,
        }
        if reference is not None:
            values["reference_nll"] = reference_losses(reference, rows, config=config, call_id=call_id)
        return values

    if count == 1:
        values = values_of(batch)
    else:
        micros = jax.tree.map(lambda x: split_rows(x, count), batch)
        values = jax.tree.map(join_rows, jax.lax.map(values_of, micros))
    theirs = values.pop("reference_nll", None)
    return {
        **values,
        "factual": batch.target_factual,
        "taken": take_targets(values["nll"], batch, config=config, step=step, reference_losses=theirs),
        "target": batch.targets,
        "valid": batch.valid,
    }


@functools.lru_cache(maxsize=4)
def _jit_target_values(config: Config, *, call_id: int, mesh: Mesh) -> jax.stages.Wrapped:
    """`target_values` of (params, batch, step, reference), the same on every device; for runs of equal settings."""
    values = functools.partial(target_values, config=config, call_id=call_id)
    return jax.jit(values, out_shardings=NamedSharding(mesh, PartitionSpec()))


class Evaluator:
    """Compiled once for all runs of equal settings in a process; call it with the parameters of any step."""

    def __init__(self, config: Config, *, call_id: int, mesh: Mesh):
        config = for_devices(config, mesh)
        self._config, self._mesh = config, mesh
        self._values = _jit_target_values(config, call_id=call_id, mesh=mesh)

    def __call__(
        self,
        params: decoder.Params,
        source: Windows,
        *,
        step: jax.Array,
        reference: Reference | None = None,
    ) -> dict[str, np.ndarray]:
        """Flat arrays over the valid targets of the first `evaluate_batches` batches of `source`, in order."""
        size = self._config.data.batch_size
        rows = sharding.process_rows(self._mesh, size)
        batches = min(self._config.training.evaluate_batches, -(-len(source) // size))
        parts = []
        for index in range(batches):
            batch = place_batch(window_batch(source, index, batch_size=size, rows=rows), self._mesh, batch_size=size)
            found = self.of_batch(params, batch, step=step, reference=reference)
            parts.append({name: value[found["valid"]] for name, value in found.items() if name != "valid"})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def of_batch(
        self, params: decoder.Params, batch: Batch[jax.Array], *, step: jax.Array, reference: Reference | None
    ) -> dict[str, np.ndarray]:
        """What `target_values` gives, on the host: [B, T] each, all rows of the global batch."""
        found: dict[str, np.ndarray] = jax.device_get(self._values(params, batch, step, reference))
        return found
