"""Adapting a pretrained model: its weights stay, what is fitted finds its marks, and the result is a checkpoint."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from lacy_jax import adapt as door
from lacy_jax.adaptation.fit import fit_call_row, fit_probe, with_call_row
from lacy_jax.adaptation.marks import Answers, known
from lacy_jax.adaptation.run import HELD_OUT
from lacy_jax.adaptation.states import States, read_states
from lacy_jax.cascade import Cascade
from lacy_jax.cascade.marks.asking import stands_at
from lacy_jax.checkpoints.chat_template import ChatTemplate
from lacy_jax.checkpoints.loading import LoadedModel, load_model, shortened
from lacy_jax.data.documents import Document, Spans, full_text, split_of
from lacy_jax.doors import enter
from lacy_jax.errors import DataError, PartnerError
from lacy_jax.model import decoder
from tests.hf_folders import random_tensors, settings_of, write_folder

PEOPLE = (("Albert Einstein", "Niels Bohr"), ("Marie Curie", "Pierre Curie"), ("Ada Byron", "Mary Somerville"))
LIVES = (
    ("Ulm", "Paris", 14, 1879),
    ("Vienna", "London", 3, 1867),
    ("Oslo", "Geneva", 29, 1815),
    ("Kyiv", "Rome", 8, 1902),
)
TEXTS = [
    f"{name} was born in {place} on {day} March {year}, and went to {other} in {year + 20} to study with {friend}."
    for name, friend in PEOPLE
    for place, other, day, year in LIVES
]


def small_model(folder: Path, style: str = "llama3", **changes: Any) -> LoadedModel:
    settings = settings_of(style, **changes)
    loaded = load_model(str(write_folder(folder, style, settings=settings, tensors=random_tensors(settings))))
    model = dataclasses.replace(loaded.model, compute_dtype="float32")
    return dataclasses.replace(loaded, config=dataclasses.replace(loaded.config, model=model))


def marked(texts: list[str]) -> list[tuple[Document, Spans]]:
    """Documents whose numbers are marked."""
    found = []
    for number, text in enumerate(texts):
        document = Document(id=f"d{number}", title="", text=text)
        whole = full_text(document)
        numbers = dict.fromkeys(word for word in whole.replace(",", " ").split() if word.isdecimal())
        words = [(whole.index(word), word) for word in numbers]
        starts = np.array([start for start, _ in words], np.int32)
        ends = np.array([start + len(word) for start, word in words], np.int32)
        none = np.zeros(len(words), bool)
        found.append((document, Spans(starts, ends, ("NUM",) * len(words), none, none)))
    return found


def test_states_are_those_of_the_decoder_one_document_alone(tmp_path: Path) -> None:
    slm, documents = small_model(tmp_path / "model"), marked(TEXTS)
    states = read_states(slm, documents, folder=tmp_path / "states", progress=lambda *_: None)
    rows = sorted(documents, key=lambda each: len(slm.tokenizer.encode(full_text(each[0]))))
    at = 0
    for document, _ in rows:
        ids = slm.tokenizer.encode(full_text(document)).ids
        inputs = np.array([[slm.tokenizer.start_id, *ids[:-1]]], np.int32)
        hidden = np.asarray(decoder.forward(slm.params, inputs, config=slm.model), np.float64)[0]
        own = slice(at, at + len(ids))
        np.testing.assert_allclose(states.hidden[own], hidden, rtol=2e-3, atol=2e-3)
        logits = hidden @ np.asarray(decoder.output_matrix(slm.params), np.float64).T
        best = logits[:, : slm.tokenizer.call_id].argmax(axis=1)
        assert (states.wrong[own] == (best != ids)).mean() > 0.97  # float32 and float64 may differ where two are alike
        digits = [any(map(str.isdecimal, slm.tokenizer.decode_bytes([each]).decode(errors="replace"))) for each in ids]
        assert states.factual[own].tolist() == digits
        at += len(ids)
    assert at == len(states.factual)


def test_states_that_were_kept_are_read_again_and_a_broken_chunk_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slm, documents = small_model(tmp_path / "model"), marked(TEXTS)
    first = read_states(slm, documents, folder=tmp_path, progress=lambda *_: None)
    chunks = sorted(tmp_path.glob("*/*.npz"))
    assert len(chunks) == 2
    chunks[1].write_bytes(chunks[1].read_bytes()[:100])
    made = []
    from lacy_jax.adaptation import states as module

    read = module._read_group
    monkeypatch.setattr(module, "_read_group", lambda *args: made.append(1) or read(*args))
    again = read_states(slm, documents, folder=tmp_path, progress=lambda *_: None)
    assert len(made) == 1
    np.testing.assert_array_equal(first.hidden, again.hidden)
    other = dataclasses.replace(slm, params=jax.tree.map(lambda x: x + 0.01, slm.params))
    read_states(other, documents, folder=tmp_path, progress=lambda *_: None)
    assert len(made) == 3  # another model's are others


def planted(slm: LoadedModel, *, size: int = 4000) -> tuple[States, np.ndarray]:
    """Hidden states whose marks follow a direction, and that direction."""
    rng = np.random.default_rng(0)
    direction = rng.standard_normal(slm.model.width)
    hidden = (rng.standard_normal((size, slm.model.width)) * rng.uniform(0.5, 3, slm.model.width) + 1).astype(
        np.float16
    )
    factual = (hidden - 1.0) @ direction + rng.standard_normal(size) > 1
    return States(hidden=hidden, factual=factual, wrong=rng.random(size) < 0.5), direction


@pytest.mark.parametrize("style", ["gpt2", "llama2"])  # llama2: its output matrix is one of its own
def test_only_the_row_of_call_changes_and_it_finds_what_was_marked(tmp_path: Path, style: str) -> None:
    slm = small_model(tmp_path / "model", style)
    states, direction = planted(slm)
    probe, changed = fit_probe(states), with_call_row(slm, fit_call_row(states))
    cosine = np.dot(probe.weights, direction) / np.linalg.norm(probe.weights) / np.linalg.norm(direction)
    assert cosine > 0.97
    table = "output" if style == "llama2" else "embedding"
    call = slm.tokenizer.call_id
    for path, before in jax.tree_util.tree_leaves_with_path(slm.params):
        after = np.asarray(dict(jax.tree_util.tree_leaves_with_path(changed.params))[path])
        expected = np.asarray(before).copy()
        if jax.tree_util.keystr(path).startswith(f"['{table}']"):
            assert np.abs(after[call]).max() > 0
            expected[call] = after[call]
        np.testing.assert_array_equal(after, expected)
    row = np.asarray(decoder.output_matrix(changed.params))[call]
    logits, both = states.hidden.astype(np.float64) @ row, states.factual & states.wrong
    assert logits[both].mean() > logits[~both].mean() + logits.std()
    with pytest.raises(DataError, match="none are facts; give more documents"):
        fit_probe(dataclasses.replace(states, factual=np.zeros_like(states.factual)))


class Remembers:
    """A partner that knows what follows some texts."""

    name = "remembers"

    def __init__(self, answers: dict[str, str]):
        self._answers = answers

    def complete(self, texts: Sequence[str]) -> list[str]:
        return [next((a for text, a in self._answers.items() if asked.endswith(text)), "") for asked in texts]


def test_marks_are_the_facts_that_the_partner_knows() -> None:
    texts = ["In 1867 she was born, in 1911 she was 44 years old.", "Nothing of 1900 is known, of 1901 all."]
    documents = marked(texts)
    answers = {"In": " 1867", "born, in": " 1912", "she was": "44 years", "all of": "?", "known, of": " 190"}
    kept, counts = known(documents, Remembers(answers), timeout=30, progress=lambda *_: None)
    starts = [spans.starts.tolist() for _, spans in kept]
    right = [full_text(documents[0][0]).index(number) for number in ("1867", "44")]
    assert starts == [right, []]  # 1912 is wrong; " 190" ends within a word
    assert counts == Answers(asked=5, right=2, unanswered=1)
    with pytest.raises(PartnerError, match="none of 5 questions was answered"):
        known(documents, Remembers({}), timeout=30, progress=lambda *_: None)


def test_an_answer_stands_at_a_place_to_the_end_of_a_word() -> None:
    text = "won the 1903 Nobel Prize, shared"
    for answer in ("1903", " 1903 Nobel", "1903 Nobel Prize,", "1903 Nobel Prize, "):
        assert stands_at(text, 8, answer)
    for answer in ("", " ", "190", "1903 Nob", "1904", "Nobel"):
        assert not stands_at(text, 8, answer)


def corpus(path: Path, *, count: int = 60) -> Path:
    lines = [json.dumps({"id": str(n), "title": f"Text {n}", "text": TEXTS[n % len(TEXTS)]}) for n in range(count)]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("style", [pytest.param("gpt2", marks=pytest.mark.slow), "llama3"])
def test_the_door_makes_a_checkpoint_that_generates_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture, style: str
) -> None:
    slm = small_model(tmp_path / "model", style)
    template = {"chat_template": "{{ messages[0].content }}{{ eos_token }}", "eos_token": "<end>"}
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(template))
    words = [
        f"--model={tmp_path / 'model'}", f"--out={tmp_path / 'adapted'}", f"--corpus={corpus(tmp_path / 'c.jsonl')}",
        "--documents=40", f"--partner=documents:{tmp_path / 'c.jsonl'}", "--samples=2", f"--data={tmp_path / 'data'}",
        f"--marks={'answers' if style == 'gpt2' else 'facts'}", "--price=0",
    ]  # fmt: skip
    assert enter(door.DOOR, words) == 0
    said = capsys.readouterr().out
    assert "ROC area" in said
    assert ("the partner was asked for" in said) == (style == "gpt2")
    alone, asked = (int(found) for found in re.findall(r": (\d+) of \d+ claims are in the document", said))
    assert asked > alone  # the partner has the documents
    loaded = load_model(str(tmp_path / "adapted"))
    assert loaded.learned_to_call
    assert loaded.chat == ChatTemplate(template["chat_template"], {"eos_token": "<end>"})
    assert loaded.factual_probe is not None
    assert loaded.model == dataclasses.replace(slm.model, compute_dtype="bfloat16")
    assert loaded.tokenizer.encode(TEXTS[0]).ids.tolist() == slm.tokenizer.encode(TEXTS[0]).ids.tolist()
    assert Cascade(loaded, None).generate(["Albert"], max_new_tokens=4)[0].text is not None
    page = (tmp_path / "adapted" / "report.html").read_text()
    assert "What it writes" in page
    assert 'class="w p supported"' in page
    assert "ROC curve of call scores for needed tokens" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert enter(door.DOOR, words) == 2  # it exists
    assert "exists already" in capsys.readouterr().err
    held_out = sum(split_of(str(n), validation_share=HELD_OUT) == "validation" for n in range(60))
    assert held_out > 0


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--model=none.gguf", "--out=OUT"], "there is no such file"),
        (["--out=OUT"], "--model is needed"),
        (["--model=MODEL", "--out=OUT", "--corpus=none.jsonl"], "adapt: --corpus=none.jsonl: no such file"),
        (["--model=MODEL", "--out=OUT", "--corpus=vital"], "adapt: --corpus=vital: unknown corpus; allowed are"),
        (["--model=MODEL", "--out=OUT", "--partner=nobody"], "nobody"),
        (["--model=MODEL", "--out=MODEL"], "exists already"),
        (["--model=MODEL", "--out=OUT", "--partner=none", "--marks=answers"], "nobody would answer"),
        (["--model=MODEL", "--out=OUT", "--marks=guesses"], "--marks=guesses"),
    ],
)
def test_wrong_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], named: str) -> None:
    small_model(tmp_path / "model")
    places = {"OUT": str(tmp_path / "out"), "MODEL": str(tmp_path / "model")}
    given = [
        word if (end := word.partition("=")[2]) not in places else word.replace(end, places[end]) for word in words
    ]
    assert enter(door.DOOR, [*given, f"--data={tmp_path / 'data'}"]) == 2
    said = capsys.readouterr().err
    assert named in said
    assert "Traceback" not in said


def test_a_shortened_model_says_the_same_within_its_context(tmp_path: Path) -> None:
    for style in ("gpt2", "llama3"):
        slm = small_model(tmp_path / style, style)
        tokens = np.arange(24, dtype=np.int32)[None]
        whole, short = (
            np.asarray(decoder.forward(each.params, tokens, config=each.model))
            for each in (slm, shortened(slm, context=24))
        )
        np.testing.assert_array_equal(whole, short)
