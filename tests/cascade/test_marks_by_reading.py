"""A model reads texts once: what it pays for them, and the answers that it would give at their words."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacy_jax.cascade.decoding.engine import encode_text
from lacy_jax.cascade.marks import partner as marks
from lacy_jax.cascade.marks import reading
from lacy_jax.cascade.marks.asking import question
from lacy_jax.cascade.marks.reading import Read, answers_at, read_texts
from lacy_jax.cascade.partners.checkpoint import CheckpointPartner
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import CorpusConfig
from lacy_jax.data.corpus import read_documents
from lacy_jax.data.documents import full_text
from lacy_jax.model import decoder
from tests.cascade.conftest import TEXTS, random_model
from tests.smollm2 import smollm2_file


def paid_one_by_one(slm: LoadedModel, text: str, *, context: int) -> tuple[list[float], list[int]]:
    """NLL and best token, each by a forward pass of its own over what a text's reader has before it."""
    ids = slm.tokenizer.encode(text).ids.tolist()
    start, half, call = encode_text(slm.tokenizer, "")[0], context // 2, slm.tokenizer.call_id
    forward = jax.jit(lambda tokens: decoder.forward(slm.params, tokens, config=slm.model))
    nats, best = [], []
    for place, own in enumerate(ids):
        first = 0 if place < context else (place // half - 1) * half
        before = [start if first == 0 else ids[first - 1], *ids[first:place]]
        tokens = jnp.array([before + [0] * (context - len(before))])
        hidden = np.asarray(forward(tokens))[0, len(before) - 1].astype(np.float64)
        logits = np.asarray(decoder.output_matrix(slm.params), np.float64)[:call] @ hidden
        nats.append(float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[own]))
        best.append(int(logits.argmax()))
    return nats, best


@pytest.mark.parametrize("style", ["gpt2", "llama"])
def test_each_token_is_paid_as_by_a_pass_of_its_own(style: str) -> None:
    slm = random_model(style, context=24, scale=4.0)
    texts = ["", TEXTS[0][:30], "a", " ".join(TEXTS[:2]), TEXTS[3]]
    for text, read in zip(texts, read_texts(slm, texts), strict=True):
        nats, best = paid_one_by_one(slm, text, context=24)
        np.testing.assert_allclose(read.nats, nats, rtol=2e-5, atol=2e-5)
        assert read.best.tolist() == best
        assert read.losses.ends.tolist() == slm.tokenizer.encode(text).ends.tolist()


@pytest.mark.parametrize("changes", [{"compute_dtype": "bfloat16"}, {"attention": "cudnn"}, {"attention": "splash"}])
def test_a_model_is_read_exactly_whatever_it_was_trained_with(changes: dict[str, str]) -> None:
    slm = random_model(context=64)
    model = dataclasses.replace(slm.model, **changes)  # type: ignore[arg-type]
    other = dataclasses.replace(slm, config=dataclasses.replace(slm.config, model=model))
    (expected,), (found,) = read_texts(slm, [TEXTS[0]]), read_texts(other, [TEXTS[0]])
    np.testing.assert_array_equal(found.nats, expected.nats)


def test_an_empty_text_alone_is_read() -> None:
    (read,) = read_texts(random_model(context=64), [""])
    assert len(read.nats) == len(read.losses.ends) == 0
    assert answers_at(random_model(context=64), read, "", starts=[0]) == [""]


def test_texts_are_read_alike_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    slm = random_model(context=64)
    texts = [text[: 7 * number + 1] for number, text in enumerate(TEXTS)]
    together = read_texts(slm, texts)
    monkeypatch.setattr(reading, "BATCH_TOKENS", 64)
    for text, one in zip(texts, together, strict=True):
        (alone,) = read_texts(slm, [text])
        np.testing.assert_allclose(alone.nats, one.nats, rtol=1e-5, atol=1e-5)
        assert alone.best.tolist() == one.best.tolist()


def answers(text: str, wrong: Sequence[str], *, instead: str, starts: Sequence[str]) -> list[str]:
    """Of a model that gets all tokens right but those that begin with a word of `wrong`, and writes `instead` there."""
    slm = random_model()
    encoding = slm.tokenizer.encode(text)
    (other, *_) = [each for each in slm.tokenizer.encode(f"a {instead}").ids.tolist() if each != encoding.ids[0]][-1:]
    best = encoding.ids.copy()
    for word in wrong:
        begin = text.index(word)
        best[np.searchsorted(encoding.ends, begin, side="right")] = other
    read = Read(encoding, np.zeros(len(encoding), np.float32), best)
    return answers_at(slm, read, text, starts=[text.index(word) for word in starts])


def test_an_answer_is_a_phrase_that_ends_before_the_model_is_wrong() -> None:
    text = "He was born in Ulm on 14 March 1879, and died."
    words = ["born", "in", "Ulm", "14 March", "died"]
    *right, wrong = answers(text, ["died"], instead="x", starts=words)
    assert right == [" born", " in Ulm", " Ulm", " 14 March 1879"]
    assert not wrong.strip().startswith("died")
    # It writes another word where the year stands: then "14 March" is what it answers, or with the year another phrase.
    assert answers(text, ["1879"], instead=",", starts=["14 March"]) == [" 14 March"]
    (longer,) = answers(text, ["1879"], instead="9", starts=["14 March"])
    assert longer.startswith(" 14 March")
    assert longer.strip() not in text


def test_no_answer_within_a_token_or_a_character() -> None:
    text = "naïve 🙂 café"
    slm = random_model()
    encoding = slm.tokenizer.encode(text)
    inner = [end for start, end in zip(encoding.starts, encoding.ends, strict=True) if end - start > 2]
    read = Read(encoding, np.zeros(len(encoding), np.float32), encoding.ids.copy())
    for end in inner:
        within = end - 1
        if not text[within - 1].isspace():
            assert answers_at(slm, read, text, starts=[within]) == [""]
    # A character of several bytes of which the last is wrong is no answer.
    place = text.index("🙂")
    bytes_of = np.flatnonzero(encoding.ends == place + 1)
    assert len(bytes_of) > 1
    best = encoding.ids.copy()
    best[bytes_of[-1]] = 3
    assert answers_at(slm, Read(encoding, read.nats, best), text, starts=[place]) == [""]


@pytest.mark.slow
def test_a_pretrained_model_marks_by_reading_what_it_marks_by_being_asked() -> None:
    """Some places differ: asked, it spells the text's last word anew, and its tokens there may be others."""
    slm = load_model(str(smollm2_file()))
    documents = [each for each in read_documents(CorpusConfig()) if each.title == "Wildebeest"]
    partner = CheckpointPartner(slm, slots=8, span="phrase")
    found = []
    for document, read in zip(documents, read_texts(slm, [full_text(each) for each in documents]), strict=True):
        words = marks._words(document)

        def by_reading(text: str, starts: Sequence[int], read: Read = read) -> list[str]:
            return answers_at(slm, read, text, starts=starts)

        def by_asking(text: str, starts: Sequence[int]) -> list[str]:
            return partner.complete([question(text, start) for start in starts])

        for ways in (by_reading, by_asking):
            spans = marks._spans(document, words, answers=ways)
            found.append({*zip(spans.starts.tolist(), spans.ends.tolist(), strict=True)})
    read_marks, asked_marks = found
    assert len(asked_marks) > 10
    assert len(read_marks ^ asked_marks) <= 2
