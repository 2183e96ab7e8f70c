"""The probe for factual tokens: against Newton's method in float64, and on a task that it can learn."""

import dataclasses

import jax
import numpy as np
import pytest

from lacy_jax.config import Config, DataConfig, MeshConfig, ModelConfig, TrainingConfig
from lacy_jax.data.batch import document_starts
from lacy_jax.model import decoder
from lacy_jax.runtime import sharding
from lacy_jax.training.probe import RIDGE, fit_logistic, fit_probe

MODEL = ModelConfig(layers=1, width=32, heads=2, context=16, compute_dtype="float32")
CONFIG = Config(model=MODEL, data=DataConfig(batch_size=8), training=TrainingConfig(steps=1))


def newton(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    x = np.c_[features, np.ones(len(features))].astype(np.float64)
    ridge = np.append(np.full(features.shape[1], RIDGE), 0.0)
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ weights))
        hessian = x.T @ (x * (p * (1 - p))[:, None]) + np.diag(ridge)
        weights += np.linalg.solve(hessian, x.T @ (labels - p) - ridge * weights)
    return weights


def test_the_fit_is_newtons() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3000, 10)) @ rng.normal(size=(10, 10)) / 3
    labels = rng.random(3000) < 1 / (1 + np.exp(2 - features @ rng.normal(size=10)))
    np.testing.assert_allclose(fit_logistic(features.astype(np.float32), labels), newton(features, labels), atol=0.02)


class Windows:
    """Windows whose targets are factual after an even token, lengths and padding included."""

    def __init__(self, count: int, *, factual: bool = True):
        rng = np.random.default_rng(0)
        self.tokens = rng.integers(3, 100, (count, MODEL.context + 1)).astype(np.int32)
        self.factual = np.zeros(self.tokens.shape, bool)
        if factual:
            self.factual[:, 1:] = self.tokens[:, :-1] % 2 == 0

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, object]:
        tokens = self.tokens[index]
        starts = document_starts(tokens, end_id=-1)
        return {"tokens": tokens, "factual": self.factual[index], "starts": starts, "length": MODEL.context - 3}


@pytest.mark.parametrize("mesh_shape", [(1, 1, 1), (2, 2, 2)])
def test_it_learns_what_the_hidden_state_tells(mesh_shape: tuple[int, int, int]) -> None:
    devices = jax.devices()[: int(np.prod(mesh_shape))]
    mesh = sharding.make_mesh(MeshConfig(*mesh_shape), batch_size=8, devices=devices)
    with jax.set_mesh(mesh):
        params = decoder.init_params(MODEL, vocab=128, key=jax.random.key(0))
        windows = Windows(100)
        probe = fit_probe(params, windows, config=CONFIG, mesh=mesh, batches=16)  # type: ignore[arg-type]
        assert probe is not None
        hidden = np.asarray(decoder.forward(params, windows.tokens[:, :-1], config=MODEL))
    score = hidden @ np.array(probe.weights) + probe.bias
    right = (score > 0) == windows.factual[:, 1:]
    # 32 numbers cannot hold the parity of 97 random embeddings exactly.
    assert right.mean() > 0.6
    rest = dataclasses.replace(probe, bias=0.0)
    assert rest.to_dict() == {"weights": probe.weights, "bias": 0.0}


def test_no_factual_token_no_probe() -> None:
    mesh = sharding.make_mesh(MeshConfig(), batch_size=8, devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        params = decoder.init_params(MODEL, vocab=128, key=jax.random.key(0))
        windows = Windows(8, factual=False)
        assert fit_probe(params, windows, config=CONFIG, mesh=mesh, batches=2) is None  # type: ignore[arg-type]
