"""Attention by name: the same numbers as a float64 reference, on one device and on meshes; who gets which."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacy_jax.config import MeshConfig, ModelConfig
from lacy_jax.model import attention, fused
from lacy_jax.runtime import sharding

Arrays = tuple[np.ndarray, ...]


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Row by row, in float64."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    group = q.shape[2] // k.shape[2]
    for b, t, h in np.ndindex(q.shape[:3]):
        scores = k[b, : t + 1, h // group] @ q[b, t, h] / q.shape[-1] ** 0.5
        weights = np.exp(scores - scores.max())
        out[b, t, h] = weights / weights.sum() @ v[b, : t + 1, h // group]
    return out


def random_arrays(*, batch: int = 2, time: int, heads: int = 4, kv_heads: int = 4, width: int = 32) -> Arrays:
    rng = np.random.default_rng(0)
    shapes = [(batch, time, count, width) for count in (heads, kv_heads, kv_heads, heads)]
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)


def output_and_gradients(attend: Any, arrays: Arrays) -> Any:
    q, k, v, out_gradient = arrays

    def weighted(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = attend(q, k, v)
        return jnp.sum(out * out_gradient), out

    (_, out), gradients = jax.jit(jax.value_and_grad(weighted, (0, 1, 2), has_aux=True))(q, k, v)
    return out, *gradients


@pytest.mark.parametrize("time", [8, 10, 128, 1])  # in blocks, too few for them, and one
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_blocks_equal_the_reference(time: int, kv_heads: int) -> None:
    arrays = random_arrays(time=time, kv_heads=kv_heads)
    found = output_and_gradients(attention.attend, arrays)
    np.testing.assert_allclose(found[0], reference(*arrays[:3]), atol=2e-6)
    plain = output_and_gradients(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True), arrays)
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def interpreted(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    return fused.attend_splash(q, k, v, interpret=True)


@pytest.mark.parametrize(("time", "kv_heads"), [(128, 4), (256, 2)])
def test_splash_equals_the_reference(time: int, kv_heads: int) -> None:
    arrays = random_arrays(batch=1, time=time, kv_heads=kv_heads, width=64)
    found, plain = (output_and_gradients(attend, arrays) for attend in (interpreted, attention.attend))
    np.testing.assert_allclose(found[0], reference(*arrays[:3]), atol=1e-5)
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("kv_heads", [4, 1])  # 1: fewer than devices along tensor
def test_splash_on_a_mesh_equals_one_device(kv_heads: int) -> None:
    arrays = random_arrays(batch=4, time=128, kv_heads=kv_heads)
    alone = output_and_gradients(attention.attend, arrays)
    mesh = sharding.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), batch_size=4)
    with jax.set_mesh(mesh):
        placed = tuple(jax.device_put(x, sharding.batch_sharding(mesh)) for x in arrays)
        together = output_and_gradients(interpreted, placed)
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


MODEL = ModelConfig(layers=1, width=64, heads=4, context=256)


@pytest.mark.parametrize(
    ("asked", "platform", "change", "chosen", "warning"),
    [
        ("auto", "cpu", {}, "xla", ""),
        ("auto", "gpu", {}, "xla", ""),
        ("auto", "tpu", {}, "splash", ""),
        ("auto", "tpu", {"context": 200}, "xla", ""),
        ("xla", "tpu", {}, "xla", ""),
        ("splash", "tpu", {}, "splash", ""),
        ("splash", "tpu", {"context": 200}, "xla", "config.model.context is 200"),
        ("splash", "gpu", {}, "xla", "splash is for TPUs, this is gpu"),
        ("cudnn", "cpu", {}, "xla", "cudnn is for NVIDIA GPUs, this is cpu"),
        ("cudnn", "gpu", {"compute_dtype": "float32"}, "xla", "compute_dtype=bfloat16"),
        ("cudnn", "gpu", {}, "xla", "a trial failed"),  # there is no GPU here
    ],
)
def test_who_gets_which(
    asked: Any, platform: str, change: dict[str, Any], chosen: str, warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = ModelConfig(**{**vars(MODEL), "attention": asked, **change})
    with caplog.at_level(logging.WARNING):
        assert fused.resolve(model, platform=platform).attention == chosen
    said = " ".join(record.getMessage() for record in caplog.records)
    assert warning in said
    assert bool(said) == bool(warning)


@pytest.mark.parametrize("asked", ["cudnn", "auto"])
def test_cudnn_where_the_trial_succeeds(monkeypatch: pytest.MonkeyPatch, asked: Any) -> None:
    def stands_in(q: jax.Array, k: jax.Array, v: jax.Array, *, starts_BT: None) -> jax.Array:
        assert starts_BT is None
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    monkeypatch.setattr(fused, "attend_cudnn", stands_in)
    model = ModelConfig(**{**vars(MODEL), "attention": asked, "kv_heads": 2, "context": 64})
    assert fused.resolve(model, platform="gpu").attention == "cudnn"


@pytest.mark.parametrize(
    ("asked", "platform", "chosen"),
    [("auto", "gpu", "unroll"), ("auto", "tpu", "scan"), ("auto", "cpu", "scan"), ("scan", "gpu", "scan")],
)
def test_layers_are_unrolled_on_gpus(asked: Any, platform: str, chosen: str) -> None:
    model = ModelConfig(**{**vars(MODEL), "layer_loop": asked, "attention": "xla"})
    assert fused.resolve(model, platform=platform).layer_loop == chosen
