"""Matrix products of linear layers, in the forms that suit a backend."""

import math
from typing import Any

import jax
import jax.numpy as jnp


def product(x_BTI: jax.Array, weights_IO: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """x @ weights, [B, T, O] in the dtype of both: the `dot_general` of a linear layer.

    Only the gradient of the weights is computed in another way, on CPUs. The other arguments of `dot_general` say
    which axes to sum over, which is always the last with the first here.
    """
    return _product(x_BTI, weights_IO)


@jax.custom_vjp
def _product(x_BTI: jax.Array, weights_IO: jax.Array) -> jax.Array:
    return jnp.einsum("bti,io->bto", x_BTI, weights_IO)


def _forward(x_BTI: jax.Array, weights_IO: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(x_BTI, weights_IO), (x_BTI, weights_IO)


def _backward(kept: tuple[jax.Array, jax.Array], grad_BTO: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_BTI, weights_IO = kept

    def default(x_BTI: jax.Array, grad_BTO: jax.Array) -> jax.Array:
        return jnp.einsum("bti,bto->io", x_BTI, grad_BTO)

    def on_cpu(x_BTI: jax.Array, grad_BTO: jax.Array) -> jax.Array:
        # Of the two, XLA's CPU backend transposes the first: that should be the smaller one. Without the barrier it
        # would have the product give its result transposed, which only a slow kernel can (docs/performance.md).
        if x_BTI.shape[-1] <= grad_BTO.shape[-1]:
            return jax.lax.optimization_barrier(default(x_BTI, grad_BTO))
        return jax.lax.optimization_barrier(jnp.einsum("bto,bti->oi", grad_BTO, x_BTI)).T

    d_weights_IO = jax.lax.platform_dependent(x_BTI, grad_BTO, cpu=on_cpu, default=default)
    return jnp.einsum("bto,io->bti", grad_BTO, weights_IO), d_weights_IO


_product.defvjp(_forward, _backward)


def outward_product(x: jax.Array, weights_OI: jax.Array, dimension_numbers: Any, *_: Any, **__: Any) -> jax.Array:
    """x @ weights.T for weights that lie outward first: the `dot_general` of a linear layer of a few rows on a CPU.

    Where a few rows share the weights, XLA's CPU backend multiplies faster in this form (docs/cascade.md): the weights
    are the first operand, x the second with its rows last, and neither is transposed within the product. Hence the
    barriers. x is [..., I...], the weights [O..., I...] with as many axes I as are summed over, the result [..., O...].
    """
    summed = len(dimension_numbers[0][0])
    rows, outward = x.shape[: x.ndim - summed], weights_OI.shape[: weights_OI.ndim - summed]
    x_IR = jax.lax.optimization_barrier(x.reshape(math.prod(rows), -1).T)
    y_OR = jnp.einsum("oi,ir->or", weights_OI.reshape(math.prod(outward), -1), x_IR)
    return jax.lax.optimization_barrier(y_OR).T.reshape(*rows, *outward)
