"""GGUF files: the same parameters and the same tokens as the Hugging Face folder they were made of, clear refusals."""

import dataclasses
import json
import re
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece

from lacy_jax import generate, serve
from lacy_jax.cascade import Cascade
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.config import Score
from lacy_jax.data.tokenizer import train_tokenizer
from lacy_jax.doors import enter
from lacy_jax.errors import CheckpointError, ConfigError
from lacy_jax.model import decoder
from tests.checkpoints.test_hf import logits_of
from tests.hf_folders import CORPUS, control_ids, random_tensors, settings_of, tokenizer_json, write_folder
from tests.smollm2 import smollm2_file

TEXTS = [*CORPUS[:3], "", " ", "  two  spaces ", "naïve\n\n東京 😀 12345", "It's <|endoftext|> here", "ab\x00cd"]
CUT = {"gpt2": "gpt-2", "llama3": "llama-bpe"}


def interleaved(kernel_OI: np.ndarray, heads: int) -> np.ndarray:
    """As llama.cpp keeps the rows of queries and keys: a rotary pair's two halves in turn."""
    rows = kernel_OI.shape[0] // heads
    out = np.empty_like(kernel_OI)
    for head in range(heads):
        for half in range(rows // 2):
            out[head * rows + 2 * half] = kernel_OI[head * rows + half]
            out[head * rows + 2 * half + 1] = kernel_OI[head * rows + rows // 2 + half]
    return out


def write_gguf(
    path: Path, style: str, settings: dict[str, Any], tensors: dict[str, np.ndarray], **changes: Any
) -> Path:
    """The model of `settings` and `tensors` as a GGUF file; `changes` replace metadata, None leaves it out."""
    kind = settings["model_type"]
    layers = settings.get("n_layer") or settings["num_hidden_layers"]
    gpt2 = kind == "gpt2"
    meta: dict[str, Any] = {
        "block_count": layers,
        "embedding_length": settings["n_embd" if gpt2 else "hidden_size"],
        "attention.head_count": settings["n_head" if gpt2 else "num_attention_heads"],
        "feed_forward_length": 4 * settings["n_embd"] if gpt2 else settings["intermediate_size"],
        "context_length": settings["n_positions" if gpt2 else "max_position_embeddings"],
        "attention.layer_norm_epsilon" if gpt2 else "attention.layer_norm_rms_epsilon": 1e-5,
    }
    if not gpt2:
        meta |= {"attention.head_count_kv": settings["num_key_value_heads"], "rope.freq_base": 10_000.0}
        meta |= {"attention.key_length": settings["head_dim"]} if "head_dim" in settings else {}
    meta = {f"{kind}.{key}": value for key, value in meta.items()} | {"general.architecture": kind}
    meta |= tokenizer_keys(style) | changes
    writer = gguf.GGUFWriter(path, meta.pop("general.architecture"))
    for key, value in meta.items():
        if value is not None:
            kinds = {str: writer.add_string, float: writer.add_float32, list: writer.add_array, bool: writer.add_bool}
            kinds.get(type(value), writer.add_uint32)(key, value)
    kinds_of = {name: architecture for architecture, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds_of[kind], layers)
    for name, tensor in tensors.items():
        if gpt2 and ".c_" in name and name.endswith("weight"):
            tensor = tensor.T
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = settings["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            tensor = interleaved(tensor, heads)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")) or name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokenizer_keys(style: str) -> dict[str, Any]:
    definition = json.loads(tokenizer_json(style))
    added = {each["id"]: each["content"] for each in definition["added_tokens"]}
    tokens = {index: token for token, index in definition["model"]["vocab"].items()} | added
    start, end = control_ids(style)
    merges = [" ".join(each) if isinstance(each, list) else each for each in definition["model"]["merges"]]
    kinds = [3 if index in added else 1 for index in range(len(tokens))]
    found = {"model": "gpt2", "pre": CUT[style], "merges": merges, "eos_token_id": end, "token_type": kinds}
    found["tokens"] = [tokens[index] for index in range(len(tokens))]
    found |= {"add_bos_token": start is not None} | ({"bos_token_id": start} if start is not None else {})
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()}


def qwen_tensors(settings: dict[str, Any]) -> dict[str, np.ndarray]:
    """Llama's, with what Qwen has besides."""
    tensors, rng = random_tensors(settings), np.random.default_rng(1)
    heads = {"q": settings["num_attention_heads"], "k": settings["num_key_value_heads"]}
    for layer in range(settings["num_hidden_layers"]):
        at = f"model.layers.{layer}.self_attn"
        if settings["model_type"] == "qwen2":
            for name in "qkv":
                rows = tensors[f"{at}.{name}_proj.weight"].shape[0]
                tensors[f"{at}.{name}_proj.bias"] = rng.standard_normal(rows).astype(np.float32)
        else:
            for name in heads:
                tensors[f"{at}.{name}_norm.weight"] = 1 + rng.random(8).astype(np.float32)
    return tensors


@pytest.mark.parametrize(
    ("style", "kind"), [("gpt2", "gpt2"), ("llama3", "llama"), ("llama3", "qwen2"), ("llama3", "qwen3")]
)
def test_a_file_equals_the_folder_it_was_made_of(tmp_path: Path, style: str, kind: str) -> None:
    settings = settings_of(style, model_type=kind) | ({"head_dim": 8} if kind == "qwen3" else {})
    settings.pop("rope_scaling", None)  # the file has it as a tensor, below
    tensors = qwen_tensors(settings) if kind.startswith("qwen") else random_tensors(settings)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "chat_template.jinja").write_text("{{ messages }}")
    folder = load_model(str(write_folder(tmp_path / "folder", style, settings=settings, tensors=tensors)))
    more = {"tokenizer.chat_template": "{{ messages }}"}
    file = load_model(str(write_gguf(tmp_path / "model.gguf", style, settings, tensors, **more)))
    assert file.chat is not None
    assert folder.chat is not None
    assert file.chat.source == folder.chat.source == "{{ messages }}"
    inner = folder.model.mlp_width or 4 * folder.model.width  # the file always says it
    assert file.model == dataclasses.replace(folder.model, mlp_width=inner)
    assert file.family == kind
    for path, expected in zip(*(sorted(flat(each.params)) for each in (file, folder)), strict=True):
        assert path[0] == expected[0]
        np.testing.assert_array_equal(path[1], expected[1])
    for text in TEXTS:
        assert file.tokenizer.encode(text).ids.tolist() == folder.tokenizer.encode(text).ids.tolist(), text
    ids = ("start_id", "end_id", "call_id")
    assert [getattr(file.tokenizer, name) for name in ids] == [getattr(folder.tokenizer, name) for name in ids]


@pytest.mark.parametrize(
    ("style", "keys", "start"),
    [
        ("llama3", {"add_bos_token": None}, "<|begin_of_text|>"),  # as llama.cpp takes it where the file does not say
        ("llama3", {"add_bos_token": False}, "<|end_of_text|>"),
        ("gpt2", {"add_bos_token": None, "bos_token_id": 1}, "<|endoftext|>"),
    ],
)
def test_what_stands_before_a_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], style: str, keys: dict[str, Any], start: str
) -> None:
    own = {f"tokenizer.ggml.{name}": value for name, value in keys.items()}
    settings = settings_of(style)
    settings.pop("rope_scaling", None)
    path = write_gguf(tmp_path / "model.gguf", style, settings, random_tensors(settings), **own)
    tokenizer = load_model(str(path)).tokenizer
    assert tokenizer.start_id == tokenizer.control_tokens()[start]
    words = [f"--checkpoint={path}", "--partner=none", "--prompt=Ulm", "--max_new_tokens=1"]
    for more, said in (([], start), (["--start_token=none"], "nothing")):
        assert enter(generate.DOOR, [*words, *more]) == 0
        assert f"before each text: {said} (--start_token)\n" in capsys.readouterr().err


def flat(params: decoder.Params, prefix: str = "") -> list[tuple[str, np.ndarray]]:
    found = []
    for name, value in params.items():
        found += flat(value, f"{prefix}{name}/") if isinstance(value, dict) else [(prefix + name, np.asarray(value))]
    return found


def test_llama3s_scaled_frequencies(tmp_path: Path) -> None:
    """The file says what each frequency is divided by; ours must be the published rule's."""
    settings = settings_of("llama3", hidden_size=64, num_attention_heads=2, num_key_value_heads=1)
    settings["rope_scaling"] |= {"original_max_position_embeddings": 8192, "factor": 32.0}
    tensors = random_tensors(settings)
    frequencies = 10_000.0 ** (-np.arange(16) / 16)
    turns = 8192 * frequencies / (2 * np.pi)
    factors = np.where(turns < 1, 32.0, np.where(turns > 4, 1.0, 0.0))
    between = factors == 0
    share = (turns[between] - 1) / 3
    factors[between] = 1 / ((1 - share) / 32 + share)
    folder = load_model(str(write_folder(tmp_path / "folder", "llama3", settings=settings, tensors=tensors)))
    scaled = {**tensors, "rope_freqs.weight": factors.astype(np.float32)}
    # The library's table has no name for it but its own.
    path = write_gguf(tmp_path / "a.gguf", "llama3", settings, scaled)
    assert load_model(str(path)).model == folder.model
    others = [np.full(16, each, np.float32) for each in (3.0, 0.0, -1.0, np.nan, np.inf)]
    for other in (*others, np.ones(8, np.float32), np.ones(16, np.int32)):
        scaled["rope_freqs.weight"] = other
        with pytest.raises(CheckpointError, match=r"rotary frequencies|rope_freqs\.weight cannot be read"):
            load_model(str(write_gguf(tmp_path / "b.gguf", "llama3", settings, scaled)))


def test_sentencepieces_own_words(tmp_path: Path) -> None:
    """Tokens and scores of a SentencePiece model give the tokens that SentencePiece gives."""
    model = sentencepiece.SentencePieceProcessor(model_proto=train_tokenizer(CORPUS, vocab_size=420))
    pieces = range(model.get_piece_size())
    kinds = [6 if model.is_byte(i) else 2 if model.is_unknown(i) else 3 if model.is_control(i) else 1 for i in pieces]
    settings = settings_of("llama2", vocab_size=len(pieces))
    keys = {
        "model": "llama", "pre": None, "merges": None, "tokens": [model.id_to_piece(i) for i in pieces],
        "scores": [model.get_score(i) for i in pieces], "token_type": kinds, "eos_token_id": 2, "bos_token_id": 1,
        "add_bos_token": True, "add_space_prefix": False,
    }  # fmt: skip
    changes = {f"tokenizer.ggml.{key}": value for key, value in keys.items()}
    path = write_gguf(tmp_path / "a.gguf", "gpt2", settings, random_tensors(settings), **changes)
    tokenizer = load_model(str(path)).tokenizer
    assert (tokenizer.start_id, tokenizer.end_id) == (1, 2)
    for text in ("Albert Einstein died in 1955.", "naïve 東京 😀", "  Danube  flows ", "</s><s>", ""):
        assert tokenizer.encode(text).ids.tolist() == model.encode(text), text
        assert tokenizer.decode_bytes(tokenizer.encode(text).ids) == text.encode()


@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1])
def test_quantised_tensors_are_what_the_library_makes_of_them(tmp_path: Path, kind: Any) -> None:
    settings = settings_of("gpt2", n_layer=1)
    tensors = random_tensors(settings)
    path = write_gguf(tmp_path / "a.gguf", "gpt2", settings, tensors)
    plain = load_model(str(path)).params["embedding"]["embedding"]
    packed = gguf.quants.quantize(tensors["transformer.wte.weight"], kind)
    again = gguf.quants.dequantize(packed, kind)
    assert 0 < np.abs(again - tensors["transformer.wte.weight"]).max() < 0.1
    reader, writer = gguf.GGUFReader(path), gguf.GGUFWriter(tmp_path / "b.gguf", "gpt2")
    for field in reader.fields.values():
        if not field.name.startswith(("GGUF.", "general.architecture")):
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=sub)
    for tensor in reader.tensors:
        quantised = tensor.name == "token_embd.weight"
        writer.add_tensor(tensor.name, packed if quantised else tensor.data, raw_dtype=kind if quantised else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = np.asarray(load_model(str(tmp_path / "b.gguf")).params["embedding"]["embedding"])
    tokens = len(again)
    np.testing.assert_array_equal(found[:tokens], again)
    assert not np.array_equal(found[:tokens], np.asarray(plain)[:tokens])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"general.architecture": "mamba"}, "architecture 'mamba' is not supported; supported are gpt2, llama"),
        ({"llama.block_count": 3}, "block_count is 3, but there are 2 layers"),
        ({"llama.block_count": 2**31}, "block_count is 2147483648"),
        ({"llama.embedding_length": None}, r"llama\.embedding_length is missing"),
        ({"llama.feed_forward_length": 2**31}, "too few for 2 layers"),
        (
            {"llama.attention.head_count": 3, "llama.attention.head_count_kv": 3, "llama.attention.key_length": 8},
            "does not fit the settings beside it",
        ),
        ({"llama.rope.scaling.type": "yarn"}, "'yarn'.*default, linear, llama3"),
        ({"tokenizer.ggml.model": "bert"}, "tokenizer 'bert' is not supported"),
        ({"tokenizer.ggml.pre": "tekken"}, "'tekken' is not supported; supported are llama-bpe"),
        ({"tokenizer.ggml.tokens": None}, r"tokenizer\.ggml\.tokens is missing"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "a token twice"),
        ({"tokenizer.ggml.merges": ["zz zz"]}, "cannot be built"),
        ({"tokenizer.ggml.eos_token_id": None}, r"eos_token_id is missing"),
        ({"tokenizer.ggml.eos_token_id": 10**6}, "eos_token_id is 1000000"),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    settings = settings_of("llama3")
    path = write_gguf(tmp_path / "a.gguf", "llama3", settings, random_tensors(settings), **changes)
    with pytest.raises(CheckpointError, match=named) as caught:
        load_model(str(path))
    assert len(str(caught.value).splitlines()) == 1


def test_files_that_are_cut_or_no_gguf(tmp_path: Path) -> None:
    settings = settings_of("llama3")
    whole = write_gguf(tmp_path / "a.gguf", "llama3", settings, random_tensors(settings)).read_bytes()
    broken = tmp_path / "b.gguf"
    header = np.frombuffer(whole[:24], np.uint8).copy()
    header[8:16] = 255  # 2**64 - 1 tensors
    for content in (b"", b"GGUF", b"GGUF" + bytes(60), whole[:1000], whole[:-5000], bytes(header) + whole[24:]):
        broken.write_bytes(content)
        with pytest.raises(CheckpointError, match="GGUF") as caught:
            load_model(str(broken))
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parity
def test_smollm2_equals_transformers_reading_of_the_file() -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    path = smollm2_file()
    loaded = load_model(str(path))
    named: dict[str, Any] = {"gguf_file": path.name}
    words = transformers.AutoTokenizer.from_pretrained(path.parent, **named)
    rng = np.random.default_rng(0)
    alphabet = [*"abcdefghij ABC   .,'12390\n\t", "é", "東", "😀", " the", " of"]
    texts = [*TEXTS[:-2], *("".join(rng.choice(alphabet, rng.integers(1, 40))) for _ in range(500))]
    # transformers reads it as GPT-2's and lets a number take the last of several spaces before it. llama.cpp (its
    # pre-tokenizer "smollm") takes digits out first, as we do.
    texts = [text for text in texts if not re.search(r"\s\s\d", text)]
    assert len(texts) > 300
    for text in texts:
        assert loaded.tokenizer.encode(text).ids.tolist() == words(text)["input_ids"], text
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **named).eval()
    ids = np.array([loaded.tokenizer.encode("The Gran Chaco is a vast plain in South America. " * 4).ids])
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids).long()).logits.numpy()
    np.testing.assert_allclose(logits_of(loaded, ids), expected, atol=3e-4, rtol=1e-4)


def test_a_folder_of_that_name_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").mkdir()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_model(str(tmp_path / "x.gguf"))


@pytest.mark.parametrize("kind", [0, 4, 8, 9])
def test_a_head_that_is_longer_than_its_file_is_refused_at_once(tmp_path: Path, kind: int) -> None:
    """The library would read 10**12 numbers after the file's end."""
    key = b"general.architecture"
    array = struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, kind, 10**12)
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + array + bytes(64))
    with pytest.raises(CheckpointError, match=r"cannot read .* as GGUF"):
        load_model(str(path))


@pytest.mark.parametrize("score", ["call_score", "call_logit", "call_probability"])
def test_a_score_of_a_call_that_nobody_taught_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], score: Score
) -> None:
    settings = settings_of("gpt2")
    folder = write_folder(tmp_path / "folder", "gpt2", settings=settings)
    file = write_gguf(tmp_path / "model.gguf", "gpt2", settings, random_tensors(settings))
    for path in (folder, file):
        with pytest.raises(ConfigError, match="never learned <CALL>"):
            Cascade(load_model(str(path)), None, score=score)
        words = [f"--checkpoint={path}", f"--score={score}", "--partner=none"]
        for door, more in ((generate.DOOR, ["--prompt=x"]), (serve.DOOR, ["--port=0"])):
            assert enter(door, [*words, *more]) == 2
            out, err = capsys.readouterr()
            assert (out, err.count("\n")) == ("", 1)
            assert f"score={score}: {path} never learned <CALL>" in err
    Cascade(load_model(str(folder)), None)  # auto, which is its uncertainty
