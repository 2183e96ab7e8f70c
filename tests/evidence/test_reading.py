"""The teacher-forced reader: where texts start and end, who reads by it. test_token_scores.py has all its scores."""

import copy
import dataclasses
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacy_jax.cascade.decoding.engine import Engine
from lacy_jax.cascade.decoding.session import Session
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.data.documents import NO_SPANS, Document, full_text
from lacy_jax.data.prepared import Prepared
from lacy_jax.evidence.acceptability.mismatches import read_targets
from lacy_jax.evidence.reading import ROWS, read_documents
from lacy_jax.evidence.run_report.samples import article_scores
from lacy_jax.evidence.token_scores import score_documents
from lacy_jax.model import decoder


@pytest.fixture
def started(small_run: Path) -> LoadedModel:
    """A model whose texts begin with a token of their own, as those of many Hugging Face folders do."""
    slm = load_model(str(small_run))
    tokenizer = copy.copy(slm.tokenizer)
    tokenizer.start_id = 1
    assert tokenizer.start_id != tokenizer.end_id
    # Six steps of training leave all tokens alike; by this row the model knows the start token.
    table = slm.params["embedding"]["embedding"]
    row = jax.random.normal(jax.random.key(0), table.shape[1:])
    params = slm.params | {"embedding": {"embedding": table.at[tokenizer.start_id].set(row)}}
    return dataclasses.replace(slm, tokenizer=tokenizer, params=params)


def plain_losses(slm: LoadedModel, text: str) -> np.ndarray:
    """NLL of each token, one text by itself, in float64 from the hidden states on."""
    ids = [slm.tokenizer.start_id, *slm.tokenizer.encode(text).ids.tolist()][: slm.model.context + 1]
    if len(ids) == 1:
        return np.empty(0)
    hidden = np.asarray(decoder.forward(slm.params, jnp.array([ids[:-1]]), config=slm.model), np.float64)[0]
    logits = hidden @ np.asarray(decoder.output_matrix(slm.params), np.float64)[: slm.tokenizer.call_id].T
    return np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(len(ids) - 1), ids[1:]]


def test_all_readers_begin_with_the_start_of_the_model_s_texts(started: LoadedModel, small_data: Prepared) -> None:
    documents = list(itertools.islice(small_data.validation_documents(), 2))
    losses = [plain_losses(started, full_text(document)) for document, _ in documents]
    ended = dataclasses.replace(started, tokenizer=load_model(started.path).tokenizer)
    assert abs(plain_losses(ended, full_text(documents[0][0]))[0] - losses[0][0]) > 0.02  # so that it would be seen
    for article, expected in zip(article_scores(started, documents), losses, strict=True):
        np.testing.assert_allclose(article.losses, expected, atol=1e-3)
    np.testing.assert_allclose(score_documents(started, documents).nll, np.concatenate(losses), atol=1e-3)
    firsts = {
        target.document: target.loss for target in reversed(read_targets(started, documents)) if not target.before
    }
    for index, loss in firsts.items():
        assert loss == pytest.approx(losses[index][0], abs=1e-3)
    assert firsts


def test_what_is_said_is_what_the_cascade_decodes_by(started: LoadedModel) -> None:
    document = Document("1", "The river", "rises in the hills.")
    (reading,) = read_documents(started, [(document, NO_SPANS)])
    ids = [started.tokenizer.start_id, *reading.ids.tolist()]
    for at in (0, 3, len(ids) - 2):
        step = Session(Engine(started), slots=1).steps({0: ids[: at + 1]})[0][0]
        for name, values in reading.said.call.items():
            assert values[at] == pytest.approx(getattr(step, name), abs=1e-3), name


def test_documents_that_are_empty_long_or_many(small_run: Path) -> None:
    slm = load_model(str(small_run))
    texts = ["", *("The river is long." * times for times in (1, 200)), *["Ab"] * ROWS]
    readings = read_documents(slm, [(Document(str(n), "", text), NO_SPANS) for n, text in enumerate(texts)])
    assert [each.text for each in readings] == texts
    for reading in readings:
        length = min(slm.model.context, len(slm.tokenizer.encode(reading.text)))
        lengths = {len(each) for each in (reading.ids, reading.kinds, reading.wrong, reading.said.nll)}
        assert lengths | {len(each) for each in reading.said.call.values()} == {length}
        np.testing.assert_allclose(reading.said.nll, plain_losses(slm, reading.text), atol=1e-3)
