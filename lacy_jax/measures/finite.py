"""Whether arrays hold numbers: neither NaN nor infinity."""

from typing import Any

import jax
import jax.numpy as jnp


@jax.jit
def all_finite(tree: Any) -> jax.Array:
    """Whether every floating-point number in a pytree of arrays is finite; bool scalar."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]))
