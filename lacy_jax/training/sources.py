"""What is measured of each dataset of a mixture: sums of a batch by dataset, and their records."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax import objective
from lacy_jax.data.batch import Batch
from lacy_jax.training.metrics import class_record, class_sums

_PREFIX = "source/"


def source_sums(
    scalars: objective.HeadScalars, batch: Batch[jax.Array], *, taken: jax.Array, count: int
) -> dict[str, jax.Array]:
    """What `class_sums` gives, for each of `count` datasets; float32[count], named `source/<what>/<class>`.

    {} for a batch that is of one dataset.
    """
    if batch.sources is None:
        return {}
    rows_B1 = batch.sources[:, None]

    def of(source: jax.Array) -> dict[str, jax.Array]:
        valid = batch.valid & (rows_B1 == source)
        return class_sums(scalars, factual=batch.target_factual, taken=taken, valid=valid)

    return {_PREFIX + name: value for name, value in jax.vmap(of)(jnp.arange(count)).items()}


def source_records(sums: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """The record of each dataset, from the host's copy of a step's sums; none where the batch has no row of it."""
    records = {}
    for place, name in enumerate(names):
        own = {key.removeprefix(_PREFIX): float(sums[key][place]) for key in sums if key.startswith(_PREFIX)}
        if own["count/all"] > 0:
            records[name] = class_record(own)
    return records


def together(each: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The flat arrays of several datasets (`Evaluator`) as those of one."""
    return {name: np.concatenate([own[name] for own in each]) for name in each[0]}
