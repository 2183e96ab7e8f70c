"""Exports for others: what transformers and our own readers make of them is the model that was exported."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import pytest
import sentencepiece
import tokenizers

import lacy_jax
from lacy_jax import export as _program  # noqa: F401 (the door must not hide the function)
from lacy_jax.cascade.decoding.engine import Engine
from lacy_jax.cascade.decoding.session import Session
from lacy_jax.checkpoints.export import export, write_export
from lacy_jax.checkpoints.exports.card import card
from lacy_jax.checkpoints.exports.hf_folder import write_hf_folder
from lacy_jax.checkpoints.exports.layout import outgoing
from lacy_jax.checkpoints.exports.tokenizer_json import tokenizer_json
from lacy_jax.checkpoints.format import model_meta
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import CascadeConfig, Config, CorpusConfig, ObjectiveConfig
from lacy_jax.data.hf_tokenizer import HfTokenizer
from lacy_jax.data.tokenizer import TextTokenizer, Tokenizer
from lacy_jax.doors import enter
from lacy_jax.errors import CheckpointError
from lacy_jax.model.probe import Probe
from tests.cascade.conftest import random_model
from tests.checkpoints.test_gguf import flat, write_gguf
from tests.hf_folders import CORPUS, random_tensors, settings_of, write_folder
from tests.hf_folders import tokenizer_json as tokenizer_json_of

# Own styles with a SentencePiece model, and those with the tokenizer of the pretrained model that they came from.
TRAINED, CARRIED = ("gpt2", "llama"), ("gpt2-carried", "llama3-carried", "llama2-carried", "qwen2-carried")
CHAT = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"


def model_of(style: str, place: Path) -> LoadedModel:
    """A model of random weights that was taught to call, of both styles of decoder and all kinds of tokenizers."""
    if style in TRAINED:
        return random_model(style)
    name = style.removesuffix("-carried")
    words = "llama3" if name == "qwen2" else name
    settings = settings_of(words, **({"model_type": "qwen2"} if name == "qwen2" else {}))
    tensors = random_tensors(settings)
    for name_, width in (("q", 32), ("k", 16), ("v", 16)) if name == "qwen2" else ():
        for layer in range(2):
            tensors[f"model.layers.{layer}.self_attn.{name_}_proj.bias"] = np.linspace(-1, 1, width, dtype=np.float32)
    folder = write_folder(place / f"{style}_from", words, settings=settings, tensors=tensors)
    if name == "gpt2":
        (folder / "chat_template.jinja").write_text(CHAT)
    if name == "qwen2":  # Llama 3's, with digits one by one, is Qwen2's
        changed = json.loads(tokenizer_json_of("llama3").replace("{1,3}", "")) | {"normalizer": {"type": "NFC"}}
        (folder / "tokenizer.json").write_text(json.dumps(changed))
    loaded = load_model(str(folder))
    rng = np.random.default_rng(3)
    params = dict(loaded.params)
    for table in {"embedding", "output"} & params.keys():
        rows = np.array(params[table]["embedding"])
        rows[loaded.tokenizer.call_id] = 0.2 * rng.standard_normal(rows.shape[1])
        params[table] = {"embedding": rows}
    config = dataclasses.replace(loaded.config, objective=ObjectiveConfig(rule="factual", rate=1.0))
    return dataclasses.replace(loaded, params=params, family="", config=config)


def save(loaded: LoadedModel, folder: Path) -> str:
    """A checkpoint of ours."""
    meta = model_meta(
        loaded.config,
        tokenizer=loaded.tokenizer,
        step=12,
        data={},
        call_scores=loaded.call_scores,
        factual_probe=loaded.factual_probe,
        chat=loaded.chat,
    )
    meta["saving_probe"] = loaded.saving_probe and loaded.saving_probe.to_dict()  # as lacy_jax.calibrate does
    write_export(str(folder), params=loaded.params, tokenizer=loaded.tokenizer, meta=meta)
    return str(folder)


def strings(tokenizer: TextTokenizer, count: int) -> list[str]:
    """Texts of characters, of words and of tokens, cut anywhere."""
    rng = np.random.default_rng(8)
    alphabet = [
        *"abcdefghij ABC  .,'12390\n\t\r",
        "é",
        "e\u0301",
        "東",
        "😀",
        "\u2581",
        "\x00",
        " the",
        " of",
        "</s>",
        "<CALL>",
    ]
    words = " ".join(CORPUS).split(" ")
    found = []
    for index in range(count):
        size = int(rng.integers(0, 40))
        if index % 3 == 0:
            found.append("".join(rng.choice(alphabet, size)))
        elif index % 3 == 1:
            found.append(" ".join(rng.choice(words, size)))
        else:
            ids = rng.integers(0, tokenizer.call_id, size).tolist()
            found.append(tokenizer.decode_bytes(ids).decode(errors="ignore"))
    return found


def without_scaling(model: LoadedModel) -> LoadedModel:
    fields: dict[str, Any] = {"rope_scaling": "none", "rope_factor": 1.0, "rope_original_context": 8192}
    config = dataclasses.replace(model.config, model=dataclasses.replace(model.model, **fields))
    return dataclasses.replace(model, config=config)


def same_ids(found: TextTokenizer, expected: TextTokenizer, *, count: int = 300, without: str = "") -> None:
    for text in strings(expected, count):
        if not without or without not in text:
            assert found.encode(text).ids.tolist() == expected.encode(text).ids.tolist(), text


def of_tokens(params: Any, tokens: int) -> list[tuple[str, np.ndarray]]:
    """Arrays by name, the embedding's without rows that no token has."""
    return [
        (name, x[:tokens] if name in ("embedding/embedding", "output/embedding") else x) for name, x in flat(params)
    ]


@pytest.mark.parametrize("style", [*TRAINED, *CARRIED])
@pytest.mark.parametrize("format", ["hf", "gguf"])
def test_our_own_readers_find_the_same_model(tmp_path: Path, style: str, format: Any) -> None:
    model = model_of(style, tmp_path)
    if format == "gguf":  # of scaled frequencies a file has the result alone, and ours reads those of Llama 3
        model = without_scaling(model)
    out = tmp_path / "out.gguf"
    assert export(save(model, tmp_path / "own"), out=str(out), format=format) == f"{tmp_path}/own (step 12) -> {out}"
    again, call_id = load_model(str(out)), model.tokenizer.call_id
    for found, expected in zip(of_tokens(again.params, call_id + 1), of_tokens(model.params, call_id + 1), strict=True):
        assert found[0] == expected[0]
        np.testing.assert_array_equal(found[1], expected[1], err_msg=found[0])
    assert again.tokenizer.call_id == call_id + 1  # ours knows it as a control token of somebody else's
    assert again.tokenizer.control_tokens()["<CALL>"] == call_id
    assert (again.tokenizer.start_id, again.tokenizer.end_ids) == (model.tokenizer.start_id, model.tokenizer.end_ids)
    if format == "hf" or style != "qwen2-carried":  # llama.cpp does not compose characters, as Qwen's tokenizer does
        same_ids(again.tokenizer, model.tokenizer, without="\u2581" if format == "gguf" else "")
    fields: dict[str, Any] = {"mlp_width": 0, "compute_dtype": "float32"}
    assert dataclasses.replace(again.model, **fields) == dataclasses.replace(model.model, **fields)
    assert (again.chat and again.chat.source) == (model.chat and model.chat.source)
    assert [path.name for path in tmp_path.glob("*.partial")] == []


def test_what_the_folder_says(tmp_path: Path) -> None:
    """Right end tokens, control tokens that are not written, the card of the run, how the cascade calls."""
    model = dataclasses.replace(
        random_model(), call_scores=(0.0, 1.0), factual_probe=Probe(weights=(0.5,) * 32, bias=-1.0)
    )
    cascade = CascadeConfig(policy="price", price=0.3, budget=0.1, score="call_probability", gate="factual")
    corpus = CorpusConfig(name="tfds", tfds_name="wikipedia/20230601.en")
    config = Config(name="my | model", model=model.model, cascade=cascade, corpus=corpus)
    export(save(dataclasses.replace(model, config=config), tmp_path / "own"), out=f"{tmp_path}/hf", format="hf")
    files = {path.name: path for path in (tmp_path / "hf").iterdir()}
    assert set(files) == {
        "README.md", "cascade.json", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert len({path.stat().st_mode for path in files.values()}) == 1
    said = {name: json.loads(path.read_text()) for name, path in files.items() if name.endswith(".json")}
    end, call = model.tokenizer.end_id, model.tokenizer.call_id
    assert said["generation_config.json"] == {
        "bos_token_id": end, "eos_token_id": [end], "pad_token_id": end, "suppress_tokens": [0, 1, call],
    }  # fmt: skip
    assert (said["config.json"]["vocab_size"], said["config.json"]["eos_token_id"]) == (call + 1, end)
    own = said["cascade.json"]
    assert (own["call_token_id"], own["score"], own["gate"], own["policy"]) == (
        call, "call_probability", "factual", "price",
    )  # fmt: skip
    assert (own["price"], own["budget"], own["call_scores"]) == (0.3, 0.1, [0.0, 1.0])
    assert own["factual_probe"] == {"weights": [0.5] * 32, "bias": -1.0}
    text = files["README.md"].read_text()
    method = "lacy_full (rule factual_loss, rate 0.6)"
    price = "a price of 0.3, and at most 10%"
    for words in ("# my model", "| steps | 12 |", method, "CC BY-SA 4.0", "wikipedia/20230601.en", price):
        assert words in text
    library = tokenizers.Tokenizer.from_file(str(files["tokenizer.json"]))
    assert library.token_to_id("<CALL>") == call
    assert library.get_added_tokens_decoder()[call].special
    assert library.encode("Ulm").ids == [end, *model.tokenizer.encode("Ulm").ids]


def test_cards_of_pretrained_models_and_of_those_that_never_learned_to_call(tmp_path: Path) -> None:
    adapted = outgoing(model_of("llama3-carried", tmp_path))
    assert "| started from | a pretrained model, whose tokenizer it has; its licence holds here too |" in card(adapted)
    assert "logsumexp" in card(adapted)
    config = Config(model=random_model().model, objective=ObjectiveConfig(rule="none"))
    plain = dataclasses.replace(random_model(), config=config)
    written = card(outgoing(plain))
    assert "started from" not in written
    assert "logsumexp" not in written
    assert "never learned" in written
    assert "calls by the score `uncertainty`, at 22% of its tokens" in written


def test_the_three_lines_of_the_card_are_the_call_score() -> None:
    model = random_model("llama")
    ids = np.array([[model.tokenizer.end_id, *model.tokenizer.encode("Albert Einstein was").ids]])
    hidden = np.asarray(lacy_jax.model.decoder.forward(model.params, ids, config=model.model))[0, -1]
    logits = np.asarray(model.params["output"]["embedding"], np.float64)[: model.tokenizer.vocab_size] @ hidden
    call = model.tokenizer.call_id
    score = logits[call] - np.log(np.exp(np.delete(logits, call)).sum())
    (step,) = Session(Engine(model), slots=1).steps({0: ids[0].tolist()})[0]
    assert step.call_score == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrower_tensors(tmp_path: Path, dtype: Any) -> None:
    model = random_model("llama")
    checkpoint = save(model, tmp_path / "own")
    export(checkpoint, out=f"{tmp_path}/a.gguf", format="gguf", dtype=dtype)
    export(checkpoint, out=f"{tmp_path}/hf", format="hf", dtype=dtype)
    rows = model.tokenizer.vocab_size
    expected = (
        np.asarray(model.params["embedding"]["embedding"])[:rows].astype(jax.numpy.dtype(dtype)).astype(np.float32)
    )
    for path in ("a.gguf", "hf"):
        found = np.asarray(load_model(f"{tmp_path}/{path}", params_dtype="float32").params["embedding"]["embedding"])
        np.testing.assert_array_equal(found[:rows], expected)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    assert kinds["token_embd.weight"] == {"float16": "F16", "bfloat16": "BF16"}[dtype]
    assert kinds["output_norm.weight"] == "F32"
    assert json.loads((tmp_path / "hf/config.json").read_text())["torch_dtype"] == dtype


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"norm": "rmsnorm"}, r"positions=learned.*config\.model\.norm=rmsnorm \(only layernorm\)"),
        ({"kv_heads": 1}, r"kv_heads=1 \(only 0\)"),
        ({"positions": "rope"}, r"positions=rope.*norm=layernorm.*activation=gelu.*bias=True"),
        ({"head_width": 8}, "head_width=8"),
    ],
)
def test_models_that_nobody_else_builds_are_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    model = random_model()
    config = dataclasses.replace(model.config, model=dataclasses.replace(model.model, **changes))
    with pytest.raises(CheckpointError, match=named) as caught:
        write_hf_folder(tmp_path, dataclasses.replace(model, config=config), dtype="stored")
    assert len(str(caught.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "allowed"), [("format", "orbax, hf, gguf"), ("dtype", "float32")])
def test_a_form_that_is_none_is_refused_before_anything_is_read(name: str, allowed: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{name}=int3: allowed are .*{allowed}"):
        lacy_jax.export("none", out=str(tmp_path / "out"), **{name: "int3"})


def test_a_qwen2_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    """transformers takes every Qwen2's tokenizer for that family's own."""
    model = random_model("llama")
    config = dataclasses.replace(model.config, model=dataclasses.replace(model.model, qkv_bias=True))
    with pytest.raises(CheckpointError, match="every Qwen2 with that family's tokenizer"):
        write_hf_folder(tmp_path, dataclasses.replace(model, config=config), dtype="stored")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = random_model()
    large = {**model.params, "positions": {"embedding": np.full((120, 32), 1e5, np.float32)}}
    checkpoint = save(dataclasses.replace(model, params=large), tmp_path / "own")
    (tmp_path / "there").mkdir()
    before = set(tmp_path.iterdir())
    door = lacy_jax_door()
    for words, said in (
        (["--format=hf", "--dtype=float16", "--out=new"], "wpe.weight has numbers beyond it"),
        (["--format=gguf", "--out=new"], "its name ends with .gguf"),
        (["--dtype=float16", "--out=new"], "--dtype=float16: an orbax export keeps"),
        (["--format=hf", "--out=there"], "exists already"),
        (["--format=onnx", "--out=new"], "format"),
    ):
        given = [word.replace("--out=", f"--out={tmp_path}/") for word in words]
        assert enter(door, [f"--checkpoint={checkpoint}", *given]) == 2
        out, err = capsys.readouterr()
        assert said in err
        assert (out, err.count("\n")) == ("", 1)
    assert set(tmp_path.iterdir()) == before


def lacy_jax_door() -> Any:
    import importlib

    return importlib.import_module("lacy_jax.export").DOOR


def test_an_export_that_is_cut_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = save(random_model(), tmp_path / "own")

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lacy_jax.checkpoints.exports.hf_folder.card", cut)
    monkeypatch.setattr("lacy_jax.checkpoints.exports.gguf_file.check_ids", cut)
    for format, name in (("hf", "hf"), ("gguf", "a.gguf")):
        with pytest.raises(KeyboardInterrupt):
            export(checkpoint, out=f"{tmp_path}/{name}", format=format)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


def sentencepiece_model(**changes: Any) -> Tokenizer:
    """One that SentencePiece itself trains, with settings that ours do not have."""
    import io

    model = io.BytesIO()
    settings: dict[str, Any] = {
        "model_type": "bpe", "vocab_size": 330, "normalization_rule_name": "identity", "byte_fallback": True,
        "add_dummy_prefix": False, "remove_extra_whitespaces": False, "minloglevel": 2,
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=model, **settings | changes)
    return Tokenizer(model.getvalue())


@pytest.mark.parametrize("changes", [{}, {"add_dummy_prefix": True}, {"user_defined_symbols": ["<x>", "Danube"]}])
def test_sentencepiece_models_of_others(changes: dict[str, Any]) -> None:
    """One that puts a space before a text, as Llama 2's, and one with words that are never split."""
    tokenizer = sentencepiece_model(**changes)
    model = dataclasses.replace(random_model(), tokenizer=tokenizer)
    written = HfTokenizer(tokenizer_json(outgoing(model)), start_id=None, end_id=tokenizer.end_id)
    same_ids(written, tokenizer)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "unigram"}, "model_type is not bpe"),
        ({"normalization_rule_name": "nmt_nfkc"}, "it normalizes text"),
        ({"remove_extra_whitespaces": True}, "it removes spaces"),
        ({"byte_fallback": False, "vocab_size": 100}, "no byte_fallback"),
    ],
)
def test_sentencepiece_models_that_cannot_be_written_are_refused(changes: dict[str, Any], named: str) -> None:
    model = dataclasses.replace(random_model(), tokenizer=sentencepiece_model(**changes))
    with pytest.raises(CheckpointError, match=named):
        tokenizer_json(outgoing(model))


def test_a_tokenizer_that_would_change_ids_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison before publication, with merges in a wrong order."""
    monkeypatch.setattr(
        "lacy_jax.checkpoints.exports.tokenizer_json.merges_by_score", lambda *_: [("t", "h"), ("a", "l")]
    )
    with pytest.raises(CheckpointError, match="would have other tokens"):
        tokenizer_json(outgoing(random_model()))


def test_a_gguf_file_becomes_a_folder_without_a_call(tmp_path: Path) -> None:
    settings = settings_of("gpt2")
    source = write_gguf(tmp_path / "model.gguf", "gpt2", settings, random_tensors(settings))
    expected = load_model(str(source))
    assert export(str(source), out=f"{tmp_path}/hf", format="hf") == f"{source} -> {tmp_path}/hf"
    found = load_model(f"{tmp_path}/hf")
    assert found.tokenizer.call_id == expected.tokenizer.call_id
    assert "<CALL>" not in (tmp_path / "hf/README.md").read_text() + (tmp_path / "hf/tokenizer.json").read_text()
    assert not (tmp_path / "hf/cascade.json").exists()
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    with pytest.raises(CheckpointError, match="an export already"):
        export(str(source), out=f"{tmp_path}/orbax")
