"""The same numbers on every mesh, from programs that sort nothing and gather no losses."""

import functools
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from lacy_jax.objective import head_scalars, select_targets
from tests.objective import programs
from tests.objective.reference import RULES, random_inputs

NAMES = tuple(programs.SPECS)


def mesh_of(shape: tuple[int, int, int]) -> jax.sharding.Mesh:
    if len(jax.devices()) < 8:
        pytest.skip("needs eight devices")
    return programs.mesh_of(jax.devices(), shape)


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    drawn = random_inputs(0, batch=programs.BATCH, time=programs.TIME, width=programs.WIDTH, vocab=programs.VOCAB)
    targets = np.minimum(drawn.targets, programs.CALL_ID - 1)
    return dict(zip(NAMES, (drawn.hidden, drawn.embedding, targets, drawn.factual, drawn.valid), strict=True))


def placed(inputs: dict[str, np.ndarray], mesh: jax.sharding.Mesh) -> list[jax.Array]:
    return [jax.device_put(inputs[name], NamedSharding(mesh, programs.SPECS[name])) for name in NAMES]


@pytest.mark.parametrize("shape", programs.MESHES, ids=str)
def test_identical_losses_give_identical_taken_sets(shape):
    rng = np.random.default_rng(0)
    # Rounded, so that there are ties on both sides of every device's border.
    losses = np.round(rng.normal(5, 3, (programs.BATCH, programs.TIME)), 1).astype(np.float32)
    factual, valid = rng.random(losses.shape) < 0.4, rng.random(losses.shape) < 0.9

    @jax.jit
    def select_all(losses, factual, valid, rate):
        return [
            select_targets(
                losses,
                factual,
                valid,
                rule=rule,
                rate=rate,
                rate_of="valid",
                reference_losses=losses[::-1],
                key=jax.random.key(5),
            )
            for rule in RULES
        ]

    sharding = NamedSharding(mesh_of(shape), programs.SPECS["valid"])
    arrays = (losses, factual, valid)
    alone = select_all(*arrays, 0.15)
    for rule, one, many in zip(RULES, alone, select_all(*jax.device_put(arrays, sharding), 0.15), strict=True):
        np.testing.assert_array_equal(one, many, err_msg=rule)
        assert one.sum() == (0 if rule == "none" else round(0.15 * valid.sum())) or rule == "factual"


@pytest.mark.parametrize(
    ("treatment", "normalizer", "chunks"),
    [
        ("call", "renormalized", 4),
        pytest.param("soft", "full", 4, marks=pytest.mark.slow),
        pytest.param("mixture", "full", 4, marks=pytest.mark.slow),
    ],
)
def test_losses_and_gradients_equal_one_devices(inputs, treatment, normalizer, chunks):
    options = {"treatment": treatment, "normalizer": normalizer, "chunks": chunks}
    run = jax.jit(functools.partial(programs.value_and_gradients, **options))
    (loss, (taken, losses, greedy)), gradients = run(*inputs.values())
    for shape in programs.MESHES:
        result = run(*placed(inputs, mesh_of(shape)))
        (loss_here, (taken_here, losses_here, greedy_here)), gradients_here = result
        np.testing.assert_allclose(loss_here, loss, rtol=1e-6)
        np.testing.assert_allclose(losses_here, losses, rtol=1e-6, atol=3e-6)
        np.testing.assert_array_equal(taken_here, taken)
        np.testing.assert_array_equal(greedy_here, greedy)
        for here, alone in zip(gradients_here, gradients, strict=True):
            np.testing.assert_allclose(here, alone, rtol=1e-5, atol=1e-5 * np.abs(alone).max())


@pytest.mark.parametrize(("shape", "chunks"), [((8, 1, 1), 1), ((2, 2, 2), 1), ((2, 2, 2), 4), ((1, 1, 8), 4)], ids=str)
def test_compiled_for_eight_devices(shape, chunks):
    mesh = mesh_of(shape)
    text = programs.compile_for(mesh, dtype="float32", chunks=chunks).compile().as_text()
    assert programs.faults(text, mesh, chunks=chunks, float32_logits=True) == []
    if shape != (1, 1, 8):  # there every device holds all losses
        assert re.search(r"s32\[256\].* all-reduce\(", text), "the counts of the selection are summed over devices"


def test_faults_are_seen():
    """A program that sorts and gathers losses, with float32 logits, is caught."""
    mesh = mesh_of((2, 2, 2))

    def naive(hidden, embedding):
        logits = jnp.einsum("btd,vd->btv", hidden, embedding)
        losses = jax.nn.logsumexp(logits, -1) - logits[..., 0]
        return jnp.sort(losses.reshape(-1)), logits

    arguments = [
        jax.ShapeDtypeStruct(shape, "float32", sharding=NamedSharding(mesh, programs.SPECS[name]))
        for name, shape in [
            ("hidden", (programs.BATCH, programs.TIME, programs.WIDTH)),
            ("embedding", (programs.VOCAB, programs.WIDTH)),
        ]
    ]
    found = " ".join(
        programs.faults(jax.jit(naive).lower(*arguments).compile().as_text(), mesh, chunks=4, float32_logits=False)
    )
    for fault in ("sort:", "tokens gathered:", "float32 logits held:", "larger than a chunk"):
        assert fault in found


@pytest.mark.parametrize("chunks", [1, 4])
def test_nothing_large_is_kept_for_the_backward_pass(inputs, chunks):
    """Tier 1 keeps the logits once, in bfloat16; tier 2 keeps nothing of the size of the logits."""
    hidden = jnp.asarray(inputs["hidden"], jnp.bfloat16)
    _, pullback = jax.vjp(
        lambda h, e: head_scalars(h, e, inputs["targets"], programs.CALL_ID, vocab_chunks=chunks),
        hidden,
        inputs["embedding"],
    )
    large = [x for x in jax.tree.leaves(pullback) if x.size >= hidden.size // programs.WIDTH * programs.VOCAB]
    assert [x.dtype for x in large] == ([jnp.bfloat16] if chunks == 1 else [])


@pytest.mark.parametrize("chunks", [1, 4])
def test_matrix_products_write_bfloat16_logits(chunks):
    """As lowered, before a backend has its say: no product over D comes out, and none over V goes in, in float32."""
    text = programs.compile_for(mesh_of((2, 2, 2)), dtype="bfloat16", chunks=chunks).as_text()
    columns = programs.VOCAB // chunks
    products = re.findall(r"dot_general.*: \((.*)\) -> (tensor<.*?>)", text)
    assert len(products) >= 3
    logits = f"{programs.BATCH}x{programs.TIME}x{columns}x"
    assert not [p for p in products if f"{logits}f32" in "".join(p)]
    assert [p for p in products if f"{logits}bf16" in p[1]]


@pytest.mark.tpu_compile
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_compiled_for_a_tpu_slice():
    environment = os.environ | {
        "TPU_SKIP_MDS_QUERY": "1",
        "JAX_PLATFORMS": "cpu",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-m", "tests.objective.programs"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines() == ["compiled 10 programs"]
