"""Exports in transformers itself: logits, ids and the end of a text are those of the model that was exported."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import lacy_jax
from lacy_jax import export as _program  # noqa: F401 (the door must not hide the function)
from lacy_jax.cascade.decoding.engine import Engine
from lacy_jax.cascade.decoding.session import Session
from lacy_jax.checkpoints.export import export
from lacy_jax.checkpoints.exports.layout import outgoing
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import ObjectiveConfig
from tests.cascade.conftest import random_model
from tests.checkpoints.test_exports import CARRIED, TRAINED, model_of, of_tokens, save, strings, without_scaling
from tests.checkpoints.test_hf import logits_of
from tests.smollm2 import smollm2_file


def of_transformers(folder: Path) -> tuple[Any, Any]:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False).eval()
    return theirs, transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


@pytest.mark.parity
@pytest.mark.parametrize("style", [*TRAINED, *CARRIED])
def test_logits_and_ids_in_transformers(tmp_path: Path, style: str) -> None:
    torch = pytest.importorskip("torch")
    model = model_of(style, tmp_path)
    export(save(model, tmp_path / "own"), out=f"{tmp_path}/hf", format="hf")
    theirs, words = of_transformers(tmp_path / "hf")
    assert theirs.dtype == torch.float32
    call = model.tokenizer.call_id
    assert (words.convert_tokens_to_ids("<CALL>"), theirs.config.vocab_size, len(words)) == (call, call + 1, call + 1)
    assert call in words.added_tokens_decoder
    tokens = np.random.default_rng(1).integers(0, call + 1, (2, 90)).astype(np.int32)
    with torch.no_grad():
        logits = theirs(torch.from_numpy(tokens).long()).logits.numpy()
    np.testing.assert_allclose(logits[..., :call], logits_of(model, tokens), atol=1e-4, rtol=1e-4)
    config = Engine(model).config
    hidden = np.asarray(lacy_jax.model.decoder.forward(model.params, tokens, config=config))
    own = hidden @ np.asarray(lacy_jax.model.decoder.output_matrix(model.params))[call]
    np.testing.assert_allclose(logits[..., call], own, atol=1e-4, rtol=1e-4)
    texts = strings(model.tokenizer, 10_000)
    opening = outgoing(model).opening
    expected = [model.tokenizer.encode(text).ids.tolist() for text in texts]
    assert words(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] == expected
    before = [] if opening is None else [opening]
    found = words(texts, split_special_tokens=True)["input_ids"]
    assert found == [[*before, *ids] for ids in expected]
    # The one's rule takes a space before a text away, which may have been the text's; the other composes characters.
    if style not in ("llama2-carried", "qwen2-carried"):
        whole = [text for text in texts if "<CALL>" not in text and "</s>" not in text and not re.search("<[|0]", text)]
        assert [words.decode(words(text).input_ids, skip_special_tokens=True) for text in whole[:500]] == whole[:500]


def ending(model: LoadedModel, prompt: str) -> tuple[LoadedModel, list[int], list[int]]:
    """The model, changed so that it ends its greedy text after some tokens; the prompt's ids and the text's."""
    opening = [model.tokenizer.start_id, *model.tokenizer.encode(prompt).ids.tolist()]
    config = dataclasses.replace(model.model, tied_embedding=False, compute_dtype="float32")
    model = dataclasses.replace(model, config=dataclasses.replace(model.config, model=config))
    output = np.asarray(lacy_jax.model.decoder.output_matrix(model.params))

    def greedy(rows: np.ndarray, count: int) -> tuple[LoadedModel, list[int]]:
        changed = dataclasses.replace(model, params={**model.params, "output": {"embedding": rows}})
        session, ids = Session(Engine(changed), slots=1), list(opening)
        while len(ids) < len(opening) + count and ids[-1] not in (model.tokenizer.end_ids if ids != opening else ()):
            ids.append(session.steps({0: ids})[0][0].token)
        return changed, ids[len(opening) :]

    _, written = greedy(output, 24)
    for count in range(3, 24):
        # The row of the end points to where the text is then, further than any other does.
        ids = np.array([opening + written[:count]])
        hidden = np.asarray(lacy_jax.model.decoder.forward(model.params, ids, config=config))[0, -1]
        rows = output.copy()
        top = float((rows[: model.tokenizer.call_id] @ hidden).max())
        rows[model.tokenizer.end_id] = hidden * (1.05 * top / float(hidden @ hidden))
        changed, text = greedy(rows, 40)
        if len(text) > 2 and text[-1] == model.tokenizer.end_id:
            return changed, opening, text
    raise AssertionError("no such model")


@pytest.mark.parity
@pytest.mark.parametrize("style", ["gpt2", "llama", "gpt2-carried"])
def test_the_end_of_a_text_ends_it_in_transformers(tmp_path: Path, style: str) -> None:
    """`generate` without any argument about tokens writes our greedy text, and ends where that ends."""
    prompt = "Albert Einstein was born in"
    model, opening, text = ending(model_of(style, tmp_path), prompt)
    export(save(model, tmp_path / "own"), out=f"{tmp_path}/hf", format="hf")
    theirs, words = of_transformers(tmp_path / "hf")
    if outgoing(model).opening is None:
        prompt = words.decode(opening[:1]) + prompt
    inputs = words(prompt, return_tensors="pt")
    assert inputs.input_ids[0].tolist() == opening
    written = theirs.generate(**inputs, max_new_tokens=60, do_sample=False)[0].tolist()
    assert written == opening + text


@pytest.mark.parity
@pytest.mark.parametrize("style", ["gpt2", "llama", "llama3-carried"])
def test_transformers_reads_the_gguf_file(tmp_path: Path, style: str) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    # It takes every context of GPT-2 for 1,024 tokens, and does not read rope_freqs.weight.
    model = random_model(style, context=1024) if style == "gpt2" else without_scaling(model_of(style, tmp_path))
    export(save(model, tmp_path / "own"), out=f"{tmp_path}/a.gguf", format="gguf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="a.gguf", dtype=torch.float32).eval()
    tokens = np.random.default_rng(1).integers(0, model.tokenizer.call_id, (2, 60)).astype(np.int32)
    with torch.no_grad():
        logits = theirs(torch.from_numpy(tokens).long()).logits.numpy()[..., : model.tokenizer.call_id]
    np.testing.assert_allclose(logits, logits_of(model, tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parity
def test_smollm2_in_and_out_again(tmp_path: Path) -> None:
    """GGUF in, checkpoint, Hugging Face folder out: transformers finds the tensors of the file, to the bit."""
    source = load_model(str(smollm2_file()))
    own = dataclasses.replace(
        source, family="", config=dataclasses.replace(source.config, objective=ObjectiveConfig(rule="factual"))
    )
    export(save(own, tmp_path / "own"), out=f"{tmp_path}/hf", format="hf")
    again = load_model(f"{tmp_path}/hf")
    tokens = source.tokenizer.call_id
    for found, expected in zip(of_tokens(again.params, tokens), of_tokens(source.params, tokens), strict=True):
        np.testing.assert_array_equal(found[1], expected[1], err_msg=found[0])
    theirs, words = of_transformers(tmp_path / "hf")
    stored = safetensors.numpy.load_file(tmp_path / "hf/model.safetensors")
    assert {name for name, _ in theirs.named_parameters()} == set(stored)
    texts = strings(source.tokenizer, 3_000)
    expected_ids = [source.tokenizer.encode(text).ids.tolist() for text in texts]
    assert words(texts, split_special_tokens=True)["input_ids"] == expected_ids
    chat = words.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True)
    assert chat.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    assert words(chat)["input_ids"].count(words.convert_tokens_to_ids("<|im_start|>")) == 3
    assert set(theirs.generation_config.eos_token_id) == set(source.tokenizer.end_ids)
