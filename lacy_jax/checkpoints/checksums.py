"""Checksums of a checkpoint: one for each array, of its values, and one for the description that holds them.

An array's checksum is that of its elements, not of files. It is computed where the array lies, before it is saved and
after it is restored, so it covers all that happens in between, needs no file to be read twice, and does not depend on
how the array is split over devices.
"""

import hashlib
import json
from typing import Any

import jax
import jax.numpy as jnp

Checksums = dict[str, str]
"""An array's path -> eight hex digits."""

_GOLDEN = 0x9E3779B9  # 2**32 over the golden ratio: neighbours get numbers far apart
SIGNATURE = "sha256"  # the entry of a description that signs the others


def array_checksums(tree: Any) -> Checksums:
    """The checksum of every array of a pytree, wherever it lies; all processes of a run get the same ones.

    Of the elements x[i] in C order, as unsigned integers of their bits: sum of mix(x[i] + i * 0x9E3779B9) over all i,
    modulo 2**32, with mix the last step of MurmurHash3 (fmix32). mix is one-to-one, so one changed element always
    changes the sum. Several changed ones leave it as it was in one case of 2**32.
    """
    sums = jax.tree_util.tree_leaves_with_path(jax.block_until_ready(_sums(tree)))
    values = jax.device_get([value for _, value in sums])
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in sums]
    return {path: f"{int(value):08x}" for path, value in zip(paths, values, strict=True)}


def differing(found: Checksums, expected: Checksums) -> list[str]:
    """The paths whose checksums are not the expected ones, in order."""
    return sorted(path for path in found.keys() | expected.keys() if found.get(path) != expected.get(path))


def signed(description: dict[str, Any]) -> dict[str, Any]:
    """A description, plain JSON values, with the sha256 of everything else in it; an older signature is replaced."""
    return {**description, SIGNATURE: _digest(description)}


def is_genuine(description: dict[str, Any]) -> bool:
    """Whether a description has the content that was signed, or was never signed."""
    return SIGNATURE not in description or description[SIGNATURE] == _digest(description)


def _digest(description: dict[str, Any]) -> str:
    content = {name: value for name, value in description.items() if name != SIGNATURE}
    # Through JSON once, as a reader has it: a tuple is a list there.
    return hashlib.sha256(json.dumps(json.loads(json.dumps(content)), sort_keys=True).encode()).hexdigest()


@jax.jit
def _sums(tree: Any) -> Any:
    """The checksum of every array. One program: processes that run several in different orders can hang."""
    return jax.tree.map(_sum, tree)


def _sum(array: jax.Array) -> jax.Array:
    """uint32[]: the checksum of one array of elements of up to four bytes."""
    bits, stride = _bits(array), 1
    for axis in reversed(range(bits.ndim)):
        place = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        bits += place * jnp.uint32(stride * _GOLDEN % 2**32)
        stride *= bits.shape[axis]
    return jnp.sum(_mix(bits), dtype=jnp.uint32)


def _bits(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[array.dtype.itemsize]
    return jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)


def _mix(x: jax.Array) -> jax.Array:
    """MurmurHash3's fmix32. Source: github.com/aappleby/smhasher, src/MurmurHash3.cpp."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
