"""The decoder: causal, the same with a cache, and the same as Hugging Face's GPT-2 and Llama."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacy_jax.config import ModelConfig
from lacy_jax.model import decoder

VOCAB = 256
GPT2 = ModelConfig(layers=3, width=48, heads=4, context=24, compute_dtype="float32")
LLAMA = dataclasses.replace(
    GPT2,
    kv_heads=2,
    mlp_width=80,
    positions="rope",
    norm="rmsnorm",
    activation="swiglu",
    bias=False,
    tied_embedding=False,
)
STYLES = {"gpt2": GPT2, "llama": LLAMA}


def random_params(config: ModelConfig, seed: int = 0) -> decoder.Params:
    """Large random values everywhere, biases and norms included: at their initial 0 and 1 they could be ignored."""
    params = decoder.init_params(config, vocab=VOCAB, key=jax.random.key(seed))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(x + 0.1 * rng.standard_normal(x.shape), jnp.float32), params)


def random_tokens(rows: int, length: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, (rows, length)).astype(np.int32)


@pytest.mark.parametrize("config", STYLES.values(), ids=STYLES)
def test_no_position_sees_a_later_token(config: ModelConfig) -> None:
    """By gradient: the hidden state at t moves with the embeddings of tokens 0..t, all of them, and no other."""
    params, length = random_params(config), 12
    tokens = np.arange(length, dtype=np.int32)[None]  # token t only at position t

    @jax.jit
    @jax.grad
    def gradient_at(params: decoder.Params, t: int) -> jax.Array:
        return decoder.forward(params, tokens, config=config)[0, t].sum()

    for t in (0, 5, 11):
        gradient = gradient_at(params, t)["embedding"]["embedding"]
        moved = np.flatnonzero(np.abs(np.asarray(gradient[:length])).sum(axis=1))
        assert moved.tolist() == list(range(t + 1))


@pytest.mark.parametrize("kernels", ["inward", "outward"])
@pytest.mark.parametrize("config", STYLES.values(), ids=STYLES)
def test_rows_at_their_own_positions_in_chunks_equal_the_full_pass(config: ModelConfig, kernels: Any) -> None:
    params, tokens, lengths = random_params(config), random_tokens(3, 20), (20, 13, 7)
    full = jax.jit(decoder.forward, static_argnames="config")(params, tokens, config=config)
    step = jax.jit(decoder.forward_cached, static_argnames="config")
    cache, layers = decoder.new_cache(config, batch=3, length=24), decoder.unstack_layers(params, kernels=kernels)
    fed, found = [0, 0, 0], np.zeros_like(full)
    for sizes in [(5, 2, 1), (1, 4, 6), (8, 0, 0), (3, 7, 0), (3, 0, 0)]:
        width = 8 if max(sizes) > 3 else 3  # compiled twice
        chunk = np.zeros((3, width), np.int32)
        positions = np.zeros((3, width), np.int32)
        for row, size in enumerate(sizes):
            chunk[row, :size] = tokens[row, fed[row] : fed[row] + size]
            positions[row] = fed[row] + np.arange(width)  # padding runs on behind the row's end
        hidden, cache = step(layers, chunk, positions_BT=positions, cache=cache, config=config)
        for row, size in enumerate(sizes):
            found[row, fed[row] : fed[row] + size] = hidden[row, :size]
            fed[row] += size
    assert tuple(fed) == lengths
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(found[row, :length], full[row, :length], atol=2e-5)


@pytest.mark.parametrize("change", [{"layer_loop": "unroll"}, {"remat": "full"}, {"remat": "dots"}], ids=str)
def test_loops_and_rematerialisation_change_no_gradient(change: dict[str, str]) -> None:
    params, tokens = random_params(GPT2), random_tokens(2, 16)

    def gradient(config: ModelConfig) -> Any:
        return jax.jit(jax.grad(lambda p: (decoder.forward(p, tokens, config=config) ** 2).mean()))(params)

    expected, found = gradient(GPT2), gradient(dataclasses.replace(GPT2, **change))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), expected, found)


def test_rematerialisation_is_on_when_asked_for() -> None:
    """The backward pass of `full` holds a checkpoint of the layer; that of `none` does not."""
    params, tokens = random_params(GPT2), random_tokens(2, 16)

    def text(remat: str) -> str:
        config = dataclasses.replace(GPT2, remat=remat)
        return str(jax.make_jaxpr(jax.grad(lambda p: decoder.forward(p, tokens, config=config).sum()))(params))

    assert "remat" in text("full")
    assert "remat" in text("dots")
    assert "remat" not in text("none")


def test_bfloat16_is_close_to_float32_and_parameters_stay_float32() -> None:
    params, tokens = random_params(GPT2), random_tokens(2, 16)
    low = decoder.forward(params, tokens, config=dataclasses.replace(GPT2, compute_dtype="bfloat16"))
    high = np.asarray(decoder.forward(params, tokens, config=GPT2))
    assert low.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    error = np.linalg.norm(np.asarray(low, np.float32) - high) / np.linalg.norm(high)
    assert 1e-4 < error < 3e-2


def test_every_parameter_has_axes_of_its_rank() -> None:
    for config in STYLES.values():
        shapes = jax.eval_shape(lambda c=config: decoder.init_params(c, vocab=VOCAB, key=jax.random.key(0)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            assert len(decoder.parameter_axes(name)) == leaf.ndim, name
    with pytest.raises(KeyError, match="PARAMETER_AXES"):
        decoder.parameter_axes("blocks/attention/gate_projection")


@pytest.mark.parity
def test_gpt2_equals_hugging_face() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.GPT2Model(
        transformers.GPT2Config(
            vocab_size=VOCAB, n_positions=GPT2.context, n_embd=GPT2.width, n_layer=GPT2.layers, n_head=GPT2.heads
        )
    ).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}

    def stacked(name: str) -> np.ndarray:
        return np.stack([state[f"h.{layer}.{name}"] for layer in range(GPT2.layers)])

    heads, head_width = GPT2.heads, GPT2.width // GPT2.heads
    attention: dict[str, Any] = {}
    for index, part in enumerate(("query", "key", "value")):
        columns = slice(index * GPT2.width, (index + 1) * GPT2.width)
        weight, bias = stacked("attn.c_attn.weight")[..., columns], stacked("attn.c_attn.bias")[..., columns]
        attention[part] = {
            "kernel": weight.reshape(GPT2.layers, GPT2.width, heads, head_width),
            "bias": bias.reshape(GPT2.layers, heads, head_width),
        }
    out = stacked("attn.c_proj.weight").reshape(GPT2.layers, heads, head_width, GPT2.width)
    attention["output"] = {"kernel": out, "bias": stacked("attn.c_proj.bias")}
    ours = {
        "embedding": {"embedding": state["wte.weight"]},
        "positions": {"embedding": state["wpe.weight"]},
        "final_norm": {"scale": state["ln_f.weight"], "bias": state["ln_f.bias"]},
        "blocks": {
            "attention_norm": {"scale": stacked("ln_1.weight"), "bias": stacked("ln_1.bias")},
            "attention": attention,
            "mlp_norm": {"scale": stacked("ln_2.weight"), "bias": stacked("ln_2.bias")},
            "mlp": {
                "up": {"kernel": stacked("mlp.c_fc.weight"), "bias": stacked("mlp.c_fc.bias")},
                "down": {"kernel": stacked("mlp.c_proj.weight"), "bias": stacked("mlp.c_proj.bias")},
            },
        },
    }
    tokens = random_tokens(2, GPT2.context)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens.astype(np.int64))).last_hidden_state.numpy()
    np.testing.assert_allclose(decoder.forward(ours, tokens, config=GPT2), expected, atol=2e-5)


@pytest.mark.parity
def test_llama_equals_hugging_face() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        max_position_embeddings=LLAMA.context,
        hidden_size=LLAMA.width,
        intermediate_size=LLAMA.mlp_width,
        num_hidden_layers=LLAMA.layers,
        num_attention_heads=LLAMA.heads,
        num_key_value_heads=LLAMA.kv_heads,
        rms_norm_eps=LLAMA.norm_epsilon,
    )
    theirs = transformers.LlamaModel(config).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    state = {name: value.numpy() for name, value in theirs.state_dict().items()}

    def stacked(name: str) -> np.ndarray:
        return np.stack([state[f"layers.{layer}.{name}.weight"] for layer in range(LLAMA.layers)])

    def projection(name: str) -> np.ndarray:
        return stacked(name).swapaxes(1, 2)  # torch keeps [out, in]

    head_width = LLAMA.width // LLAMA.heads

    def heads_of(name: str, heads: int) -> np.ndarray:
        return projection(name).reshape(LLAMA.layers, LLAMA.width, heads, head_width)

    out = projection("self_attn.o_proj").reshape(LLAMA.layers, LLAMA.heads, head_width, LLAMA.width)
    ours = {
        "embedding": {"embedding": state["embed_tokens.weight"]},
        "output": {"embedding": np.zeros((VOCAB, LLAMA.width), np.float32)},
        "final_norm": {"scale": state["norm.weight"]},
        "blocks": {
            "attention_norm": {"scale": stacked("input_layernorm")},
            "attention": {
                "query": {"kernel": heads_of("self_attn.q_proj", LLAMA.heads)},
                "key": {"kernel": heads_of("self_attn.k_proj", LLAMA.kv_heads)},
                "value": {"kernel": heads_of("self_attn.v_proj", LLAMA.kv_heads)},
                "output": {"kernel": out},
            },
            "mlp_norm": {"scale": stacked("post_attention_layernorm")},
            "mlp": {
                "gate": {"kernel": projection("mlp.gate_proj")},
                "up": {"kernel": projection("mlp.up_proj")},
                "down": {"kernel": projection("mlp.down_proj")},
            },
        },
    }
    tokens = random_tokens(2, LLAMA.context)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens.astype(np.int64))).last_hidden_state.numpy()
    np.testing.assert_allclose(decoder.forward(ours, tokens, config=LLAMA), expected, atol=2e-5)
