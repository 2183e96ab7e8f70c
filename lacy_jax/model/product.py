"""A matrix product whose gradient suits every backend."""

import functools
from typing import Any

import jax
import jax.numpy as jnp


def product_narrowing(x_BTF: jax.Array, weights_FD: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """x @ weights, [B, T, D] in the dtype of both: the `dot_general` of a linear layer that gives fewer than it takes.

    Only the gradient of the weights is computed in another way, on CPUs. The other arguments of `dot_general` say
    which axes to sum over, which is always the last with the first here.
    """
    return _product(x_BTF, weights_FD)


@jax.custom_vjp
def _product(x_BTF: jax.Array, weights_FD: jax.Array) -> jax.Array:
    return jnp.einsum("btf,fd->btd", x_BTF, weights_FD)


def _forward(x_BTF: jax.Array, weights_FD: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(x_BTF, weights_FD), (x_BTF, weights_FD)


def _backward(kept: tuple[jax.Array, jax.Array], grad_BTD: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_BTF, weights_FD = kept

    def on_cpu(x_BTF: jax.Array, grad_BTD: jax.Array) -> jax.Array:
        # XLA's CPU backend would transpose all of x; this order transposes the gradient and the result.
        return jax.lax.optimization_barrier(jnp.einsum("btd,btf->df", grad_BTD, x_BTF)).T

    default = functools.partial(jnp.einsum, "btf,btd->fd")
    d_weights_FD = jax.lax.platform_dependent(x_BTF, grad_BTD, cpu=on_cpu, default=default)
    return jnp.einsum("btd,fd->btf", grad_BTD, weights_FD), d_weights_FD


_product.defvjp(_forward, _backward)
