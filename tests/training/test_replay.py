"""One batch of a run, run again: the run's own numbers, and the documents that its rows hold."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lacy_jax.config import Config
from lacy_jax.console import Reporter
from lacy_jax.data import loader
from lacy_jax.data.documents import full_text
from lacy_jax.data.loader import batch_at
from lacy_jax.data.origin import batch_texts, shown, window_documents
from lacy_jax.data.prepared import Prepared
from lacy_jax.training.metrics import read_metrics
from lacy_jax.training.replay import replay
from tests.training.test_loop import contents_of

QUIET = Reporter(quiet=True)


@pytest.mark.parametrize(
    ("batch", "weights"), [(0, "new weights:"), (3, "checkpoint 3:"), (5, "checkpoint 3 and batches 3 to 4 again:")]
)
def test_a_batch_comes_to_the_numbers_of_the_run(
    small_config: Config, small_data: Prepared, small_run: Path, batch: int, weights: str
) -> None:
    before = contents_of(small_run)
    head, *rows = replay(small_config, prepared=small_data, workdir=str(small_run), batch=batch, reporter=QUIET)
    assert contents_of(small_run) == before
    assert weights in head
    record = next(each for each in read_metrics(str(small_run)) if each["step"] == batch + 1)
    assert f"loss {record['loss']:.6g}, gradient norm {record['gradient_norm']:.6g}" in head
    assert len(rows) == 8
    targets = [int(re.search(r"(\d+) targets", row)[1]) for row in rows]  # type: ignore[index]
    means = [float(re.search(r"nats per token (\S+)", row)[1]) for row in rows]  # type: ignore[index]
    assert np.average(means, weights=targets) == pytest.approx(record["nll/all"], rel=1e-5)
    own = batch_at(small_data.train, batch, batch_size=8, seed=small_config.data.seed)
    assert targets == np.maximum(own.lengths - 1, 0).tolist()
    for row, tokens in zip(rows, own.tokens, strict=True):
        text = small_data.tokenizer.decode(tokens[1:].tolist()).split()
        assert " ".join(text)[:10] in row


@pytest.mark.slow
def test_without_a_checkpoint_the_weights_are_those_of_the_pretrained_model(
    small_config: Config, small_data: Prepared, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one and the same batch, since a run from a finished one begins anew with batch 0."""
    original = loader.batch_at
    monkeypatch.setattr(loader, "batch_at", lambda source, _step, **options: original(source, 0, **options))
    model = dataclasses.replace(small_config.model, initial=str(small_run))
    config = dataclasses.replace(small_config, model=model)
    means = []
    for settings, workdir, batch in [(small_config, small_run, 6), (config, tmp_path, 0)]:
        _, *rows = replay(settings, prepared=small_data, workdir=str(workdir), batch=batch, reporter=QUIET)
        means.append([float(re.search(r"nats per token (\S+)", row)[1]) for row in rows])  # type: ignore[index]
    assert means[0] == means[1]


def test_the_rows_that_are_not_finite_are_marked(
    small_config: Config, small_data: Prepared, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loader.batch_at

    def bad(source: Any, step: int, **options: Any) -> Any:
        batch = original(source, step, **options)
        batch.tokens[2, 0] = 10**6
        return batch

    monkeypatch.setattr(loader, "batch_at", bad)
    head, *rows = replay(small_config, prepared=small_data, workdir=str(small_run), batch=3, reporter=QUIET)
    assert "loss nan, gradient norm nan" in head
    assert [row.split("  ")[0] for row in rows if "NOT FINITE" in row] == ["row 2"]


def test_documents_of_windows_are_those_that_hold_their_text(small_data: Prepared) -> None:
    texts = {document.id: full_text(document) for document in small_data.documents()}
    windows = range(len(small_data.train))
    found = window_documents(small_data, windows, progress=lambda *_: None)
    assert sorted(found) == list(windows)
    several = 0
    for window, ids in found.items():
        record = small_data.train[window]
        tokens = record["tokens"][: record["length"]].tolist()
        pieces: list[list[int]] = [[]]
        for token in tokens:
            if token == small_data.tokenizer.end_id:
                pieces.append([])
            else:
                pieces[-1].append(token)
        pieces = [piece for piece in pieces if piece]
        assert len(ids) == len(pieces)
        several += len(ids) > 1
        for name, piece in zip(ids, pieces, strict=True):
            part = small_data.tokenizer.decode_bytes(piece).strip(b" ")
            assert part in texts[name].encode()
    assert several > 10


def test_a_text_in_a_line_is_one_short_line(small_config: Config, small_data: Prepared) -> None:
    texts = batch_texts(small_data, 4, small_config.data)
    assert len(texts) == 8
    assert all(0 < len(text) <= 60 and "\n" not in text for text in texts)


def test_of_many_names_a_line_shows_three() -> None:
    assert shown(["a", "b'", "c"]) == "'a', \"b'\", 'c'"
    assert shown(["a", "b", "c", "d", "e"]) == "'a', 'b', 'c' and 2 more"
