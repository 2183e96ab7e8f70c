"""Validation in as many parts as training: the same values, and no more memory."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax.config import MeshConfig
from lacy_jax.runtime import sharding
from lacy_jax.training.evaluate import target_values
from lacy_jax.training.state import init_state
from tests.training.test_step import CALL, CONFIG, VOCAB, make_batch


def compiled(microbatches: int) -> tuple[dict[str, np.ndarray], int]:
    """The values of a batch, and the bytes that a device needs for them."""
    config = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, microbatches=microbatches))
    mesh = sharding.make_mesh(MeshConfig(), batch_size=64, microbatches=microbatches, devices=jax.devices()[:1])

    def values(params: Any, batch: Any) -> dict[str, jax.Array]:
        return target_values(params, batch, jnp.int32(5), None, config=config, call_id=CALL)

    with jax.set_mesh(mesh):
        params, batch = init_state(config, vocab=VOCAB).params, jax.tree.map(jnp.asarray, make_batch(0, rows=64))
        program = jax.jit(values).lower(params, batch).compile()
        return jax.device_get(program(params, batch)), program.memory_analysis().temp_size_in_bytes


def test_parts_change_no_value_and_need_less_memory() -> None:
    (expected, whole), (found, parts) = compiled(1), compiled(8)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if value.dtype == np.float32:
            np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert found["taken"].any()
    logits = 64 * 16 * VOCAB * 4  # bytes of a batch's logits, float32
    assert whole > logits
    assert parts < whole / 2
