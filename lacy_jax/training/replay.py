"""One batch of a run, run again: what it holds, and what the model makes of each row. Nothing on disk is changed."""

import contextlib
import functools
from typing import Any

import jax
import numpy as np

from lacy_jax.config import Config
from lacy_jax.console import Reporter
from lacy_jax.data.loader import batch_windows, prefetch
from lacy_jax.data.origin import batch_texts, shown, window_documents, window_name
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import DataError, StorageError
from lacy_jax.model import decoder
from lacy_jax.runtime import sharding
from lacy_jax.training.checkpoints import read_state
from lacy_jax.training.compiled import compile_train_step
from lacy_jax.training.evaluate import Evaluator, place_batch
from lacy_jax.training.metrics import training_record
from lacy_jax.training.reference import load_reference
from lacy_jax.training.state import new_state, state_shardings


def replay(config: Config, *, prepared: Prepared, workdir: str, batch: int, reporter: Reporter) -> list[str]:
    """Lines about batch `batch` of the run in `workdir`: one about its step, then one per row. Only process 0 has any.

    The weights are those that the run had: of the newest checkpoint that is not after the batch, or new ones, and the
    batches from there on are run again. So on the devices of the run this comes to the run's own numbers.

    Raises:
        CheckpointError: the workdir holds a run with other settings or data.
        MeshError: the devices, the batch or the model do not fit config.mesh.
    """
    size, seed = config.data.batch_size, config.data.seed
    mesh = sharding.make_mesh(config.mesh, batch_size=size, microbatches=config.training.microbatches)
    vocab, call_id = decoder.padded_vocab(prepared.tokenizer.vocab_size), prepared.tokenizer.call_id
    with jax.set_mesh(mesh):
        reference = load_reference(config, tokenizer=prepared.tokenizer.fingerprint, vocab=vocab, mesh=mesh)
        placed = state_shardings(config, vocab=vocab, mesh=mesh)
        data = prepared.fingerprint
        state = read_state(workdir, config, at_most=batch, vocab=vocab, shardings=placed, data=data)
        weights = "new weights" if state is None else f"checkpoint {int(state.step)}"
        if state is None:
            state = new_state(config, vocab=vocab, mesh=mesh)
        first = int(state.step)
        if first < batch:
            weights += f" and batches {first} to {batch - 1} again"
        take_step = compile_train_step(config, vocab=vocab, call_id=call_id, mesh=mesh, reference=reference)
        rows = sharding.process_rows(mesh, size)
        place = functools.partial(place_batch, mesh=mesh, batch_size=size)
        reading: Any = prefetch(prepared.train, first, batch_size=size, seed=seed, rows=rows, place=place)
        with contextlib.closing(reading) as batches:
            for step in range(first, batch):
                reporter.update("batches before it", step - first, batch - first)
                state, _ = take_step(state, next(batches), reference)
            own = next(batches)
        evaluate = Evaluator(config, call_id=call_id, mesh=mesh)
        values = evaluate.of_batch(state.params, own, step=state.step, reference=reference)
        _, sums = take_step(state, own, reference)
        record = training_record(jax.device_get(sums))
    if jax.process_index() > 0:
        return []
    head = (
        f"batch {batch} (step {batch + 1}), with the weights of {weights}: loss {record['loss']:.6g}, gradient norm "
        f"{record['gradient_norm']:.6g}, learning rate {record['learning_rate']:.4g}"
    )
    windows = batch_windows(prepared.train, batch, batch_size=size, seed=seed)
    texts = batch_texts(prepared, batch, config.data)
    documents = _documents(prepared, windows, reporter)
    rows_said = (
        _row(row, values, window=window_name(prepared, windows[row]), documents=documents[row]) for row in range(size)
    )
    return [head, *(f"{said}  {text!r}" for said, text in zip(rows_said, texts, strict=True))]


def _documents(prepared: Prepared, windows: list[int], reporter: Reporter) -> list[str]:
    """What to say about the documents of each window."""
    try:
        found = window_documents(prepared, windows, progress=reporter.update)
    except (DataError, StorageError):
        return ["documents not known (their annotated dataset is not here)"] * len(windows)
    return [shown(found[window]) for window in windows]


def _row(row: int, values: dict[str, np.ndarray], *, window: str, documents: str) -> str:
    own: dict[str, Any] = {name: value[row][values["valid"][row]] for name, value in values.items()}
    targets, odd = len(own["nll"]), int((~np.isfinite(own["nll"])).sum())
    mean = own["nll"].mean(dtype=np.float64) if targets else 0.0
    counts = f"{targets} targets, {int(own['factual'].sum())} factual, {int(own['taken'].sum())} taken"
    said = f", {odd} NOT FINITE" if odd else ""
    return f"row {row}  {window}  {counts}  nats per token {mean:.6g}{said}  {documents}"
