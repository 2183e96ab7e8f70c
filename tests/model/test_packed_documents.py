"""Documents apart: a packed window gives what each of its documents gives alone, by every attention."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacy_jax.config import MeshConfig, ModelConfig
from lacy_jax.data.batch import document_starts
from lacy_jax.model import attention, decoder, fused
from lacy_jax.runtime import sharding
from tests.model.test_decoder import STYLES, random_params

END = 2
Arrays = tuple[np.ndarray, ...]


def masked_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, weights: np.ndarray, seen: np.ndarray) -> Arrays:
    """(output, dq, dk, dv) of all heads at once, in float64; `seen`: bool [B, T, T], which query sees which key."""
    group = q.shape[2] // k.shape[2]
    q, k, v, weights = (x.astype(np.float64).swapaxes(1, 2) for x in (q, k, v, weights))
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    scale = q.shape[-1] ** -0.5
    p = np.where(seen[:, None], np.exp(q @ k.swapaxes(2, 3) * scale), 0.0)
    p /= p.sum(axis=-1, keepdims=True)
    d_p = weights @ v.swapaxes(2, 3)
    d_scores = p * (d_p - (p * d_p).sum(axis=-1, keepdims=True)) * scale
    d_k, d_v = d_scores.swapaxes(2, 3) @ q, p.swapaxes(2, 3) @ weights
    d_k, d_v = (x.reshape(x.shape[0], -1, group, *x.shape[2:]).sum(axis=2) for x in (d_k, d_v))
    return tuple(x.swapaxes(1, 2) for x in (p @ v, d_scores @ k, d_k, d_v))


def random_documents(rows: int, time: int, *, mean: int) -> tuple[np.ndarray, np.ndarray]:
    """(starts int32 [rows, time], which query sees which key), the second from the documents' numbers."""
    ends = np.random.default_rng(5).random((rows, time)) < 1 / mean
    ends[-1] = True  # as padding is: a document each token
    number = np.cumsum(ends, axis=1)
    seen = (number[:, :, None] == number[:, None, :]) & np.tri(time, dtype=bool)
    return np.stack([document_starts(row, end_id=True) for row in ends]), seen


def random_arrays(rows: int, time: int, *, kv_heads: int, width: int) -> Arrays:
    rng = np.random.default_rng(0)
    shapes = [(rows, time, count, width) for count in (4, kv_heads, kv_heads, 4)]
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


def output_and_gradients(attend: Any, arrays: Any, starts: Any) -> Any:
    def both(q: jax.Array, k: jax.Array, v: jax.Array, weights: jax.Array, starts: jax.Array) -> Any:
        out, backward = jax.vjp(lambda *x: attend(*x, starts_BT=starts), q, k, v)
        return out, *backward(weights)

    return jax.jit(both)(*arrays, starts)


def cudnn_by_xla(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What cuDNN is asked for, computed by XLA: there is no GPU here."""
    attend = jax.nn.dot_product_attention

    def by_xla(*x: jax.Array, **said: Any) -> jax.Array:
        return attend(*x, **said | {"implementation": "xla"})

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    return fused.attend_cudnn


@pytest.mark.parametrize(
    ("path", "time", "kv_heads", "width"),
    [("xla", 24, 2, 8), ("xla", 13, 4, 8), ("splash", 256, 2, 64), ("cudnn", 24, 2, 8)],
)
def test_all_attentions_equal_a_masked_one(
    path: str, time: int, kv_heads: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = random_arrays(3, time, kv_heads=kv_heads, width=width)
    starts, seen = random_documents(3, time, mean=time // 4)
    attend = {
        "xla": attention.attend,
        "splash": functools.partial(fused.attend_splash, interpret=True),
        "cudnn": cudnn_by_xla(monkeypatch),
    }[path]
    found = output_and_gradients(attend, arrays, starts)
    for ours, theirs in zip(found, masked_attention(*arrays, seen), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("path", ["xla", "splash"])
def test_a_mesh_of_eight_equals_one_device(path: str) -> None:
    arrays = random_arrays(4, 128, kv_heads=1, width=32)  # fewer key-value heads than devices along tensor
    starts, seen = random_documents(4, 128, mean=30)
    attend = attention.attend if path == "xla" else functools.partial(fused.attend_splash, interpret=True)
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), batch_size=4)
    with jax.set_mesh(mesh):
        *placed, starts = jax.device_put((*arrays, starts), sharding.batch_sharding(mesh))
        found = output_and_gradients(attend, placed, starts)
    for ours, theirs in zip(found, masked_attention(*arrays, seen), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


# One row begins inside a document, one has an empty document and padding.
DOCUMENTS = [[[40, 41, 42], [END, 50, 51, 52, 53, 54, 55], [END, 60, 61], [END, 70, 71, 72]]]
DOCUMENTS += [[[END, 80, 81, 82, 83, 84, 85], [END], [END, 90, 91, 92, 93, 94], [END], [END], [END]]]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("mesh_shape", [(1, 1, 1), (2, 2, 2)])
def test_a_packed_window_equals_each_document_alone(style: str, mesh_shape: tuple[int, int, int]) -> None:
    """Hidden states, and the gradient of all parameters, learned positions among them."""
    config, params = STYLES[style], random_params(STYLES[style])
    rows = np.array([list(itertools.chain(*documents)) for documents in DOCUMENTS] * 2, np.int32)
    starts = np.stack([document_starts(row, end_id=END) for row in rows])
    weights = np.random.default_rng(3).standard_normal((*rows.shape, config.width)).astype(np.float32)
    documents = list(itertools.chain(*DOCUMENTS)) * 2
    padded = np.array([document + [0] * (rows.shape[1] - len(document)) for document in documents], np.int32)
    real = np.array([np.arange(rows.shape[1]) < len(document) for document in documents])

    def packed(params: decoder.Params, rows: jax.Array, starts: jax.Array, weights: jax.Array) -> Any:
        hidden = decoder.forward(params, rows, config=config, starts_BT=starts)
        return jnp.sum(hidden * weights), hidden

    def alone(params: decoder.Params) -> Any:
        hidden = decoder.forward(params, padded, config=config)[real].reshape(weights.shape)
        return jnp.sum(hidden * weights), hidden

    (_, expected), expected_gradient = jax.jit(jax.value_and_grad(alone, has_aux=True))(params)
    devices = jax.devices()[: int(np.prod(mesh_shape))]
    mesh = sharding.make_mesh(MeshConfig(*mesh_shape), batch_size=4, devices=devices)
    with jax.set_mesh(mesh):
        placed = jax.device_put((rows, starts, weights), sharding.batch_sharding(mesh))
        (_, found), gradient = jax.jit(jax.value_and_grad(packed, has_aux=True))(params, *placed)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_gradient))
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * largest)


@pytest.mark.parametrize(
    ("asked", "platform", "chosen"), [("auto", "cpu", "xla"), ("auto", "gpu", "cudnn"), ("auto", "tpu", "splash")]
)
def test_who_gets_which(asked: Any, platform: str, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_cudnn_problem", lambda *_: "")
    model = ModelConfig(layers=1, width=64, heads=4, context=256, attention=asked, attention_within="document")
    assert fused.resolve(model, platform=platform).attention == chosen
