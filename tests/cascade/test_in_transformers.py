"""An exported model in transformers, with our logits processor, writes the text of our own cascade."""

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lacy_jax.cascade import Cascade
from lacy_jax.cascade.decoding.programs import what_is_said
from lacy_jax.cascade.in_transformers import CallProcessor, TorchCascade, read_rule, said_of
from lacy_jax.checkpoints.export import export
from lacy_jax.config import CascadeConfig, ObjectiveConfig
from lacy_jax.errors import CheckpointError, ConfigError
from lacy_jax.model.probe import Probe
from tests.cascade.conftest import TEXTS, random_model
from tests.cascade.test_cascade import Fake
from tests.cascade.test_compiling_first import Compiling
from tests.checkpoints.test_exports import model_of, save

PRICE = {"policy": "price", "price": 0.6, "score": "uncertainty", "budget": 0.3}
SETTINGS: dict[str, dict[str, Any]] = {
    "quantile": {"budget": 0.22},
    "token": {"budget": 0.4, "span": "token", "score": "entropy"},
    "price": PRICE,
    "gated": PRICE | {"gate": "factual", "price": 0.3},
    "factual": PRICE | {"score": "factual", "price": 0.3},
    "saving": PRICE | {"score": "expected_saving", "price": 0.2},
    "never": {"budget": 0.0},
    "always": {"budget": 1.0},
}


def prompts(count: int) -> list[str]:
    """The beginnings of texts, cut anywhere."""
    rng = np.random.default_rng(4)
    return [text[: int(rng.integers(1, len(text)))] for text in (TEXTS * 9)[:count]]


def exported(style: str, place: Path, settings: dict[str, Any]) -> tuple[Any, str]:
    """A model with a probe, scores to start with and these settings, and the folder of its export."""
    model = model_of(style, place)
    probe = Probe(weights=tuple(np.linspace(-0.3, 0.3, 32).tolist()), bias=0.1)
    objective = ObjectiveConfig(rule="factual", rate=1.0)
    config = dataclasses.replace(model.config, cascade=CascadeConfig(**settings), objective=objective)
    scores = tuple(np.linspace(-9.0, -1.0, 21).tolist())
    saving = Probe(weights=probe.weights[::-1], bias=-0.2)
    model = dataclasses.replace(model, config=config, factual_probe=probe, saving_probe=saving, call_scores=scores)
    export(save(model, place / "own"), out=str(place / "hf"), format="hf")
    return model, str(place / "hf")


@pytest.mark.parity
@pytest.mark.parametrize(
    ("style", "name"), [("gpt2", name) for name in SETTINGS] + [("llama", "gated"), ("llama3-carried", "quantile")]
)
def test_transformers_writes_our_text(tmp_path: Path, style: str, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    model, folder = exported(style, tmp_path, SETTINGS[name])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    texts = prompts(50 if (style, name) == ("gpt2", "quantile") else 8)
    expected = Cascade(model, Fake()).generate(texts, max_new_tokens=24)
    found = TorchCascade(theirs, folder, partner=Compiling()).generate(texts, max_new_tokens=24)
    for one, other in zip(found, expected, strict=True):
        assert one.text == other.text
        assert (one.counts, one.finish) == (other.counts, other.finish)
        assert [(each.text, each.source) for each in one.pieces] == [(each.text, each.source) for each in other.pieces]
    calls = sum(each.counts.calls for each in expected)
    assert (calls == 0) == (name == "never")
    assert not theirs.get_output_embeddings()._forward_hooks


@pytest.mark.parity
def test_a_long_text_forgets_as_ours_does(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, folder = exported("gpt2", tmp_path, {"budget": 0.2})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    expected = Cascade(model, Fake()).generate([TEXTS[0]], max_new_tokens=150)
    assert (
        TorchCascade(theirs, folder, partner=Fake()).generate([TEXTS[0]], max_new_tokens=150)[0].text
        == expected[0].text
    )


class Served:
    """What the recipe for vLLM asks of it, done by transformers: greedy text up to `<CALL>` or the text's end.

    length: tokens to write in all answers, a call counted as one. written: tokens of each answer.
    """

    def __init__(self, model: Any, tokenizer: Any, *, length: int):
        self.model, self.tokenizer, self.length = model, tokenizer, length
        self.call = tokenizer.convert_tokens_to_ids("<CALL>")
        self.written: list[list[int]] = []

    def generate(self, text: str, processor: Any) -> list[Any]:
        import torch

        ids, said = self.tokenizer(text).input_ids, self.model.generation_config
        start, token = len(ids), None
        while self.length > 0 and token != self.call and token not in said.eos_token_id:
            with torch.no_grad():
                logits = processor(ids, self.model(torch.tensor([ids])).logits[0, -1].float())
            logits[[each for each in said.suppress_tokens if each != self.call]] = -float("inf")
            token, self.length = int(logits.argmax()), self.length - 1
            ids.append(token)
        called = token == self.call
        self.written.append(ids[start:-1] if called or token in said.eos_token_id else ids[start:])
        text = self.tokenizer.decode(self.written[-1], skip_special_tokens=True)
        return [SimpleNamespace(outputs=[SimpleNamespace(text=text, stop_reason=token if called else None)])]


@pytest.mark.parity
def test_the_recipe_for_vllm_calls_where_our_cascade_does(tmp_path: Path) -> None:
    """Its lines as they stand on the page: it first calls after as many tokens as ours, and goes on."""
    torch, transformers, price = pytest.importorskip("torch"), pytest.importorskip("transformers"), 0.01
    settings = {"policy": "price", "price": price, "score": "call_probability", "budget": 1.0}
    model, folder = exported("gpt2", tmp_path, settings)
    page = Path("docs/exporting.md").read_text().partition("In vLLM, the same idea")[2]
    recipe = page.partition("```python\n")[2].partition("```")[0].replace("params)", "calls)")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    called, texts = 0, prompts(12)
    expected = Cascade(model, Fake(lambda _: " and")).generate(texts, max_new_tokens=24)
    for text, ours in zip(texts, expected, strict=True):
        llm = Served(theirs, tokenizer, length=24)
        known = {"torch": torch, "CALL": llm.call, "PRICE": price, "llm": llm, "text": text}
        exec(recipe, known | {"ask_the_partner": " and".format})
        own = itertools.takewhile(lambda piece: piece.source == "slm", ours.pieces)
        before = sum(piece.tokens for piece in own) if ours.counts.calls else ours.counts.generated
        assert len(llm.written[0]) == before
        assert (len(llm.written) > 1) == (ours.counts.calls > 0)
        called += ours.counts.calls > 0
    assert 0 < called < len(texts)


@pytest.mark.parity
def test_two_texts_at_once_are_refused(tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    _, folder = exported("gpt2", tmp_path, {})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    rule: Any = read_rule(folder)
    row: Any = None
    with CallProcessor(theirs, rule, row, given=1) as processor, pytest.raises(ConfigError, match="one at a time"):
        processor(torch.zeros((2, 1), dtype=torch.long), torch.zeros((2, 9)))


def test_what_the_model_says_is_what_the_engine_says() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        logits = (4 * rng.standard_normal(40)).astype(np.float32)
        found = said_of(logits[:31], call_id=30)
        expected = np.asarray(what_is_said(logits, np.float32([0.5, 1.5]), call_id=30))
        names = ("call_score", "call_logit", "uncertainty", "entropy")
        np.testing.assert_allclose([found[name] for name in names], expected[:4], rtol=2e-5, atol=2e-6)
        assert expected[4:].tolist() == [0.5, 1.5]


def test_a_folder_that_says_nothing_of_calling_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*cascade\.json"):
        read_rule(tmp_path)
    export(save(random_model(), tmp_path / "own"), out=f"{tmp_path}/hf", format="hf")
    assert read_rule(f"{tmp_path}/hf", budget=0.5).calling.budget.share == 0.5
    for changes in ({"gate": "factual"}, {"score": "factual"}, {"score": "expected_saving"}):
        with pytest.raises(ConfigError, match="no probe"):
            read_rule(f"{tmp_path}/hf", **changes)
    with pytest.raises(CheckpointError, match="colour"):
        read_rule(f"{tmp_path}/hf", colour="red")
