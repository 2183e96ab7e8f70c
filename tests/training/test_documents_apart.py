"""Documents apart in a run: all that read a packed window agree with the teacher-forced reader of one document."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import Config, MeshConfig, ObjectiveConfig
from lacy_jax.data.batch import Batch
from lacy_jax.data.documents import NO_SPANS, Document
from lacy_jax.data.loader import window_batch
from lacy_jax.data.pack import PackedSource
from lacy_jax.evidence.reading import Reading, read_documents
from lacy_jax.model import decoder
from lacy_jax.runtime import sharding
from lacy_jax.training import probe
from lacy_jax.training.evaluate import target_values
from lacy_jax.training.loss import batch_loss, reference_losses
from lacy_jax.training.reference import Reference

WINDOW = 128
DOCUMENTS = (
    Document("1", "Ada Lovelace", "She wrote of numbers, in London."),
    Document("2", "", "A river rises in the hills."),
    Document("3", "The river", "It ends in the sea."),
)
Placed = Sequence[tuple[slice, Reading]]  # the targets of each document, and it read alone


@pytest.fixture(scope="module")
def slm(small_run: Path) -> LoadedModel:
    """A model with documents apart whose weights are large, so that it looks around."""
    small = load_model(str(small_run))
    model = dataclasses.replace(small.model, context=WINDOW, attention_within="document")
    params = decoder.init_params(model, vocab=decoder.padded_vocab(small.tokenizer.vocab_size), key=jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    objective = ObjectiveConfig(rule="none", normalizer="renormalized")
    return dataclasses.replace(
        small, params=params, config=dataclasses.replace(small.config, model=model, objective=objective)
    )


@pytest.fixture(scope="module")
def packed(slm: LoadedModel) -> tuple[Batch[Any], Placed]:
    """A batch of one window, and the documents that lie whole in it."""
    encode, end = slm.tokenizer.encode, slm.tokenizer.end_id
    tokens, placed = [*encode("the rest of another one").ids.tolist(), end], []
    for reading in read_documents(slm, [(document, NO_SPANS) for document in DOCUMENTS]):
        placed.append((slice(len(tokens) - 1, len(tokens) - 1 + len(reading.ids)), reading))
        tokens += [*reading.ids.tolist(), end]
    assert len(tokens) < WINDOW
    record = {"tokens": np.array(tokens + [end] * (WINDOW + 1 - len(tokens))), "length": len(tokens)}
    record["factual"] = record["tokens"] % 2 == 0
    batch = window_batch(PackedSource([record], end_id=end), 0, batch_size=1)
    return jax.tree.map(jnp.asarray, batch), placed


def windowed(config: Config) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, attention_within="window"))


@functools.partial(jax.jit, static_argnames=("config", "call_id"))
def losses(params: decoder.Params, batch: Batch[Any], *, config: Config, call_id: int) -> jax.Array:
    """float32[T], as validation has them, 0 where there is no target."""
    values = target_values(params, batch, jnp.int32(0), None, config=config, call_id=call_id)
    return jnp.where(values["valid"], values["nll"], 0.0)[0]


def test_validation_agrees_with_the_reader(slm: LoadedModel, packed: tuple[Batch[Any], Placed]) -> None:
    batch, placed = packed
    apart, together = (
        np.asarray(losses(slm.params, batch, config=config, call_id=slm.tokenizer.call_id))
        for config in (slm.config, windowed(slm.config))
    )
    for targets, reading in placed:
        np.testing.assert_allclose(apart[targets], reading.said.nll, atol=1e-4)
    targets, reading = placed[1]
    assert np.abs(together[targets] - reading.said.nll).max() > 0.05  # so that a neighbour would be seen


def test_a_reference_agrees_with_the_reader(slm: LoadedModel, packed: tuple[Batch[Any], Placed]) -> None:
    """Whatever the run that it is for does: a reference reads as it was trained."""
    batch, placed = packed
    reference, config = Reference(slm.params, slm.model), windowed(slm.config)
    found = np.asarray(reference_losses(reference, batch, config=config, call_id=slm.tokenizer.call_id)[0])
    for targets, reading in placed:
        np.testing.assert_allclose(found[targets], reading.said.nll, atol=1e-4)


def test_the_loss_of_a_step_agrees_with_validation(slm: LoadedModel, packed: tuple[Batch[Any], Placed]) -> None:
    batch, call_id = packed[0], slm.tokenizer.call_id
    loss, _ = jax.jit(batch_loss, static_argnames=("config", "call_id"))(
        slm.params, batch, config=slm.config, call_id=call_id, step=jnp.int32(0)
    )
    assert loss == pytest.approx(float(losses(slm.params, batch, config=slm.config, call_id=call_id).sum()), rel=1e-5)


def test_the_probe_sees_each_document_alone(slm: LoadedModel, packed: tuple[Batch[Any], Placed]) -> None:
    batch, placed = packed
    mesh = sharding.make_mesh(MeshConfig(), batch_size=1, devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        found = np.asarray(probe._some_tokens(slm.params, batch, slm.model, mesh)[0])
    targets, reading = placed[1]
    ids = jnp.array([[slm.tokenizer.start_id, *reading.ids[:-1].tolist()]])
    hidden = jax.jit(decoder.forward, static_argnames="config")(slm.params, ids, config=slm.model)[0]
    np.testing.assert_allclose(found[targets], hidden, atol=1e-4)
