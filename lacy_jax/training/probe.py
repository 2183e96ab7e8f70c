"""Would the next token be a factual one? A logistic probe on the hidden state, fitted to a run's own masks.

A model that was never taught `<CALL>` knows it all the same: on the demo's corpus the probe separates factual
targets from others nearly as well as a trained call score does (docs/cascade.md). Cascades gate their calls with it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lacy_jax.config import Config, ModelConfig
from lacy_jax.data.batch import Batch
from lacy_jax.data.loader import window_batch
from lacy_jax.data.order import Windows
from lacy_jax.model import decoder
from lacy_jax.model.precision import product_precision
from lacy_jax.model.probe import Probe
from lacy_jax.runtime import sharding
from lacy_jax.training.evaluate import place_batch
from lacy_jax.training.loss import hidden_states

TOKENS_PER_BATCH = 2048
# Steps of the fit, and the weight of the pull towards 0, in tokens.
ITERATIONS = 100
RIDGE = 10.0


def fit_probe(params: decoder.Params, source: Windows, *, config: Config, mesh: Mesh, batches: int) -> Probe | None:
    """Fits a probe to the first windows of `source`; None where they have no factual token, or no other.

    It is also None where a hidden state is not finite.
    """
    size = config.data.batch_size
    rows = sharding.process_rows(mesh, size)
    parts = []
    for index in range(min(batches, -(-len(source) // size))):
        batch = place_batch(window_batch(source, index, batch_size=size, rows=rows), mesh, batch_size=size)
        hidden_ND, factual_N, valid_N = jax.device_get(_some_tokens(params, batch, config.model, mesh))
        parts.append((hidden_ND[valid_N], factual_N[valid_N]))
    hidden_ND, factual_N = (np.concatenate(part) for part in zip(*parts, strict=True))
    if factual_N.all() or not factual_N.any() or not np.isfinite(hidden_ND).all():
        return None
    mean_D, spread_D = hidden_ND.mean(axis=0), hidden_ND.std(axis=0) + 1e-6
    fitted = fit_logistic((hidden_ND - mean_D) / spread_D, factual_N)
    weights_D = fitted[:-1] / spread_D
    return Probe(weights=tuple(weights_D.tolist()), bias=float(fitted[-1] - weights_D @ mean_D))


@functools.partial(jax.jit, static_argnums=(2, 3))
def _some_tokens(
    params: decoder.Params, batch: Batch[jax.Array], model: ModelConfig, mesh: Mesh
) -> tuple[jax.Array, ...]:
    """(hidden states float32 [N, D], factual [N], valid [N]) of evenly spaced targets of a batch, on every device."""
    with product_precision(model):
        hidden_BTD = hidden_states(params, batch, model=model)
    stride = max(1, batch.valid.size // TOKENS_PER_BATCH)
    picked = (
        hidden_BTD.reshape(-1, hidden_BTD.shape[-1])[::stride].astype(jnp.float32),
        batch.target_factual.reshape(-1)[::stride],
        batch.valid.reshape(-1)[::stride],
    )
    whole = NamedSharding(mesh, PartitionSpec())
    return tuple(jax.lax.with_sharding_constraint(each, whole) for each in picked)


def fit_logistic(features_ND: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Weights [D + 1] of a ridge logistic regression, the bias last (it is not pulled towards 0).

    Newton's method with a constant bound on the Hessian, X'X / 4, in place of the Hessian: one factorisation, and no
    step can overshoot (Boehning and Lindsay 1988, doi:10.1007/BF00049423). In NumPy, on the host: while a large
    model trains, its devices have no memory to spare.
    """
    x_NE = np.column_stack([features_ND, np.ones(len(features_ND))]).astype(np.float32)
    ridge_E = np.append(np.full(features_ND.shape[1], RIDGE), 0.0)
    # A little more on the diagonal: features may be dependent.
    bound_EE = (x_NE.T @ x_NE).astype(np.float64) / 4 + np.diag(ridge_E + 1e-5 * len(x_NE))
    inverse_EE = np.linalg.inv(bound_EE)
    weights_E = np.zeros(x_NE.shape[1])
    for _ in range(ITERATIONS):
        logits_N = np.clip(x_NE @ weights_E.astype(np.float32), -60, 60)
        error_N = labels_N - 1 / (1 + np.exp(-logits_N))
        weights_E = weights_E + inverse_EE @ (x_NE.T @ error_N.astype(np.float32) - ridge_E * weights_E)
    return weights_E
