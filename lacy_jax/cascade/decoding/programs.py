"""What runs on the device: `read` fills the cache with tokens, `write` lets the model go on by itself for some steps.

Both are functions over plain arrays, compiled once for each number of rows and cache length, `read` also for each chunk
width. How many steps are written, how tokens are picked and what text is given are values, and need no
program of their own.

Axes: R rows, T chunk, S cache length, D model, V vocabulary, A steps ahead, G bytes of given text, W bytes of a token.
"""

import contextlib
import functools
import threading
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax.cascade.decoding.sampling import SamplingRows, best, pick
from lacy_jax.config import ModelConfig
from lacy_jax.model import decoder
from lacy_jax.model.attention import KVCache, LayerCache
from lacy_jax.model.precision import product_precision

# The most steps that one call runs.
MOST_STEPS = 16
_EXCLUDED = -1e30

_compiled: set[Hashable] = set()  # as JAX's own programs, of all models of this process
_compiling: dict[Hashable, threading.Lock] = {}


class Weights(NamedTuple):
    """A model and what its tokens are. `bytes_VW`: the UTF-8 of each token, `lengths_V` bytes of it.

    probes_2E: `model.probe.probe_weights` of the probes for facts and for what the partner saves. emitted_V: whether a
    token may be picked. goes_on_V: whether it goes on with a word or number before it.
    """

    params: decoder.Params
    probes_2E: jax.Array
    emitted_V: jax.Array
    goes_on_V: jax.Array
    bytes_VW: jax.Array
    lengths_V: jax.Array


class Chunk(NamedTuple):
    """What R rows read, from the host, as arrays of NumPy.

    tokens_RT: of which the first `count_R` are real; 0 for a row that only stands there. start_R: the position of the
    first.
    """

    tokens_RT: Any
    start_R: Any
    count_R: Any


class Start(NamedTuple):
    """Where R rows go on writing, from the host, as arrays of NumPy.

    token_R: the last known token, which the cache does not have yet; start_R: its position. runs_R: False for a row
    that only stands there. steps: how many tokens are picked, at most MOST_STEPS. whole_R: whether the first of them
    must not go on with the word before. given_RG: bytes that the tokens must spell, `left_R` of them. path_RG: how the
    tokenizer spells them, the id of each token at its first byte.
    """

    token_R: Any
    start_R: Any
    runs_R: Any
    steps: Any
    whole_R: Any
    given_RG: Any
    path_RG: Any
    left_R: Any
    sampling: SamplingRows


class Heads(NamedTuple):
    """What was picked at each step, and what a `Step` says beside it; the first `steps` of A are filled."""

    token_AR: jax.Array
    scalars_AR6: jax.Array


class _Carry(NamedTuple):
    cache: KVCache
    token_R: jax.Array
    used_R: jax.Array  # bytes of the given text that are written
    sampling: SamplingRows
    heads: Heads


@contextlib.contextmanager
def compiled_once(*program: Hashable) -> Iterator[None]:
    """Around the call of a program, by its name, model and sizes: threads compile the same one once."""
    if program in _compiled:
        yield
        return
    with _compiling.setdefault(program, threading.Lock()):
        yield
    _compiled.add(program)


def read(weights: Weights, cache: KVCache, slots_R: Any, chunk: Chunk, *, config: ModelConfig) -> KVCache:
    """The cache with a chunk in it, for the rows in `slots_R` (None: all of the cache, in order). Donates the cache.

    Padding goes to the last slot of a row's cache, which no query sees. One program for each shape reads all layers,
    called once a layer: they are alike, and one program of them all would take as many times longer to compile. Only as
    many layers are read as the cache has (to compile, one will do).
    """
    tables = {name: values for name, values in weights.params.items() if name != "blocks"}
    with product_precision(config):
        x_RTD, positions_RT = _embedded(tables, chunk, length=cache.length, config=config)
        filled = []
        for params, layer in zip(weights.params["blocks"], cache.layers, strict=False):
            x_RTD, rows = _read_layer(params, layer, slots_R, (x_RTD, positions_RT), config=config)
            filled.append(rows)
    return KVCache(tuple(filled))


@functools.partial(jax.jit, static_argnames=("length", "config"))
def _embedded(params: decoder.Params, chunk: Chunk, *, length: int, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """What enters the first layer, [R, T, D], and where each token stands, [R, T]."""
    columns_T = jnp.arange(chunk.tokens_RT.shape[1])
    positions_RT = jnp.where(columns_T < chunk.count_R[:, None], chunk.start_R[:, None] + columns_T, length - 1)
    tokens_RT = jnp.asarray(chunk.tokens_RT)
    return decoder.embed(params, tokens_RT, positions_BT=positions_RT, config=config), positions_RT


@functools.partial(jax.jit, static_argnames="config", donate_argnums=1)
def _read_layer(
    params: decoder.Params,
    cache: LayerCache,
    slots_R: Any,
    entering: tuple[jax.Array, jax.Array],
    *,
    config: ModelConfig,
) -> tuple[jax.Array, LayerCache]:
    """One layer of `read`. `entering`: [R, T, D], and the positions."""
    x_RTD, positions_RT = entering
    x_RTD, rows = decoder.layer_cached(
        params, x_RTD, _rows_of(cache, slots_R), positions_BT=positions_RT, config=config
    )
    return x_RTD, _with_rows(cache, slots_R, rows)


def write(
    weights: Weights, cache: KVCache, slots_R: Any, start: Start, *, config: ModelConfig, call_id: int
) -> tuple[Heads, KVCache]:
    """Picks the next tokens of the rows in `slots_R` (None: all), each fed in its turn but the last. Donates the cache.

    What would be written beyond a row's room goes to the last slot of its cache, like padding.
    """
    if slots_R is None:
        return _write_rows(weights, cache, start, config=config, call_id=call_id)
    rows = KVCache(tuple(_take_rows(layer, slots_R) for layer in cache.layers))
    heads, rows = _write_rows(weights, rows, start, config=config, call_id=call_id)
    layers = zip(cache.layers, rows.layers, strict=True)
    return heads, KVCache(tuple(_put_rows(layer, slots_R, written) for layer, written in layers))


@functools.partial(jax.jit, static_argnames=("config", "call_id"), donate_argnums=1)
def _write_rows(
    weights: Weights, rows: KVCache, start: Start, *, config: ModelConfig, call_id: int
) -> tuple[Heads, KVCache]:
    """`write` for all rows of a cache."""
    count = start.token_R.size
    heads = Heads(jnp.zeros((MOST_STEPS, count), jnp.int32), jnp.zeros((MOST_STEPS, count, 6), jnp.float32))
    carry = _Carry(rows, jnp.asarray(start.token_R), jnp.zeros_like(start.left_R), start.sampling, heads)
    step = functools.partial(_step, weights, start, config=config, call_id=call_id)
    carry = jax.lax.fori_loop(0, start.steps, step, carry)
    return carry.heads, carry.cache


def _step(
    weights: Weights, start: Start, index: jax.Array, carry: _Carry, *, config: ModelConfig, call_id: int
) -> _Carry:
    """One pass of the model, and one token picked for every row."""
    scratch = carry.cache.length - 1
    position_R = start.start_R + index
    position_R = jnp.where(start.runs_R & (position_R < scratch), position_R, scratch)
    hidden_R1D, cache = _forward(weights, carry.token_R[:, None], position_R[:, None], carry.cache, config=config)
    logits_RV, probed_R2 = _head(weights, hidden_R1D[:, 0], config=config)
    left_R = start.left_R - carry.used_R
    allowed_RV = _allowed(weights, start, used_R=carry.used_R, left_R=left_R)
    allowed_RV &= ~((start.whole_R & (index == 0))[:, None] & weights.goes_on_V)
    own_RV = jnp.where(allowed_RV, logits_RV, -jnp.inf)
    drawn = jnp.any((carry.sampling.temperature_R > 0) | (carry.sampling.penalty_R != 1))
    token_R = jax.lax.cond(drawn, pick, lambda own_RV, _: best(own_RV), own_RV, carry.sampling)
    heads = Heads(
        carry.heads.token_AR.at[index].set(token_R),
        carry.heads.scalars_AR6.at[index].set(what_is_said(logits_RV, probed_R2, call_id=call_id)),
    )
    seen_RS = carry.sampling.seen_RS.at[jnp.arange(token_R.size), position_R + 1].set(token_R, mode="drop")
    sampling = carry.sampling._replace(position_R=carry.sampling.position_R + 1, seen_RS=seen_RS)
    used_R = carry.used_R + jnp.minimum(weights.lengths_V[token_R], left_R)
    return _Carry(cache, token_R, used_R, sampling, heads)


def _rows_of(layer: LayerCache, slots_R: Any) -> LayerCache:
    return layer if slots_R is None else (layer[0][slots_R], layer[1][slots_R])


def _with_rows(layer: LayerCache, slots_R: Any, rows: LayerCache) -> LayerCache:
    return rows if slots_R is None else (layer[0].at[slots_R].set(rows[0]), layer[1].at[slots_R].set(rows[1]))


# One layer's, as programs of their own: within `_write_rows` they would double the time that it takes to compile.
_take_rows = jax.jit(_rows_of)
_put_rows = jax.jit(_with_rows, donate_argnums=0)


def _forward(
    weights: Weights, tokens_RT: jax.Array, positions_RT: jax.Array, cache: KVCache, *, config: ModelConfig
) -> tuple[jax.Array, KVCache]:
    with product_precision(config):
        return decoder.forward_cached(weights.params, tokens_RT, positions_BT=positions_RT, cache=cache, config=config)


def _head(weights: Weights, hidden_RD: jax.Array, *, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """Logits, float32 [R, V], and what the probes say, [R, 2]."""
    with product_precision(config):
        probed_R2 = what_is_probed(hidden_RD, weights.probes_2E)
        matrix_VD = decoder.output_matrix(weights.params).astype(hidden_RD.dtype)
        logits_RV = jnp.einsum("rd,vd->rv", hidden_RD, matrix_VD, preferred_element_type=jnp.float32)
    return logits_RV, probed_R2


def _allowed(weights: Weights, start: Start, *, used_R: jax.Array, left_R: jax.Array) -> jax.Array:
    """Which tokens may be picked, bool [R, V]: all that are text, or those that may spell a row's given text.

    These are the tokenizer's own next one, and all that spell what is left and more. Any other beginning of what is
    left, such as a lone space before a word, is a spelling that a model has hardly ever seen, and it does not come back
    to the word from there.
    """

    def spelling() -> jax.Array:
        left_R1 = left_R[:, None]
        beyond_RV = _agrees(weights, start.given_RG, used_R, left_R) & (weights.lengths_V > left_R1)
        next_R1 = jnp.take_along_axis(jnp.asarray(start.path_RG), used_R[:, None], axis=1, mode="clip")
        own_RV = jnp.arange(weights.lengths_V.size) == next_R1
        return jnp.where(left_R1 > 0, (weights.emitted_V & beyond_RV) | own_RV, weights.emitted_V)

    anything_RV = jnp.broadcast_to(weights.emitted_V, (left_R.size, weights.lengths_V.size))
    return jax.lax.cond(jnp.any(left_R > 0), spelling, lambda: anything_RV)


def _agrees(weights: Weights, given_RG: jax.Array, used_R: jax.Array, left_R: jax.Array) -> jax.Array:
    """Whether a token begins with the rest of a row's given text, or the rest begins with it; bool [R, V]."""
    width = weights.bytes_VW.shape[1]

    def compare(at: jax.Array, agrees_RV: jax.Array) -> jax.Array:
        given_R1 = jnp.take_along_axis(given_RG, (used_R + at)[:, None], axis=1, mode="clip")
        same_RV = weights.bytes_VW[:, at] == given_R1
        return agrees_RV & (same_RV | (at >= weights.lengths_V) | (at >= left_R)[:, None])

    something_RV = jnp.broadcast_to(weights.lengths_V > 0, (left_R.size, weights.lengths_V.size))
    # One byte at a time, and no pass at all where nothing is given.
    return jax.lax.fori_loop(0, jnp.minimum(jnp.max(left_R), width), compare, something_RV)


def what_is_probed(hidden_RD: jax.Array, probes_2E: jax.Array) -> jax.Array:
    """P(a fact comes next) and the nats that the partner saves, float32 [R, 2] (any axes for R); see `Weights`."""
    values_R2 = hidden_RD.astype(jnp.float32) @ probes_2E[:, :-1].T + probes_2E[:, -1]
    return values_R2.at[..., 0].set(jax.nn.sigmoid(values_R2[..., 0]))


def what_is_said(logits_RV: jax.Array, probed_R2: jax.Array, *, call_id: int) -> jax.Array:
    """What a `Step` says beside its token, float32 [R, 6] in the order of its fields; any axes stand for R.

    The cascade decodes by it, and the evidence's teacher-forced reader reads by it (evidence/reading.py).
    """
    call_R = logits_RV[..., call_id]
    others_RV = jnp.where(jnp.arange(logits_RV.shape[-1]) < call_id, logits_RV, _EXCLUDED)
    top_R = jnp.max(others_RV, axis=-1)
    weights_RV = jnp.exp(others_RV - top_R[..., None])
    sum_R = jnp.sum(weights_RV, axis=-1)
    lse_R = top_R + jnp.log(sum_R)
    uncertainty_R = -jnp.expm1(top_R - lse_R)
    entropy_R = lse_R - jnp.sum(weights_RV * others_RV, axis=-1) / sum_R
    said_R4 = jnp.stack([call_R - lse_R, call_R, uncertainty_R, entropy_R], axis=-1)
    return jnp.concatenate([said_R4, probed_R2], axis=-1)


def token_bytes(tokens: list[bytes], *, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights.bytes_VW, uint8 [vocab, W], and Weights.lengths_V, int32 [vocab], of the tokens' UTF-8."""
    bytes_VW = np.zeros((vocab, max(map(len, tokens))), np.uint8)
    lengths_V = np.zeros(vocab, np.int32)
    for row, text in enumerate(tokens):
        bytes_VW[row, : len(text)] = np.frombuffer(text, np.uint8)
        lengths_V[row] = len(text)
    return bytes_VW, lengths_V
