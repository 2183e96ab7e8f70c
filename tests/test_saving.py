"""What a partner saves: pieces that end with tokens of both models, against a loop over characters; and the probe."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from lacy_jax.adaptation import saving
from lacy_jax.adaptation.saving import Pieces, fit_saving, pieces_of, with_losses
from lacy_jax.cascade.marks.reading import Read, read_texts
from lacy_jax.cascade.scores import score_of
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.data.documents import NO_SPANS, Document, Losses, full_text
from lacy_jax.errors import DataError
from lacy_jax.evidence.reading import read_documents
from lacy_jax.model.probe import Probe
from tests.cascade.conftest import TEXTS, random_model

SLM, PARTNER = random_model(context=120), random_model("llama", size=460, seed=7, context=160)
DOCUMENTS = [Document("1", "Albert Einstein", TEXTS[0]), Document("2", "", TEXTS[3]), Document("3", "", TEXTS[1] * 9)]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_pieces_are_the_least_that_end_with_tokens_of_both() -> None:
    texts = [f"{each.title}\n\n{each.text}" if each.title else each.text for each in DOCUMENTS]
    reads = read_texts(PARTNER, texts)
    held_out = [
        (document, dataclasses.replace(NO_SPANS, losses=read.losses))
        for document, read in zip(DOCUMENTS, reads, strict=True)
    ]
    readings = read_documents(SLM, held_out)
    pieces = pieces_of(SLM, held_out)
    expected = []
    for text, reading, read in zip(texts, readings, reads, strict=True):
        last = max(set(reading.ends.tolist()) & set(read.encoding.ends.tolist()))
        own = theirs = tokens = taken = 0.0
        begun, first = 0, 0
        for end in range(1, last + 1):
            mine = np.flatnonzero(reading.ends == end)
            other = np.flatnonzero(read.encoding.ends == end)
            own, tokens, taken = own + reading.said.nll[mine].sum(), tokens + len(mine), taken + len(mine)
            theirs += read.nats[other].sum()
            if len(mine) and len(other):
                score = reading.said.call["uncertainty"][first]
                expected.append((tokens, len(text[begun:end].encode()), own, theirs, score))
                own, theirs, tokens, begun, first = 0.0, 0.0, 0.0, end, int(taken)
    uncertainty = pieces.scores(SLM)["uncertainty"]
    found = np.stack([pieces.tokens, pieces.bytes, pieces.own, pieces.theirs, uncertainty], axis=1)
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-4, atol=1e-4)
    nats = [
        pieces.bits_per_byte(pieces.saved, share=share) * np.log(2) * pieces.bytes.sum() for share in (0.0, 0.2, 1.0)
    ]
    np.testing.assert_allclose([nats[0], nats[2]], [pieces.own.sum(), pieces.theirs.sum()], rtol=1e-6)
    best = sorted(range(len(expected)), key=lambda row: (expected[row][3] - expected[row][2]) / expected[row][0])
    spent, saved = 0.0, 0.0
    for row in best:
        spent += expected[row][0]
        if spent > 0.2 * pieces.tokens.sum():
            break
        saved += expected[row][2] - expected[row][3]
    np.testing.assert_allclose(nats[1], pieces.own.sum() - saved, rtol=1e-4)


def random_pieces(rng: np.random.Generator, *, count: int, weights: np.ndarray, noise: float) -> Pieces:
    """States whose savings per token lie on a line through them, but for noise."""
    hidden = rng.normal(size=(count, len(weights))).astype(np.float32) * 3 + 1
    tokens = rng.integers(1, 4, count)
    own = (hidden @ weights + 2 + noise * rng.normal(size=count)) * tokens
    return Pieces(tokens, tokens, own, np.zeros(count), hidden, {})


def test_the_probe_is_the_line_of_least_squares_over_tokens(rng: np.random.Generator) -> None:
    """By NumPy's solver in float64; a piece of three tokens counts three times."""
    pieces = random_pieces(rng, count=400, weights=np.arange(5.0), noise=2.0)
    probe = fit_saving(pieces)
    ones = np.insert(pieces.hidden.astype(np.float64), 0, 1.0, axis=1)
    rows = np.repeat(np.arange(400), pieces.tokens)
    bias, *weights = np.linalg.lstsq(ones[rows], pieces.saved[rows], rcond=None)[0]
    np.testing.assert_allclose([probe.bias, *probe.weights], [bias, *weights], rtol=1e-2, atol=1e-3)


def test_a_constant_state_says_nothing(rng: np.random.Generator) -> None:
    """Its mean in float32 is another number than itself."""
    pieces = random_pieces(rng, count=5000, weights=np.array([1.0, 0.0, 2.0]), noise=1.0)
    without = fit_saving(dataclasses.replace(pieces, hidden=pieces.hidden[:, ::2]))
    pieces.hidden[:, 1] = 7.1
    probe = fit_saving(pieces)
    found, expected = pieces.hidden @ probe.weights + probe.bias, pieces.hidden[:, ::2] @ without.weights + without.bias
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(probe.weights).max() < 10


def test_the_scores_are_those_of_the_cascade(rng: np.random.Generator) -> None:
    """Of the same states by the teacher-forced reader, which decodes with the probe as the cascade does.

    Of more documents than are read in one batch, none as long as another.
    """
    documents = [Document(str(n), "", TEXTS[n % 4][: 200 - 9 * n]) for n in range(12)]
    reads = read_texts(PARTNER, [each.text for each in documents])
    pairs = [
        (each, dataclasses.replace(NO_SPANS, losses=read.losses)) for each, read in zip(documents, reads, strict=True)
    ]
    probe = Probe(weights=tuple(rng.normal(size=SLM.model.width).tolist()), bias=0.25)
    fitted = dataclasses.replace(SLM, saving_probe=probe)
    pieces = pieces_of(SLM, pairs)  # read without a probe
    assert "expected_saving" not in pieces.scores(SLM)
    expected = []
    for reading, (_, spans) in zip(read_documents(fitted, pairs), pairs, strict=True):
        assert spans.losses is not None
        ends = np.intersect1d(reading.ends, spans.losses.ends)
        firsts = np.append(0, np.searchsorted(reading.ends, ends, side="right")[:-1])
        expected.append(np.asarray(score_of("expected_saving", reading.said.call, gate="none"))[firsts])
    found = pieces.scores(fitted)["expected_saving"]
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("left", [0, 100])
def test_what_the_partner_read_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: int) -> None:
    """Also after a kill, or where a file was cut short; of another partner or other texts nothing is taken."""
    read: list[int] = []

    def counting(slm: LoadedModel, texts: Sequence[str]) -> list[Read]:
        read.append(len(texts))
        return read_texts(slm, texts)

    monkeypatch.setattr(saving, "TEXTS", 2)
    monkeypatch.setattr(saving, "read_texts", counting)
    args = {"slm": SLM, "folder": tmp_path / "reads", "progress": lambda *_: None}
    first = with_losses(PARTNER, DOCUMENTS, **args)
    assert read == [2, 1]
    files = sorted((tmp_path / "reads").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:left])
    again = with_losses(PARTNER, DOCUMENTS, **args)
    assert len(read) == 3
    for (_, one), (_, other) in zip(first, again, strict=True):
        assert one.losses is not None
        assert other.losses is not None
        np.testing.assert_array_equal(one.losses.ends, other.losses.ends)
        np.testing.assert_array_equal(one.losses.nats, other.losses.nats)
    with_losses(PARTNER, DOCUMENTS[:1], **args)
    with_losses(random_model("llama", size=460, seed=8, context=160), DOCUMENTS[:2], **args)
    assert len(read) == 5


def test_only_what_the_model_reads_is_read_by_the_partner(tmp_path: Path) -> None:
    """The third document is longer than the model's context."""
    found = with_losses(PARTNER, DOCUMENTS, slm=SLM, folder=tmp_path, progress=lambda *_: None)
    for (document, spans), reading in zip(found, read_documents(SLM, found), strict=True):
        assert spans.losses is not None
        assert spans.losses.ends[-1] == reading.ends[-1]
        assert (reading.ends[-1] == len(full_text(document))) == (document.id != "3")


def test_texts_without_a_word_are_refused() -> None:
    nothing = dataclasses.replace(NO_SPANS, losses=Losses(np.zeros(0, np.int32), np.zeros(0, np.float32)))
    with pytest.raises(DataError, match="hold no word that both models read"):
        pieces_of(SLM, [(DOCUMENTS[0], nothing)])
