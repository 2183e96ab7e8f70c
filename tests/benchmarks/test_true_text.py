"""What true text costs a cascade: pieces that end with tokens of both models, against a loop over characters."""

import dataclasses

import numpy as np

from benchmarks.real_text import SAVES, Cells, cells_of, expected_saving
from lacy_jax.cascade.marks.reading import read_texts
from lacy_jax.data.documents import NO_SPANS, Document
from lacy_jax.evidence.reading import read_documents
from tests.cascade.conftest import TEXTS, random_model

SLM, PARTNER = random_model(context=120), random_model("llama", size=460, seed=7, context=160)
DOCUMENTS = [Document("1", "Albert Einstein", TEXTS[0]), Document("2", "", TEXTS[3]), Document("3", "", TEXTS[1] * 9)]


def test_pieces_are_the_least_that_end_with_tokens_of_both() -> None:
    texts = [f"{each.title}\n\n{each.text}" if each.title else each.text for each in DOCUMENTS]
    reads = read_texts(PARTNER, texts)
    held_out = [
        (document, dataclasses.replace(NO_SPANS, losses=read.losses))
        for document, read in zip(DOCUMENTS, reads, strict=True)
    ]
    readings = read_documents(SLM, held_out)
    cells = cells_of(SLM, held_out)
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
    found = np.stack([cells.tokens, cells.bytes, cells.own, cells.theirs, cells.scores["uncertainty"]], axis=1)
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-4, atol=1e-4)
    nats = [cells.bits_per_byte(SAVES, cost=cost) * np.log(2) * cells.bytes.sum() for cost in (0.0, 0.2, 1.0)]
    np.testing.assert_allclose([nats[0], nats[2]], [cells.own.sum(), cells.theirs.sum()], rtol=1e-6)
    best = sorted(range(len(expected)), key=lambda row: (expected[row][3] - expected[row][2]) / expected[row][0])
    spent, saved = 0.0, 0.0
    for row in best:
        spent += expected[row][0]
        if spent > 0.2 * cells.tokens.sum():
            break
        saved += expected[row][2] - expected[row][3]
    np.testing.assert_allclose(nats[1], cells.own.sum() - saved, rtol=1e-4)


def test_what_is_expected_is_what_a_line_through_the_states_says() -> None:
    rng = np.random.default_rng(0)

    def cells(saved: np.ndarray, hidden: np.ndarray) -> Cells:
        tokens, zeros = rng.integers(1, 4, len(saved)), np.zeros(len(saved))
        return Cells(tokens, tokens, zeros, zeros, hidden, {SAVES: saved})

    states, others = rng.normal(size=(300, 5)), rng.normal(size=(40, 5))
    weights = np.arange(5.0)
    found = expected_saving(cells(states @ weights + 2, states), cells(np.zeros(40), others))
    np.testing.assert_allclose(found, others @ weights + 2, atol=1e-2)
