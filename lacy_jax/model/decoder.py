"""A pre-norm decoder in Flax NNX: GPT-2's by default, Llama's by config (ModelConfig).

The module is built once, for its structure; parameters are a plain nested dict of arrays and `forward` is a
pure function of them, so that a training step is one jitted function over pytrees. All layers share one
stacked set of parameters with a leading axis L, run by `lax.scan` (or unrolled).

Axes: B batch, T time, D model, F feed-forward, H heads, K key-value heads, N head width, V vocabulary, L layers.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from lacy_jax.config import ModelConfig
from lacy_jax.model import attention
from lacy_jax.model.attention import KVCache, LayerCache
from lacy_jax.model.precision import product_precision
from lacy_jax.model.product import outward_product, product
from lacy_jax.runtime.sharding import constrain

Params = dict[str, Any]  # nested dict of arrays
# How the matrices of linear layers lie: [I, O], as in training and in checkpoints, or [O, I].
Kernels = Literal["inward", "outward"]

# The tensor units of TPUs and GPUs want vocabularies in whole tiles, and a mesh axis must divide them.
VOCAB_MULTIPLE = 128

# What each parameter's axes mean, by the end of its path; sharding.py maps the names onto mesh axes. Parameters
# of blocks have a leading "layers" axis besides.
PARAMETER_AXES: dict[str, tuple[str | None, ...]] = {
    "embedding/embedding": ("vocab", "embed"),
    "positions/embedding": (None, "embed"),
    "output/embedding": ("vocab", "embed"),
    "query/kernel": ("embed", "heads", None),
    "query/bias": ("heads", None),
    "key/kernel": ("embed", "kv_heads", None),
    "key/bias": ("kv_heads", None),
    "value/kernel": ("embed", "kv_heads", None),
    "value/bias": ("kv_heads", None),
    "attention/output/kernel": ("heads", None, "embed"),
    "attention/output/bias": (None,),
    "up/kernel": ("embed", "mlp"),
    "up/bias": ("mlp",),
    "gate/kernel": ("embed", "mlp"),
    "gate/bias": ("mlp",),
    "down/kernel": ("mlp", "embed"),
    "down/bias": (None,),
    "norm/scale": (None,),
    "norm/bias": (None,),
}


def padded_vocab(size: int) -> int:
    """Rows of the embedding for a vocabulary of `size` tokens: the next multiple of VOCAB_MULTIPLE."""
    return -(-size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE


def parameter_axes(path: str) -> tuple[str | None, ...]:
    """Logical axis names of the parameter at `path` ("blocks/attention/query/kernel").

    Raises:
        KeyError: a parameter that PARAMETER_AXES does not know.
    """
    matches = [axes for end, axes in PARAMETER_AXES.items() if path == end or path.endswith(("/" + end, "_" + end))]
    if not matches:
        raise KeyError(f"no entry of PARAMETER_AXES in lacy_jax/model/decoder.py matches parameter {path!r}")
    return ("layers", *matches[0]) if path.startswith("blocks/") else matches[0]


def _norm(config: ModelConfig, width: int, *, rngs: nnx.Rngs) -> nnx.LayerNorm | nnx.RMSNorm:
    dtype = jnp.dtype(config.compute_dtype)
    if config.norm == "rmsnorm":
        return nnx.RMSNorm(width, epsilon=config.norm_epsilon, dtype=dtype, rngs=rngs)
    return nnx.LayerNorm(width, epsilon=config.norm_epsilon, use_bias=config.bias, dtype=dtype, rngs=rngs)


class Attention(nnx.Module):
    """Multi-head attention; fewer key-value heads than heads means grouped queries."""

    def __init__(self, config: ModelConfig, *, kernels: Kernels, rngs: nnx.Rngs):
        heads, head_width = config.heads, config.head_size
        kv_heads = config.kv_heads or heads
        dot_general = outward_product if kernels == "outward" else jax.lax.dot_general
        dtype = jnp.dtype(config.compute_dtype)
        linear = functools.partial(nnx.LinearGeneral, dtype=dtype, dot_general=dot_general, rngs=rngs)
        normal = nnx.initializers.normal
        inward = functools.partial(
            linear, config.width, kernel_init=normal(0.02), use_bias=config.bias or config.qkv_bias
        )
        self.query = inward((heads, head_width))
        self.key = inward((kv_heads, head_width))
        self.value = inward((kv_heads, head_width))
        self.query_norm = _norm(config, head_width, rngs=rngs) if config.qk_norm else None
        self.key_norm = _norm(config, head_width, rngs=rngs) if config.qk_norm else None
        # Residual projections are smaller, so that the sum over layers keeps its variance (GPT-2).
        residual = normal(0.02 / (2 * config.layers) ** 0.5)
        self.output = linear(
            (heads, head_width), config.width, axis=(-2, -1), kernel_init=residual, use_bias=config.bias
        )
        self.config = config

    def __call__(
        self, x_BTD: jax.Array, positions_BT: jax.Array, cache: LayerCache | None, starts_BT: jax.Array | None
    ) -> tuple[jax.Array, LayerCache | None]:
        q_BTHN, k_BTKN, v_BTKN = self.query(x_BTD), self.key(x_BTD), self.value(x_BTD)
        if self.query_norm is not None and self.key_norm is not None:
            q_BTHN, k_BTKN = self.query_norm(q_BTHN), self.key_norm(k_BTKN)
        if self.config.positions == "rope":
            frequencies = attention.rope_frequencies(self.config)
            q_BTHN = attention.rotate(q_BTHN, positions_BT, frequencies=frequencies)
            k_BTKN = attention.rotate(k_BTKN, positions_BT, frequencies=frequencies)
        if cache is None:
            mixed_BTHN = attention.attend(
                q_BTHN, k_BTKN, v_BTKN, starts_BT=starts_BT, implementation=self.config.attention
            )
            return self.output(mixed_BTHN), None
        keys = attention.write_cache(cache[0], k_BTKN, positions_BT)
        values = attention.write_cache(cache[1], v_BTKN, positions_BT)
        return self.output(attention.attend_cached(q_BTHN, (keys, values), positions_BT)), (keys, values)


class MLP(nnx.Module):
    """GELU feed-forward (GPT-2) or SwiGLU (arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig, *, kernels: Kernels, rngs: nnx.Rngs):
        hidden = config.mlp_width or 4 * config.width
        dot_general = outward_product if kernels == "outward" else product
        dtype = jnp.dtype(config.compute_dtype)
        linear = functools.partial(nnx.Linear, use_bias=config.bias, dtype=dtype, dot_general=dot_general, rngs=rngs)
        normal = nnx.initializers.normal
        self.up = linear(config.width, hidden, kernel_init=normal(0.02))
        self.gate = linear(config.width, hidden, kernel_init=normal(0.02)) if config.activation == "swiglu" else None
        # Residual projections are smaller, as in Attention.
        residual = normal(0.02 / (2 * config.layers) ** 0.5)
        self.down = linear(hidden, config.width, kernel_init=residual)

    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        if self.gate is None:
            return self.down(jax.nn.gelu(self.up(x_BTD), approximate=True))
        return self.down(jax.nn.silu(self.gate(x_BTD)) * self.up(x_BTD))


class Block(nnx.Module):
    """One pre-norm layer."""

    def __init__(self, config: ModelConfig, *, kernels: Kernels = "inward", rngs: nnx.Rngs):
        self.attention_norm = _norm(config, config.width, rngs=rngs)
        self.attention = Attention(config, kernels=kernels, rngs=rngs)
        self.mlp_norm = _norm(config, config.width, rngs=rngs)
        self.mlp = MLP(config, kernels=kernels, rngs=rngs)

    def __call__(
        self,
        x_BTD: jax.Array,
        positions_BT: jax.Array,
        cache: LayerCache | None = None,
        starts_BT: jax.Array | None = None,
    ) -> tuple[jax.Array, LayerCache | None]:
        mixed_BTD, cache = self.attention(self.attention_norm(x_BTD), positions_BT, cache, starts_BT)
        x_BTD = x_BTD + mixed_BTD
        return x_BTD + self.mlp(self.mlp_norm(x_BTD)), cache


REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Decoder(nnx.Module):
    """Token ids [B, T] to final hidden states [B, T, D]."""

    def __init__(self, config: ModelConfig, *, vocab: int, rngs: nnx.Rngs):
        self.config = config
        dtype = jnp.dtype(config.compute_dtype)
        embed = functools.partial(
            nnx.Embed, features=config.width, dtype=dtype, embedding_init=nnx.initializers.normal(0.02), rngs=rngs
        )
        self.embedding = embed(num_embeddings=vocab)
        self.positions = embed(num_embeddings=config.context) if config.positions == "learned" else None
        self.output = None if config.tied_embedding else embed(num_embeddings=vocab)
        self.final_norm = _norm(config, config.width, rngs=rngs)

        @nnx.split_rngs(splits=config.layers)
        @nnx.vmap
        def stacked_blocks(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs)

        self.blocks = stacked_blocks(rngs)

    def __call__(self, tokens_BT: jax.Array, positions_BT: jax.Array, starts_BT: jax.Array | None) -> jax.Array:
        x_BTD = self.embed(tokens_BT, positions_BT)
        block_graph, stacked = nnx.split(self.blocks)

        def layer(x_BTD: jax.Array, params: Any) -> tuple[jax.Array, None]:
            x_BTD, _ = nnx.merge(block_graph, params)(x_BTD, positions_BT, starts_BT=starts_BT)
            return constrain(x_BTD, ("batch", None, None)), None

        if self.config.remat != "none":
            # prevent_cse is for code outside loops; the scan is a loop already.
            prevent_cse = self.config.layer_loop == "unroll"
            layer = jax.checkpoint(layer, policy=REMAT_POLICIES[self.config.remat], prevent_cse=prevent_cse)
        unroll = self.config.layers if self.config.layer_loop == "unroll" else 1
        x_BTD, _ = jax.lax.scan(layer, x_BTD, stacked, unroll=unroll)
        return self.final_norm(x_BTD)

    def embed(self, tokens_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
        """What enters the first layer, [B, T, D]."""
        x_BTD = _lookup(self.embedding, tokens_BT, ("vocab", None))
        if self.positions is not None:
            x_BTD = x_BTD + _lookup(self.positions, positions_BT, (None, None))
        return constrain(x_BTD, ("batch", None, None))


def _lookup(table: nnx.Embed, ids_BT: jax.Array, axes: tuple[str | None, ...]) -> jax.Array:
    """Rows of a table, [B, T, D] in the compute dtype; `axes` says how the table lies while it is read."""
    # Whole along D, as every weight is while it is used. Read in pieces of D, the result would have to go from split by
    # D to split by rows, which XLA cannot do but by making all of [B, T, D] on every device.
    matrix = constrain(table.embedding[...].astype(table.dtype), axes)
    return jnp.take(matrix, ids_BT, axis=0)


@functools.lru_cache(maxsize=64)
def _structure(config: ModelConfig, vocab: int) -> tuple[Any, Any]:
    """The decoder's graph and its parameters' shapes, without any array."""
    model = nnx.eval_shape(lambda: Decoder(config, vocab=vocab, rngs=nnx.Rngs(0)))
    return nnx.split(model, nnx.Param)


@functools.lru_cache(maxsize=64)
def _block_structure(config: ModelConfig, kernels: Kernels) -> tuple[Any, Any]:
    """One layer's graph and its parameters, without any array; their shapes are those of "inward"."""
    block = nnx.eval_shape(lambda: Block(config, kernels=kernels, rngs=nnx.Rngs(0)))
    return nnx.split(block, nnx.Param)


def init_params(config: ModelConfig, *, vocab: int, key: jax.Array) -> Params:
    """Float32 parameters of a new model; jit it to make them sharded. `vocab` comes from `padded_vocab`."""
    model = Decoder(config, vocab=vocab, rngs=nnx.Rngs(key))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def param_shapes(config: ModelConfig, *, vocab: int) -> Params:
    """What `init_params` gives, as `jax.ShapeDtypeStruct`s: nothing is allocated."""
    shapes: Params = nnx.to_pure_dict(_structure(config, vocab)[1])
    return shapes


def forward(
    params: Params, tokens_BT: jax.Array, *, config: ModelConfig, starts_BT: jax.Array | None = None
) -> jax.Array:
    """Final hidden states [B, T, D] in the compute dtype: token t has seen tokens 0..t of its row.

    Args:
        starts_BT: int32, where in its row each token's document starts, for rows of several documents. Token t has then
            seen tokens starts[t]..t, and its position is t - starts[t]. None: each row is one.
    """
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    if starts_BT is not None:
        positions_BT = positions_BT - starts_BT
    return _module(params, config)(tokens_BT, positions_BT, starts_BT)


def read(params: Params, tokens_BT: jax.Array, *, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """Final hidden states [B, T, D] and logits [B, T, V], float32: what the model says after each token of a row."""
    with product_precision(config):
        hidden_BTD = forward(params, tokens_BT, config=config).astype(jnp.float32)
        return hidden_BTD, hidden_BTD @ output_matrix(params).astype(jnp.float32).T


class Outward(NamedTuple):
    """One layer's parameters, its kernels outward first: [O..., I...]."""

    params: Params


def unstack_layers(params: Params, *, kernels: Kernels) -> Params:
    """Parameters for `forward_cached`: `blocks` is a tuple with one layer's arrays each, the rest as it was.

    A step of decoding reads every weight once: slices out of stacked arrays would be copied first.
    """

    def layer(index: int) -> Params | Outward:
        own = jax.tree.map(lambda x: x[index], params["blocks"])
        return own if kernels == "inward" else _outward(own)

    return {**params, "blocks": tuple(map(layer, range(jax.tree.leaves(params["blocks"])[0].shape[0])))}


def _outward(params: Params) -> Outward:
    """One layer's parameters with their kernels turned."""

    def turned(path: tuple[Any, ...], array: jax.Array) -> jax.Array:
        *_, layer, name = (key.key for key in path)
        if name != "kernel":
            return array
        # Of attention's, "output" sums over two axes, heads and their width, and the others result in two.
        return jnp.moveaxis(array, -1, 0) if layer == "output" else jnp.moveaxis(array, 0, -1)

    return Outward(jax.tree_util.tree_map_with_path(turned, params))


def forward_cached(
    params: Params, tokens_BT: jax.Array, *, positions_BT: jax.Array, cache: KVCache, config: ModelConfig
) -> tuple[jax.Array, KVCache]:
    """Hidden states [B, T, D] of a chunk at the given positions, and the cache with that chunk in it.

    `params` are those of `unstack_layers`.
    Padding at a row's right end is harmless: its slots lie beyond every real query, and the row's next
    tokens overwrite them before a query can see them.
    """
    x_BTD = embed(params, tokens_BT, positions_BT=positions_BT, config=config)
    filled = []
    for layer_params, layer_cache in zip(params["blocks"], cache.layers, strict=True):
        x_BTD, layer_filled = layer_cached(layer_params, x_BTD, layer_cache, positions_BT=positions_BT, config=config)
        filled.append(layer_filled)
    return _without_blocks(params, config).final_norm(x_BTD), KVCache(tuple(filled))


def embed(params: Params, tokens_BT: jax.Array, *, positions_BT: jax.Array, config: ModelConfig) -> jax.Array:
    """What enters the first layer, [B, T, D]; `params` are those of `unstack_layers`."""
    return _without_blocks(params, config).embed(tokens_BT, positions_BT)


@functools.partial(jax.jit, static_argnames="config")
def layer_cached(
    params: Params | Outward, x_BTD: jax.Array, cache: LayerCache, *, positions_BT: jax.Array, config: ModelConfig
) -> tuple[jax.Array, LayerCache]:
    """One layer of `forward_cached`, by one of its `blocks`. Jitted, so that JAX traces one layer in place of all."""
    values, kernels = (params.params, "outward") if isinstance(params, Outward) else (params, "inward")
    graph, abstract = _block_structure(config, kernels)
    block: Block = nnx.merge(graph, _fill(abstract, values))
    x_BTD, filled = block(x_BTD, positions_BT, cache)
    assert filled is not None
    return x_BTD, filled


def _without_blocks(params: Params, config: ModelConfig) -> Decoder:
    return _module({name: value for name, value in params.items() if name != "blocks"}, config)


def output_matrix(params: Params) -> jax.Array:
    """The [V, D] matrix that turns hidden states into logits: the embedding where tied."""
    matrix: jax.Array = params["output" if "output" in params else "embedding"]["embedding"]
    return matrix


def new_cache(config: ModelConfig, *, batch: int, length: int) -> KVCache:
    """An empty cache for `batch` rows of at most `length` positions, in the compute dtype."""
    return attention.init_cache(
        layers=config.layers,
        batch=batch,
        length=length,
        kv_heads=config.kv_heads or config.heads,
        head_width=config.head_size,
        dtype=jnp.dtype(config.compute_dtype),
    )


def _module(params: Params, config: ModelConfig) -> Decoder:
    """The module with these parameters; what they lack stays abstract."""
    graph, abstract = _structure(config, params["embedding"]["embedding"].shape[0])
    return nnx.merge(graph, _fill(abstract, params))


def _fill(abstract: Any, values: Params) -> Any:
    state = jax.tree.map(lambda leaf: leaf, abstract)  # a copy: the next line fills it in place
    nnx.replace_by_pure_dict(state, values)
    return state
