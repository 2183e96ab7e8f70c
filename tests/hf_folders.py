"""Hugging Face folders made on the spot: real tokenizers, random weights, written without PyTorch."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "Albert Einstein was born in Ulm on 14 March 1879, and died in Princeton on 18 April 1955.",
    "In 1,234.5 BC nobody wrote “naïve café” or Łódź; 東京 and 北京 are capitals, and so is Αθήνα.",
    "The river Danube flows through ten countries: Germany, Austria, Slovakia, Hungary and others. 😀",
] * 4
# How Llama 3 cuts text before merging: numbers in threes. Source: its tokenizer.json.
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL = {  # what starts a text (None: what ends one), what ends it
    "gpt2": (None, "<|endoftext|>"),
    "llama3": ("<|begin_of_text|>", "<|end_of_text|>"),
    "llama2": ("<s>", "</s>"),
}


@functools.cache
def tokenizer_json(style: str) -> str:
    """A tokenizer.json as GPT-2's, Llama 3's (both byte-level) or Llama 2's (SentencePiece-like)."""
    return _sentencepiece_like() if style == "llama2" else _byte_level(style)


def control_ids(style: str) -> tuple[int | None, int]:
    id_of = Tokenizer.from_str(tokenizer_json(style)).token_to_id
    start, end = CONTROL[style]
    return (id_of(start) if start else None), id_of(end)


def _byte_level(style: str) -> str:
    tokenizer = Tokenizer(models.BPE(ignore_merges=style == "llama3"))
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=style == "gpt2")
    split = pre_tokenizers.Split(Regex(_LLAMA3_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = plain if style == "gpt2" else pre_tokenizers.Sequence([split, plain])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens([token for token in CONTROL[style] if token])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    if style == "llama3":
        begin = "<|begin_of_text|>"
        template = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.token_to_id(begin))]
        )
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), template])
    return tokenizer.to_str()


def _sentencepiece_like() -> str:
    """U+2581 for spaces, one before the text, bytes for characters outside the vocabulary."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=450, special_tokens=tokens, show_progress=False)
    tokenizer.train_from_iterator([word for text in CORPUS for word in text.split() if word.isascii()], trainer)
    definition = json.loads(tokenizer.to_str())
    definition["added_tokens"] = definition["added_tokens"][:3]  # the bytes are ordinary tokens
    return json.dumps(definition)


def settings_of(style: str, **changes: Any) -> dict[str, Any]:
    """A config.json of a small model as published ones write it; `style` is that of the tokenizer."""
    start, end = control_ids(style)
    vocab_size = len(Tokenizer.from_str(tokenizer_json(style)).get_vocab())
    common = {"vocab_size": vocab_size, "bos_token_id": end if start is None else start, "eos_token_id": end}
    if style == "gpt2":
        own = {
            "model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 96, "n_inner": None,
            "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
        }  # fmt: skip
    else:
        own = {
            "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4,
            "num_key_value_heads": 2, "intermediate_size": 56, "max_position_embeddings": 160, "hidden_act": "silu",
            "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "tie_word_embeddings": style == "llama3",
        }  # fmt: skip
    if style == "llama3":
        own["rope_scaling"] = {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 40,
        }  # fmt: skip
    return own | common | changes


def random_tensors(settings: dict[str, Any], *, seed: int = 0, scale: float = 0.15) -> dict[str, np.ndarray]:
    """Tensors under the names, and in the shapes, that published files have (those of transformers' modules)."""
    gpt2 = settings["model_type"] == "gpt2"
    shapes = _gpt2_shapes(settings) if gpt2 else _llama_shapes(settings)
    rng = np.random.default_rng(seed)
    tensors = {name: (scale * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    for name in shapes:
        if name.endswith("weight") and ("norm" in name or ".ln_" in name):
            tensors[name] += 1.0
    return tensors


def _gpt2_shapes(settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    d, f = settings["n_embd"], settings.get("n_inner") or 4 * settings["n_embd"]
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (settings["vocab_size"], d), "wpe.weight": (settings["n_positions"], d),
        "ln_f.weight": (d,), "ln_f.bias": (d,),
    }  # fmt: skip
    for layer in range(settings["n_layer"]):
        for name, shape in {
            "ln_1": (d,), "ln_2": (d,), "attn.c_attn": (d, 3 * d), "attn.c_proj": (d, d), "mlp.c_fc": (d, f),
            "mlp.c_proj": (f, d),
        }.items():  # fmt: skip
            shapes[f"h.{layer}.{name}.weight"] = shape
            shapes[f"h.{layer}.{name}.bias"] = shape[-1:]
    return {f"transformer.{name}": shape for name, shape in shapes.items()}


def _llama_shapes(settings: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    d, f, vocab = settings["hidden_size"], settings["intermediate_size"], settings["vocab_size"]
    kv = d * settings["num_key_value_heads"] // settings["num_attention_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, d), "model.norm.weight": (d,)}
    if not settings["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocab, d)
    for layer in range(settings["num_hidden_layers"]):
        for name, shape in {
            "input_layernorm": (d,), "post_attention_layernorm": (d,), "self_attn.q_proj": (d, d),
            "self_attn.k_proj": (kv, d), "self_attn.v_proj": (kv, d), "self_attn.o_proj": (d, d),
            "mlp.gate_proj": (f, d), "mlp.up_proj": (f, d), "mlp.down_proj": (d, f),
        }.items():  # fmt: skip
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    return shapes


def write_folder(
    folder: Path, style: str, *, tensors: dict[str, np.ndarray] | None = None, settings: dict[str, Any] | None = None
) -> Path:
    """config.json, tokenizer.json and model.safetensors, of random weights if none are given."""
    settings = settings or settings_of(style)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.json").write_text(tokenizer_json(style))
    safetensors.numpy.save_file(tensors or random_tensors(settings), folder / "model.safetensors")
    return folder
