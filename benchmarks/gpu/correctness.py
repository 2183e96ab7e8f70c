"""Compares what this device computes with something independent: float64 NumPy, and the same programs on the CPU.

    python -m benchmarks.gpu.correctness

- the objective, forward and backward, against tests/objective/reference.py (float64, from the paper's wording);
- the decoder's hidden states, float32 and bfloat16, against the CPU's in float32;
- two training steps against the CPU's;
- on an NVIDIA GPU: the step that main runs calls cuDNN's attention, and its values and gradients are xla's, over whole
  windows and with documents apart.

Beside each error, ||here - there|| / ||there||, stands the most that rounding explains. Ends with status 1 if one is
larger.
"""

import argparse
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.door import answered
from benchmarks.training_step import method_config, random_batch
from lacy_jax.config import Config, MeshConfig, ModelConfig
from lacy_jax.data.batch import document_starts
from lacy_jax.model import attention, decoder
from lacy_jax.model.precision import product_precision
from lacy_jax.objective import head_scalars, objective_sums
from lacy_jax.runtime import sharding
from lacy_jax.training.compiled import compile_train_step
from lacy_jax.training.state import init_state
from tests.objective import reference

# A product's rounding error, relative: bfloat16 keeps 8 bits; float32 has 24, and long sums lose some of them.
BOUNDS = {"float32": 1e-5, "bfloat16": 2e-2}
MODEL = ModelConfig(layers=2, width=256, heads=4, context=256, compute_dtype="float32")


@dataclasses.dataclass(frozen=True)
class Check:
    """name: what was compared. error: relative. bound: the most that rounding explains."""

    name: str
    error: float
    bound: float

    @property
    def good(self) -> bool:
        """Whether the error is a number within the bound."""
        return self.error <= self.bound


def distance(here: Any, there: Any) -> float:
    """||here - there|| / ||there||, over all arrays of two trees, in float64."""
    pairs = zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True)
    differences = [(np.asarray(a, np.float64) - np.asarray(b, np.float64), np.asarray(b, np.float64)) for a, b in pairs]
    parts = [(np.sum(difference**2), np.sum(b**2)) for difference, b in differences]
    return float(np.sqrt(sum(part[0] for part in parts) / sum(part[1] for part in parts)))


def objective_checks(dtype: str) -> Iterator[Check]:
    """Loss and gradients of LaCy's objective, from hidden states in a dtype."""
    inputs = reference.random_inputs(0, batch=4, time=64, width=64, vocab=1024)
    targets, valid = jnp.asarray(inputs.targets), jnp.asarray(inputs.valid)
    taken = inputs.factual & inputs.valid
    # The reference reads the rounded numbers: what is compared is the arithmetic on them.
    hidden, embedding = (np.asarray(jnp.asarray(x, dtype), np.float32) for x in (inputs.hidden, inputs.embedding))
    expected = reference.objective(
        hidden,
        embedding,
        inputs.targets,
        taken,
        inputs.valid,
        call_id=inputs.call_id,
        treatment="call",
        normalizer="full",
    )

    def loss(hidden: jax.Array, embedding: jax.Array) -> jax.Array:
        scalars = head_scalars(hidden, embedding, targets, inputs.call_id)
        return objective_sums(scalars, jnp.asarray(taken), valid, treatment="call", normalizer="full").loss

    with jax.default_matmul_precision("float32"):
        program = jax.jit(jax.value_and_grad(loss, (0, 1)))
        value, gradients = program(jnp.asarray(hidden, dtype), jnp.asarray(embedding, dtype))
    yield Check(f"objective, {dtype}: loss", distance(value, expected.losses.sum()), BOUNDS[dtype])
    both = (expected.d_hidden, expected.d_embedding)
    yield Check(f"objective, {dtype}: gradients", distance(gradients, both), BOUNDS[dtype])


def on(device: jax.Device, function: Callable[..., Any], *arguments: Any) -> Any:
    """What the jitted function gives on a device, as NumPy."""
    return jax.device_get(jax.jit(function)(*jax.device_put(arguments, device)))


def hidden_states(params: decoder.Params, tokens_BT: jax.Array, *, model: ModelConfig) -> jax.Array:
    """As training and decoding run the decoder."""
    with product_precision(model):
        return decoder.forward(params, tokens_BT, config=model)


def decoder_checks(name: str, style: ModelConfig, *, here: jax.Device, cpu: jax.Device) -> Iterator[Check]:
    """Hidden states of a style of model."""
    params = on(cpu, lambda: decoder.init_params(style, vocab=1024, key=jax.random.key(0)))
    tokens_BT = np.random.default_rng(0).integers(0, 1024, (2, style.context), np.int32)
    expected = on(cpu, functools.partial(hidden_states, model=style), params, tokens_BT)
    for dtype, bound in BOUNDS.items():
        model = dataclasses.replace(style, compute_dtype=dtype)  # type: ignore[arg-type]
        found = on(here, functools.partial(hidden_states, model=model), params, tokens_BT)
        yield Check(f"decoder, {name}, {dtype}", distance(found, expected), bound)


def two_steps(config: Config, device: jax.Device) -> list[float]:
    """The losses of two steps of the program that main runs."""
    vocab, call_id = decoder.padded_vocab(config.tokenizer.vocab_size + 1), config.tokenizer.vocab_size
    mesh = sharding.make_mesh(MeshConfig(), batch_size=config.data.batch_size, devices=[device])
    with jax.default_device(device), jax.set_mesh(mesh):
        state = jax.jit(lambda: init_state(config, vocab=vocab))()
        batch = random_batch(config, call_id=call_id)
        program = compile_train_step(config, vocab=vocab, call_id=call_id, mesh=mesh)
        losses = []
        for _ in range(2):
            state, sums = program(state, batch, None)
            losses.append(float(sums["loss"]) / float(sums["weight"]))
    return losses


def step_checks(here: jax.Device, cpu: jax.Device) -> Iterator[Check]:
    """The losses of two steps: the second is that of parameters which the first has changed."""
    settings = [f"model.{name}={getattr(MODEL, name)}" for name in ("layers", "width", "heads", "context")]
    config = method_config(
        "configs/slm_tiny.py", "lacy", [*settings, "data.batch_size=4", "optimizer.learning_rate=1e-3"]
    )

    def losses(dtype: str, device: jax.Device) -> list[float]:
        model = dataclasses.replace(config.model, compute_dtype=dtype)  # type: ignore[arg-type]
        return two_steps(dataclasses.replace(config, model=model), device)

    # AdamW's first steps are the gradient's signs: an element near 0 may turn over, a loss may not.
    bounds = {**BOUNDS, "bfloat16": BOUNDS["bfloat16"] / 10}
    expected = losses("float32", cpu)
    for dtype, bound in bounds.items():
        yield Check(f"two steps, {dtype}: losses", distance(losses(dtype, here), expected), bound)


def cudnn_call_checks(here: jax.Device, within: str) -> Iterator[Check]:
    """cuDNN's attention is in the step that main runs."""
    settings = ["layers=2", "width=256", "heads=4", "context=256", "compute_dtype=bfloat16", "attention=cudnn"]
    named = [f"model.{setting}" for setting in (*settings, f"attention_within={within}")]
    config = method_config("configs/slm_tiny.py", "lacy", named)
    vocab, call_id = decoder.padded_vocab(config.tokenizer.vocab_size + 1), config.tokenizer.vocab_size
    mesh = sharding.make_mesh(MeshConfig(), batch_size=config.data.batch_size, devices=[here])
    with jax.set_mesh(mesh):
        text = compile_train_step(config, vocab=vocab, call_id=call_id, mesh=mesh).as_text()
    yield Check(f"cuDNN is called, within a {within}, 0: yes", float("cudnn$fmha" not in (text or "")), 0.0)


def cudnn_checks(time: int, *, heads: int, kv_heads: int, within: str) -> Iterator[Check]:
    """cuDNN's attention gives what xla's gives, values and gradients; eight documents per row, on average."""
    keys = jax.random.split(jax.random.key(0), 4)
    counts = (heads, kv_heads, kv_heads, heads)
    q, k, v, weight = (
        jax.random.normal(key, (2, time, n, 64), jnp.bfloat16) for key, n in zip(keys, counts, strict=True)
    )
    ends = np.random.default_rng(0).random((2, time)) < 8 / time
    starts = jnp.asarray([document_starts(row, end_id=True) for row in ends]) if within == "document" else None

    def both(implementation: Any) -> Any:
        def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            mixed = attention.attend(q, k, v, starts_BT=starts, implementation=implementation)
            return jnp.sum(mixed.astype(jnp.float32) * weight), mixed

        gradients, mixed = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
        return mixed, gradients

    (mixed, gradients), (their_mixed, their_gradients) = both("cudnn"), both("xla")
    name = f"cuDNN {time}x{heads}/{kv_heads}, {within}"
    yield Check(f"{name}: values", distance(mixed, their_mixed), BOUNDS["bfloat16"])
    yield Check(f"{name}: gradients", distance(gradients, their_gradients), BOUNDS["bfloat16"])


def checks() -> Iterator[Check]:
    """All of them, in order."""
    here, cpu = jax.devices()[0], jax.devices("cpu")[0]
    llama = {"positions": "rope", "norm": "rmsnorm", "activation": "swiglu", "bias": False, "kv_heads": 2}
    styles = {"GPT-2": MODEL, "Llama": dataclasses.replace(MODEL, **llama)}  # type: ignore[arg-type]
    # One after the other, and what compiles longest last: of a run that is cut off, the others are printed.
    for dtype in BOUNDS:
        yield from objective_checks(dtype)
    for within in ("window", "document") if here.platform == "gpu" else ():
        yield from cudnn_checks(256, heads=4, kv_heads=4, within=within)
        yield from cudnn_checks(1024, heads=8, kv_heads=2, within=within)
        yield from cudnn_call_checks(here, within)
    for name, style in styles.items():
        yield from decoder_checks(name, style, here=here, cpu=cpu)
    yield from step_checks(here, cpu)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line for each check; 1 if one failed."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(
        arguments
    )
    device = jax.devices()[0]
    print(f"{device.device_kind} ({device.platform}), jax {jax.__version__}; relative errors")
    failed = 0
    for check in checks():
        print(
            f"{check.name:44}{check.error:10.1e}   at most {check.bound:.0e}   {'' if check.good else 'FAILED'}",
            flush=True,
        )
        failed += not check.good
    return 1 if failed else 0


if __name__ == "__main__":
    answered(main)
