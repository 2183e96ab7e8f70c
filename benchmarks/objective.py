"""Times the objective: output head, selection and loss sums, forward and backward, beside cross-entropy.

    python -m benchmarks.objective                            # head, selection and loss alone
    python -m benchmarks.objective --batch 8 --time 1024 --width 1024 --vocab 50304 --dtype bfloat16

Every method runs through the same head as `ce`, plain cross-entropy, and is timed in pairs with it: ce, a, ce, b,
... A ratio is the median over rounds of a pair's ratio, so a machine that is busy for a while disturbs both
alike; the line `ce` is that of cross-entropy to itself, the noise. Printed beside the figures: the floor,
6 N D V FLOPs (8 with vocabulary chunks) at the matrix product rate measured in the same rounds, and the peer,
`optax.softmax_cross_entropy_with_integer_labels` on float32 logits. `benchmarks.training_step` times the whole step.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.door import answered
from lacy_jax.config import Normalizer, Rule, Treatment
from lacy_jax.objective import head_scalars, nll_without_call, objective_sums, select_targets


@dataclass(frozen=True)
class Method:
    """One row of the paper's table."""

    rule: Rule
    treatment: Treatment = "call"
    normalizer: Normalizer = "renormalized"


METHODS = {
    "lacy": Method("factual_loss"),
    "lacy-full": Method("factual_loss", normalizer="full"),
    "loss": Method("loss"),
    "rho1": Method("excess_loss"),
    "ignore": Method("factual_loss", treatment="ignore"),
    "ignore-facts": Method("factual", treatment="ignore"),
    "joint": Method("factual_loss", treatment="joint"),
    "soft": Method("factual", treatment="soft", normalizer="full"),
    "mixture": Method("factual", treatment="mixture", normalizer="full"),
    "random-factual": Method("random_factual"),
}


@dataclass(frozen=True)
class Batch:
    """What the objective reads beside the hidden states."""

    targets: jax.Array
    factual: jax.Array
    valid: jax.Array
    reference_losses: jax.Array


jax.tree_util.register_dataclass(Batch)
Params = dict[str, Any]
Objective = Callable[[jax.Array, jax.Array, Batch], jax.Array]


def method_loss(method: Method, *, call_id: int, vocab_chunks: int) -> Objective:
    """Mean loss of a method from hidden states, output matrix and batch."""

    def loss(hidden: jax.Array, embedding: jax.Array, batch: Batch) -> jax.Array:
        scalars = head_scalars(hidden, embedding, batch.targets, call_id, vocab_chunks=vocab_chunks)
        taken = select_targets(
            nll_without_call(scalars),
            batch.factual,
            batch.valid,
            rule=method.rule,
            rate=0.6,
            reference_losses=batch.reference_losses,
            key=jax.random.key(0),
        )
        sums = objective_sums(scalars, taken, batch.valid, treatment=method.treatment, normalizer=method.normalizer)
        return sums.loss / sums.weight

    return loss


def ce_loss(*, call_id: int, vocab_chunks: int) -> Objective:
    """Plain cross-entropy through the same head."""

    def loss(hidden: jax.Array, embedding: jax.Array, batch: Batch) -> jax.Array:
        losses = nll_without_call(head_scalars(hidden, embedding, batch.targets, call_id, vocab_chunks=vocab_chunks))
        return jnp.sum(jnp.where(batch.valid, losses, 0.0)) / jnp.sum(batch.valid)

    return loss


def peer_loss(hidden: jax.Array, embedding: jax.Array, batch: Batch) -> jax.Array:
    """The same cross-entropy as a library writes it: all logits in float32."""
    logits = jnp.einsum("btd,vd->btv", hidden, embedding.astype(hidden.dtype)).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.targets)
    return jnp.sum(jnp.where(batch.valid, losses, 0.0)) / jnp.sum(batch.valid)


def as_function(objective: Objective) -> Callable[[Params, Batch], jax.Array]:
    """Loss of the hidden states and the output matrix, given as one tree."""
    return lambda params, batch: objective(params["hidden"], params["embedding"], batch)


def make_inputs(options: argparse.Namespace) -> tuple[Params, Batch]:
    """Random parameters and a random batch: a quarter of the targets factual, a few of padding."""
    keys = jax.random.split(jax.random.key(0), 6)
    shape, width = (options.batch, options.time), options.width
    embedding = 0.02 * jax.random.normal(keys[0], (options.vocab, width))
    params: Params = {"embedding": embedding, "hidden": jax.random.normal(keys[1], (*shape, width), options.dtype)}
    batch = Batch(
        targets=jax.random.randint(keys[3], shape, 0, options.call_id),
        factual=jax.random.bernoulli(keys[4], 0.25, shape),
        valid=jnp.broadcast_to(jnp.arange(options.time) < options.time - 3, shape),
        reference_losses=9 + jax.random.normal(keys[5], shape),
    )
    return params, batch


def compile_variants(options: argparse.Namespace, params: Params, batch: Batch) -> dict[str, Any]:
    """Compiled value_and_grad of every variant, by name."""
    head = {"call_id": options.call_id, "vocab_chunks": options.chunks}
    objectives: dict[str, Objective] = {"ce": ce_loss(**head)}
    objectives |= {name: method_loss(METHODS[name], **head) for name in options.methods.split(",")}
    objectives["optax peer"] = peer_loss
    return {
        name: jax.jit(jax.value_and_grad(as_function(objective))).lower(params, batch).compile()
        for name, objective in objectives.items()
    }


def matmul_rate(dtype: Any) -> float:
    """FLOP/s of one plain matrix product, timed now."""
    side = 1024 if jax.default_backend() == "cpu" else 8192
    square = jnp.ones((side, side), dtype)
    product = jax.jit(jnp.matmul)
    timed(lambda: product(square, square))
    return 2 * side**3 / min(timed(lambda: product(square, square)) for _ in range(5))


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call, its results waited for."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse options, run the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--time", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocab", type=int, default=8192, help="rows of the output matrix, padding included")
    parser.add_argument("--dtype", type=jnp.dtype, default=jnp.dtype("float32"))
    parser.add_argument("--chunks", type=int, default=1, help="vocab_chunks; 1 keeps the logits")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--methods", default=",".join(METHODS))
    options = parser.parse_args(arguments)
    options.call_id = options.vocab - 64
    params, batch = make_inputs(options)
    compiled = compile_variants(options, params, batch)
    calls: dict[str, Callable[[], Any]] = {}
    for name, program in compiled.items():
        calls[name] = functools.partial(program, params, batch)
    for call in calls.values():
        timed(call)
    rates: list[float] = []
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(options.rounds):
        rates.append(matmul_rate(options.dtype))
        for name, call in calls.items():
            pairs[name].append((timed(calls["ce"]), timed(call)))
    report(options, pairs, compiled, rate=statistics.median(rates))


def report(
    options: argparse.Namespace,
    pairs: dict[str, list[tuple[float, float]]],
    compiled: dict[str, Any],
    *,
    rate: float,
) -> None:
    """Print device, floor and one line a variant."""
    tokens = options.batch * options.time
    flops = 2 * tokens * options.width * options.vocab
    # A head's forward and two backward products, once more forward with chunks.
    products = (4 if options.chunks > 1 else 3) * flops
    device = jax.devices()[0]
    print(
        f"{device.device_kind} ({device.platform}), {tokens} tokens, width {options.width}, vocabulary {options.vocab},"
    )
    print(f"{options.dtype}, vocab_chunks {options.chunks}, {options.rounds} interleaved rounds")
    print(f"matrix products: {rate / 1e9:.0f} GFLOP/s measured; floor {1e3 * products / rate:.1f} ms")
    print(f"{'':16}{'ms':>9}{'ratio to ce':>13}{'(min .. max)':>18}{'peak MB':>9}")
    for name, program in compiled.items():
        ratios = [own / ce for ce, own in pairs[name]]
        memory = program.memory_analysis()
        peak = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
        print(
            f"{name:16}{1e3 * statistics.median(own for _, own in pairs[name]):9.1f}{statistics.median(ratios):13.3f}"
            f"{f'({min(ratios):.3f} .. {max(ratios):.3f})':>18}{peak / 1e6:9.1f}"
        )


if __name__ == "__main__":
    answered(main)
