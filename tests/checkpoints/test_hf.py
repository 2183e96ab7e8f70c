"""Hugging Face folders of the GPT-2 and Llama kind: the same logits, the same greedy text, clear refusals."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from lacy_jax.cascade.decoding.engine import Engine
from lacy_jax.cascade.decoding.session import Session
from lacy_jax.checkpoints import hf
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.errors import CheckpointError
from lacy_jax.model import decoder
from tests.hf_folders import random_tensors, settings_of, write_folder

STYLES = ("gpt2", "llama3", "llama2")
PROMPT = "Albert Einstein was born in 1879; naïve 東京 😀"


def logits_of(loaded: LoadedModel, tokens: np.ndarray) -> np.ndarray:
    config = Engine(loaded).config  # float32
    hidden = np.asarray(decoder.forward(loaded.params, tokens, config=config))
    return (hidden @ np.asarray(decoder.output_matrix(loaded.params), np.float32).T)[..., : loaded.tokenizer.call_id]


def greedy(loaded: LoadedModel, prompt: list[int], count: int) -> list[int]:
    session, ids = Session(Engine(loaded), slots=2), list(prompt)
    for _ in range(count):
        ids.append(session.steps({1: ids})[1][0].token)
    return ids[len(prompt) :]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "model"


def write_by_transformers(folder: Path, style: str, **changes: Any) -> Any:
    """A model of transformers', saved in `folder` beside a tokenizer; returns the model."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = settings_of(style, **changes)
    kind = settings.pop("model_type")
    config = transformers.AutoConfig.for_model(kind, **settings)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    write_folder(folder, style)  # for its tokenizer
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    theirs.save_pretrained(folder, safe_serialization=True, max_shard_size=changes.pop("shard", "1GB"))
    return theirs


@pytest.mark.parity
@pytest.mark.parametrize(
    ("style", "changes"),
    [("gpt2", {}), ("gpt2", {"n_inner": 72, "tie_word_embeddings": False}), ("llama3", {}), ("llama2", {}),
     ("llama2", {"num_key_value_heads": 4, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
     ("llama2", {"head_dim": 12}), ("llama2", {"model_type": "qwen2"}), ("llama3", {"model_type": "qwen2"}),
     ("llama2", {"model_type": "qwen3", "head_dim": 20, "tie_word_embeddings": True})],
    ids=str,
)  # fmt: skip
def test_logits_and_greedy_text_equal_transformers(folder: Path, style: str, changes: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    theirs = write_by_transformers(folder, style, **changes)
    loaded = load_model(str(folder))
    # Longer than the original context of the scaled rotary frequencies.
    tokens = np.random.default_rng(1).integers(0, loaded.tokenizer.call_id, (2, 90)).astype(np.int32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens).long()).logits.numpy()
    np.testing.assert_allclose(logits_of(loaded, tokens), expected, atol=1e-4, rtol=1e-4)

    prompt = [loaded.tokenizer.start_id, *loaded.tokenizer.encode(PROMPT).ids.tolist()]
    control = np.flatnonzero(loaded.tokenizer.byte_lengths[:-1] == 0).tolist()
    suppressed = [index for index in control if index != loaded.tokenizer.end_id]
    written = theirs.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=24, pad_token_id=0, suppress_tokens=suppressed or None
    )[0].tolist()[len(prompt) :]
    assert greedy(loaded, prompt, len(written)) == written
    assert len(set(written)) > 4


@pytest.mark.parity
def test_the_tokenizer_and_shards_that_transformers_writes(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = write_by_transformers(folder, "llama3", shard="40KB")
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
    )
    (folder / "tokenizer.json").unlink()
    fast.save_pretrained(folder)
    loaded = load_model(str(folder))
    assert fast(PROMPT)["input_ids"] == [loaded.tokenizer.start_id, *loaded.tokenizer.encode(PROMPT).ids.tolist()]
    assert theirs.config.bos_token_id == loaded.tokenizer.start_id


def attention_by_hand(x: np.ndarray, tensors: dict[str, np.ndarray], heads: int) -> np.ndarray:
    """GPT-2's attention of layer 0, in float64, head by head."""
    qkv = x @ tensors["h.0.attn.c_attn.weight"].astype(np.float64) + tensors["h.0.attn.c_attn.bias"]
    q, k, v = np.split(qkv, 3, axis=-1)
    n, mixed = x.shape[-1] // heads, np.zeros_like(x)
    for head in range(heads):
        part = slice(head * n, (head + 1) * n)
        for t in range(len(x)):
            scores = k[: t + 1, part] @ q[t, part] / np.sqrt(n)
            weights = np.exp(scores - scores.max())
            mixed[t, part] = weights / weights.sum() @ v[: t + 1, part]
    return mixed @ tensors["h.0.attn.c_proj.weight"] + tensors["h.0.attn.c_proj.bias"]


def test_gpt2_equals_a_plain_reference(folder: Path) -> None:
    settings = settings_of("gpt2", n_layer=1)
    tensors = random_tensors(settings)
    write_folder(folder, "gpt2", settings=settings, tensors=tensors)
    tensors = {name.removeprefix("transformer."): x for name, x in tensors.items()}
    loaded = load_model(str(folder))
    tokens = np.arange(20, dtype=np.int32)[None] * 7 % loaded.tokenizer.call_id

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    x = (tensors["wte.weight"][tokens[0]] + tensors["wpe.weight"][:20]).astype(np.float64)
    x = x + attention_by_hand(norm(x, "h.0.ln_1"), tensors, heads=4)
    up = norm(x, "h.0.ln_2") @ tensors["h.0.mlp.c_fc.weight"] + tensors["h.0.mlp.c_fc.bias"]
    up = 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
    x = x + up @ tensors["h.0.mlp.c_proj.weight"] + tensors["h.0.mlp.c_proj.bias"]
    expected = norm(x, "ln_f") @ tensors["wte.weight"].T
    np.testing.assert_allclose(logits_of(loaded, tokens)[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("style", STYLES)
def test_names_shards_and_left_overs(folder: Path, style: str) -> None:
    """With the model's prefix or without, in one file or several, with buffers that are no parameters."""
    expected = load_model(str(write_folder(folder, style))).params
    tensors = random_tensors(settings_of(style))
    bare = {name.removeprefix("transformer.").removeprefix("model."): x for name, x in tensors.items()}
    bare["h.0.attn.bias" if style == "gpt2" else "layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    if style == "llama3":  # tied, and there all the same
        bare["lm_head.weight"] = np.zeros_like(bare["embed_tokens.weight"])
    (folder / "model.safetensors").unlink()
    names, weight_map = sorted(bare), {}
    for part in range(3):
        file = f"model-{part + 1:05}-of-00003.safetensors"
        safetensors.numpy.save_file({name: bare[name] for name in names[part::3]}, folder / file)
        weight_map |= dict.fromkeys(names[part::3], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    jax.tree.map(np.testing.assert_array_equal, load_model(str(folder)).params, expected)


@pytest.mark.parametrize("style", ["gpt2", "llama3"])
def test_stored_bfloat16_stays_and_computes_as_its_float32(folder: Path, style: str) -> None:
    tensors = {name: x.astype(ml_dtypes.bfloat16) for name, x in random_tensors(settings_of(style)).items()}
    write_folder(folder, style, tensors=tensors)
    stored, wide = load_model(str(folder)), load_model(str(folder), params_dtype="float32")
    assert {leaf.dtype for leaf in jax.tree.leaves(stored.params)} == {np.dtype(ml_dtypes.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(wide.params)} == {np.dtype(np.float32)}
    tokens = np.arange(24, dtype=np.int32)[None]
    np.testing.assert_allclose(logits_of(stored, tokens), logits_of(wide, tokens), atol=1e-5, rtol=1e-5)


def test_what_is_told_of_the_model(folder: Path) -> None:
    settings = settings_of("llama3", max_position_embeddings=131_072, vocab_size=450)
    loaded = load_model(str(write_folder(folder, "llama3", settings=settings)))
    assert loaded.model.context == hf.MAX_CONTEXT
    assert hf.model_config(settings, max_context=64).context == 64
    assert (loaded.model.kv_heads, loaded.model.rope_scaling, loaded.model.rope_original_context) == (2, "llama3", 40)
    assert (loaded.family, loaded.step, loaded.learned_to_call) == ("llama", 0, False)
    assert (loaded.call_scores, loaded.factual_probe) == ((), None)
    # Rows that no token has are zeros: that of `<CALL>`, padding, and what the model pads its own vocabulary with.
    rows = np.asarray(loaded.params["embedding"]["embedding"])
    assert rows.shape[0] == decoder.padded_vocab(loaded.tokenizer.vocab_size)
    assert not rows[loaded.tokenizer.call_id :].any()
    assert rows[: loaded.tokenizer.call_id].any(axis=1).all()


def test_a_package_can_register_a_family(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The family mistral is one file here: llama's layout under another name, with fewer settings refused."""
    (tmp_path / "mistral_for_tests.py").write_text(
        "from lacy_jax.checkpoints.families.llama import SUPPORTED, model_settings, parts\n"
        'SUPPORTED = {"sliding_window": SUPPORTED["sliding_window"]}\n'
    )
    package = tmp_path / "mistral_for_tests-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mistral_for_tests\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[lacy_jax.families]\nmistral = mistral_for_tests\n")
    settings = settings_of("llama3")
    expected = load_model(str(write_folder(folder, "llama3", settings=settings)))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mistral"}))
    with pytest.raises(CheckpointError, match=r"'mistral'.*allowed are gpt2, llama"):
        load_model(str(folder))
    monkeypatch.syspath_prepend(tmp_path)
    loaded = load_model(str(folder))
    assert (loaded.family, loaded.model) == ("mistral", expected.model)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mistral", "sliding_window": 512}))
    with pytest.raises(CheckpointError, match="sliding_window 512"):
        load_model(str(folder))


def test_newer_rope_settings_mean_the_same() -> None:
    old = settings_of("llama3")
    new = {name: value for name, value in old.items() if not name.startswith("rope")}
    new["rope_parameters"] = old["rope_scaling"] | {"rope_theta": old["rope_theta"]}
    assert hf.model_config(new) == hf.model_config(old)
    assert hf.model_config(old | {"rope_theta": 5e5}).rope_theta == 5e5


@pytest.mark.parametrize(
    ("style", "changes", "named"),
    [
        ("gpt2", {"model_type": "mamba"}, "'mamba'.*gpt2, llama"),
        ("gpt2", {"model_type": None}, "None.*gpt2, llama"),
        ("gpt2", {"activation_function": "relu"}, "activation_function 'relu'.*gelu_new"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"n_head": 5}, "does not divide"),
        ("gpt2", {"n_layer": "two"}, r"config\.model\.layers.*'two'"),
        ("gpt2", {"vocab_size": 300}, r"401 tokens.*300 \(vocab_size\)"),
        ("gpt2", {"n_embd": 64}, "does not fit"),
        ("gpt2", {"n_layer": 3}, r"no tensor 'h\.2"),
        ("gpt2", {"n_layer": 1}, r"12 tensors.*'h\.1"),
        ("gpt2", {"tie_word_embeddings": False}, r"no tensor 'lm_head\.weight'"),
        ("llama3", {"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ("llama3", {"hidden_act": "gelu"}, "hidden_act 'gelu'.*silu"),
        ("llama3", {"attention_bias": True}, "attention_bias"),
        ("llama3", {"mlp_bias": True}, "mlp_bias"),
        ("llama3", {"sliding_window": 1024}, "sliding_window 1024.*None"),
        ("llama3", {"rope_scaling": {"type": "yarn", "factor": 4.0}}, "'yarn'.*default, linear, llama3"),
        ("llama3", {"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "low_freq_factor"),
        ("llama3", {"num_key_value_heads": 3}, "does not divide"),
        ("llama3", {"eos_token_id": None}, "eos_token_id"),
    ],
)
def test_what_cannot_be_run_is_refused(folder: Path, style: str, changes: dict[str, Any], named: str) -> None:
    write_folder(folder, style)
    (folder / "config.json").write_text(json.dumps(settings_of(style, **changes)))
    with pytest.raises(CheckpointError, match=named) as caught:
        load_model(str(folder))
    assert len(str(caught.value).splitlines()) == 1


def test_settings_that_are_missing(folder: Path) -> None:
    write_folder(folder, "llama2")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="num_hidden_layers"):
        load_model(str(folder))
    (folder / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(str(folder))


def test_files_that_are_missing_or_broken(folder: Path) -> None:
    write_folder(folder, "gpt2")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    with pytest.raises(CheckpointError, match=r"cannot read.*model\.safetensors"):
        load_model(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors.*save_pretrained"):
        load_model(str(folder))
    shards = {"weight_map": {"wte.weight": "model-00001-of-00002.safetensors", "h": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(CheckpointError, match=r"no model-00001.*, model-00002"):
        load_model(str(folder))
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"index\.json"):
        load_model(str(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no .*tokenizer\.json"):
        load_model(str(folder))


def test_whole_numbers_are_no_weights(folder: Path) -> None:
    tensors = random_tensors(settings_of("gpt2"))
    tensors["transformer.h.1.mlp.c_fc.weight"] = np.ones((32, 128), np.int8)
    with pytest.raises(CheckpointError, match=r"c_fc\.weight is I8.*F32, F16, BF16"):
        load_model(str(write_folder(folder, "gpt2", tensors=tensors)))


@pytest.mark.parametrize(
    ("style", "changes", "named"),
    [
        ("gpt2", {"n_layer": 10**9}, "too few for 1000000000 layers"),
        ("gpt2", {"n_layer": 10**30}, "too few"),
        ("gpt2", {"n_inner": 10**12}, "too few"),
        ("gpt2", {"n_embd": 4 * 10**12}, "too few"),
        ("llama3", {"num_hidden_layers": 10**9}, "too few"),
        ("llama3", {"hidden_size": 4 * 10**12, "intermediate_size": 10**12}, "too few"),
        ("llama3", {"hidden_size": 4 * 10**30}, "too few"),
        ("llama3", {"num_attention_heads": 0}, "no model that can be built"),
        ("llama3", {"head_dim": "x" * 100, "num_attention_heads": 10**10}, "no model that can be built"),
        ("llama3", {"rope_scaling": "llama3"}, "no model that can be built"),
        ("llama3", {"vocab_size": None}, r"only None \(vocab_size\)"),
    ],
)
def test_sizes_are_compared_with_the_files_before_anything_is_allocated(
    folder: Path, style: str, changes: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(folder, style)
    (folder / "config.json").write_text(json.dumps(settings_of(style, **changes)))
    allocated: list[int] = []
    monkeypatch.setattr(hf.np, "zeros", lambda shape, *_: allocated.append(math.prod(shape)) or np.empty(0))
    with pytest.raises(CheckpointError, match=named) as caught:
        load_model(str(folder))
    assert len(str(caught.value).splitlines()) == 1
    assert not allocated


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", 5, None, "\ud800.safetensors"]
)
def test_shards_lie_in_their_folder(folder: Path, name: Any) -> None:
    write_folder(folder, "gpt2")
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte.weight": name}}))
    with pytest.raises(CheckpointError, match=r"no safetensors file of its folder|cannot read"):
        load_model(str(folder))


@pytest.mark.parametrize(
    "raw", ["[" * 100_000, '{"a": ' * 2_000 + "1" + "}" * 2_000, '{"n_layer": ' + "9" * 5_000 + "}"]
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_json_that_python_cannot_take_is_one_line(folder: Path, name: str, raw: str) -> None:
    write_folder(folder, "gpt2")
    (folder / name).write_text(raw)
    with pytest.raises(CheckpointError, match=r"json") as caught:
        load_model(str(folder))
    assert len(str(caught.value).splitlines()) == 1
