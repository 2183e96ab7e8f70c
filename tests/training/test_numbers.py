"""Numbers that are not finite, losses far from those before, and what a run leaves of them on disk."""

import dataclasses
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lacy_jax.checkpoints.format import model_meta
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.checks import parse
from lacy_jax.config import Config, OptimizerConfig
from lacy_jax.console import Reporter
from lacy_jax.data import loader
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import CheckpointError, ConfigError, NotFiniteError
from lacy_jax.model import decoder
from lacy_jax.training import health, loop
from lacy_jax.training.checkpoints import Checkpoints
from lacy_jax.training.evaluate import Evaluator
from lacy_jax.training.health import Health, read_health
from lacy_jax.training.loop import train
from lacy_jax.training.metrics import read_metrics
from lacy_jax.training.state import init_state
from tests.training.test_loop import Killed, KillingReporter, arrays, records

NO_TOKEN = 10**6  # the embedding has no such row: its hidden states are NaN, as after any overflow


class HearingReporter(Reporter):
    """Keeps the lines that a run says."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def change(config: Config, **training: Any) -> Config:
    return dataclasses.replace(config, training=dataclasses.replace(config.training, **training))


def strict_records(workdir: Path) -> list[dict[str, Any]]:
    """The log, read by a reader that knows no NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def steps(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())


def is_finite(workdir: Path, step: int) -> bool:
    return all(np.isfinite(value).all() for value in arrays(workdir, step).values())


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the batches of these numbers give NaN, in one of their rows."""
    original = loader.batch_at

    def spoil(*numbers: int) -> None:
        def batch_at(source: Any, step: int, **options: Any) -> Any:
            batch = original(source, step, **options)
            if step in numbers:
                batch.tokens[2, 0] = NO_TOKEN
            return batch

        monkeypatch.setattr(loader, "batch_at", batch_at)

    return spoil


def test_a_bad_batch_is_skipped_and_named(
    small_config: Config, small_data: Prepared, tmp_path: Path, bad: Callable[..., None]
) -> None:
    bad(3)
    config, reporter = change(small_config, log_every=100), HearingReporter()
    assert train(config, prepared=small_data, workdir=str(tmp_path), reporter=reporter).finished
    marked = [record for record in strict_records(tmp_path) if "batch" in record]
    assert [(each["step"], each["batch"], each["skipped"]) for each in marked] == [(4, 3, 1)]
    assert marked[0]["loss"] is None
    assert marked[0]["gradient_norm"] is None
    assert len(marked[0]["texts"]) == 8
    lines = [line for line in reporter.said if "not finite" in line]
    assert len(lines) == 1
    assert lines[0].startswith("batch 3 (step 4): loss nan")
    assert repr(marked[0]["texts"][0]) in lines[0]
    assert is_finite(tmp_path, 6)

    # A kill does not change what is skipped, nor what is written about it.
    again = tmp_path / "again"
    with pytest.raises(Killed):
        train(config, prepared=small_data, workdir=str(again), reporter=KillingReporter(at=5))
    train(config, prepared=small_data, workdir=str(again), reporter=Reporter(quiet=True))
    found, expected = arrays(again, 6), arrays(tmp_path, 6)
    assert {name: value.tobytes() for name, value in found.items()} == {n: v.tobytes() for n, v in expected.items()}
    assert [each for each in records(again) if "batch" in each] == [
        each for each in records(tmp_path) if "batch" in each
    ]


def test_too_many_bad_batches_in_a_row_end_the_run(
    small_config: Config, small_data: Prepared, tmp_path: Path, bad: Callable[..., None]
) -> None:
    bad(1, *range(3, 20))
    config = change(small_config, steps=20, skip_nonfinite=3)
    for _ in range(2):  # the second run goes on from step 6, in the middle of the row, and comes to the same end
        with pytest.raises(NotFiniteError) as error:
            train(config, prepared=small_data, workdir=str(tmp_path), reporter=Reporter(quiet=True))
        assert error.value.status == 3
        said = str(error.value)
        assert "4 steps in a row is not finite (batches 3 to 6), more than config.training.skip_nonfinite=3" in said
        assert "the newest checkpoint is 6; --replay_step=3" in said
        assert steps(tmp_path) == [3, 6]
        assert is_finite(tmp_path, 6)
        skipped = {record["batch"]: record["skipped"] for record in strict_records(tmp_path) if "batch" in record}
        assert skipped == {1: 1, 3: 1, 4: 2, 5: 3, 6: 4}
    bad()
    assert train(config, prepared=small_data, workdir=str(tmp_path), reporter=Reporter(quiet=True)).finished


@pytest.mark.parametrize(
    ("rate", "words"),
    [(1e30, "4 steps in a row"), (1e39, "parameters after step 3 are not fin")],
)
@pytest.mark.slow
def test_a_learning_rate_that_explodes_ends_the_run(
    small_config: Config, small_data: Prepared, tmp_path: Path, rate: float, words: str
) -> None:
    config = change(dataclasses.replace(small_config, optimizer=OptimizerConfig(learning_rate=rate)), steps=20)
    with pytest.raises(NotFiniteError, match=words):
        train(config, prepared=small_data, workdir=str(tmp_path), reporter=Reporter(quiet=True))
    assert all(is_finite(tmp_path, step) for step in steps(tmp_path))
    assert [record["loss"] for record in strict_records(tmp_path) if record["split"] == "validation"] == [None]


def test_a_checkpoint_that_is_not_finite_is_not_continued(
    small_config: Config, small_data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(small_config, optimizer=OptimizerConfig(learning_rate=1e39))
    with monkeypatch.context() as patched:  # as it was saved before there was a check
        patched.setattr(loop, "all_finite", lambda _: True)
        train(change(config, steps=3), prepared=small_data, workdir=str(tmp_path), reporter=Reporter(quiet=True))
    assert not is_finite(tmp_path, 3)
    with pytest.raises(CheckpointError, match=r"step 3 has numbers that are not finite.*remove the folder"):
        train(change(config, steps=6), prepared=small_data, workdir=str(tmp_path), reporter=Reporter(quiet=True))


@pytest.mark.slow
def test_a_spike_is_named_with_its_texts(
    small_config: Config, small_data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loader.batch_at

    def odd(source: Any, step: int, **options: Any) -> Any:
        batch = original(source, step, **options)
        if step == 18:
            batch.tokens[:] = np.random.default_rng(0).integers(200, 400, batch.tokens.shape)
        return batch

    monkeypatch.setattr(loader, "batch_at", odd)
    monkeypatch.setattr(health, "LEAST", 10)
    for limit, expected in ((1.5, [(19, 18)]), (0.0, [])):
        workdir, reporter = tmp_path / str(limit), HearingReporter()
        config = change(small_config, steps=20, spike_deviations=limit)
        train(config, prepared=small_data, workdir=str(workdir), reporter=reporter)
        marked = [record for record in strict_records(workdir) if "spike" in record]
        assert [(each["step"], each["batch"]) for each in marked] == expected
        assert [line.partition(":")[0] for line in reporter.said if "deviations" in line] == [
            f"batch {batch} (step {step})" for step, batch in expected
        ]
        assert all(each["spike"] > limit and each["texts"] for each in marked)


def test_a_spike_is_measured_in_standard_deviations_of_the_last_hundred_losses() -> None:
    losses = (4.0 + np.random.default_rng(0).normal(size=150)).tolist()
    found = Health()
    for loss in losses:
        assert found.deviations(loss) == 0.0 or len(found.losses) >= 20
        found = found.after(loss=loss, gradient_norm=1.0)
    assert found.losses == tuple(losses[-100:])
    expected = (9.0 - np.mean(losses[-100:])) / np.std(losses[-100:])
    assert found.deviations(9.0) == pytest.approx(expected)
    assert found.deviations(math.inf) == 0.0
    assert Health(0, (3.0,) * 50).deviations(3.003) == pytest.approx(0.1)  # 1% counts as a deviation


def test_what_is_skipped_is_counted_in_a_row() -> None:
    found = Health(0, (2.0,))
    for loss, norm, expected in ((1.0, math.nan, 1), (math.inf, 1.0, 2), (math.nan, math.nan, 3), (1.5, 1.0, 0)):
        found = found.after(loss=loss, gradient_norm=norm)
        assert found.skipped == expected
    assert found.losses == (2.0, 1.5)
    assert read_health(json.loads(json.dumps(found.to_dict()))) == found
    for junk in (None, {}, [], {"skipped": "x", "losses": []}, {"skipped": 1, "losses": 3}):
        assert read_health(junk) == Health()


@pytest.mark.parametrize(
    ("evaluate_every", "checkpoint_every", "ending"),
    [
        (3, 3, "killed"),
        pytest.param(3, 4, "killed", marks=pytest.mark.slow),
        (4, 4, "killed"),
        (4, 3, "signalled"),
    ],
)
def test_the_last_step_is_validated_before_it_is_saved(
    small_config: Config,
    small_data: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    evaluate_every: int,
    checkpoint_every: int,
    ending: str,
) -> None:
    """Whatever happens during it, the record is there in the end, and the last checkpoint has its call scores."""
    config = change(small_config, evaluate_every=evaluate_every, checkpoint_every=checkpoint_every)
    original = Evaluator.__call__

    def disturbed(self: Evaluator, *arguments: Any, step: Any, **more: Any) -> Any:
        if int(step) == 6 and ending == "killed":
            raise Killed
        if int(step) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments, step=step, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Evaluator, "__call__", disturbed)
        if ending == "killed":
            with pytest.raises(Killed):
                train(config, prepared=small_data, workdir=str(tmp_path), reporter=Reporter(quiet=True))
            assert 6 not in steps(tmp_path)
        else:
            assert train(config, prepared=small_data, workdir=str(tmp_path), reporter=Reporter(quiet=True)).finished
    train(config, prepared=small_data, workdir=str(tmp_path), reporter=Reporter(quiet=True))
    validated = [record["step"] for record in read_metrics(str(tmp_path)) if record["split"] == "validation"]
    assert validated == sorted({step for step in range(1, 7) if step % evaluate_every == 0} | {6})
    assert len(load_model(str(tmp_path)).call_scores) == 201
    assert load_model(str(tmp_path)).step == 6


KEPT = [
    ({"keep_checkpoints": 1}, [5, 4, 3, 2, 1, 6], [6]),
    ({"keep_checkpoints": 2, "keep_every": 3}, [5, 4, 3, 2, 1, 6], [3, 5, 6]),
    ({"keep_checkpoints": 1, "keep_best": "loss"}, [5, 1, 3, 2, 4, 6], [2, 6]),
    ({"keep_checkpoints": 1, "keep_best": "accuracy"}, [5, 1, 9, 2, 4, 6], [3, 6]),
    ({"keep_checkpoints": 1, "keep_best": "loss"}, [math.nan, 7, 8, math.nan, 9, math.inf], [2, 6]),
    ({"keep_checkpoints": 1, "keep_best": "roc/factual", "keep_every": 4}, [5, 1, 4, 2, 4, 4], [1, 4, 6]),
]


def keeping(config: Config, settings: dict[str, Any], *, steps: int) -> Config:
    return change(config, steps=steps, checkpoint_every=1, evaluate_every=1, **settings)


def assert_kept(workdir: Path, settings: dict[str, Any], expected: list[int]) -> None:
    assert steps(workdir) == expected
    assert load_model(str(workdir)).step == 6
    assert (workdir / "checkpoints" / "6" / "metrics").is_dir() == ("keep_best" in settings)


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "values", "expected"), KEPT)
def test_checkpoints_are_kept_by_interval_and_by_a_number_of_the_validation(
    small_config: Config,
    small_data: Prepared,
    tmp_path: Path,
    settings: dict[str, Any],
    values: list[float],
    expected: list[int],
) -> None:
    state = init_state(small_config, vocab=decoder.padded_vocab(small_data.tokenizer.vocab_size))
    name = settings.get("keep_best", "loss")
    saved = list(enumerate(values, start=1))
    for some in (saved[:4], saved[4:]):  # the second object, as in a run that goes on, knows the numbers of before
        config = keeping(small_config, settings, steps=6)
        checkpoints = Checkpoints(str(tmp_path), config)
        for step, value in some:
            meta = model_meta(config, tokenizer=small_data.tokenizer, step=step, data=small_data.fingerprint)
            checkpoints.save(state, step=step, meta=meta, validation={name: float(value)})
        checkpoints.close()
    assert_kept(tmp_path, settings, expected)


@pytest.mark.slow
def test_a_run_keeps_checkpoints_by_its_validation(
    small_config: Config, small_data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, values, expected = KEPT[-1]
    waiting = iter(values)
    monkeypatch.setattr(loop, "validation_record", lambda *_, **__: {settings["keep_best"]: float(next(waiting))})
    for limit in (4, 6):  # the second run goes on from step 4
        config = keeping(small_config, settings, steps=limit)
        train(config, prepared=small_data, workdir=str(tmp_path), reporter=Reporter(quiet=True))
    assert_kept(tmp_path, settings, expected)


def test_what_cannot_be_kept_is_refused_at_the_door() -> None:
    def problems(**training: Any) -> str:
        with pytest.raises(ConfigError) as error:
            parse({"training": {"steps": 10, **training}})
        return str(error.value)

    assert "keep_every: 15 is no multiple of config.training.checkpoint_every (10)" in problems(
        keep_every=15, checkpoint_every=10
    )
    assert "add --config.training.evaluate_every=10" in problems(
        keep_best="loss", checkpoint_every=10, evaluate_every=4
    )
    assert "config.training.keep_best" in problems(keep_best="nll")
    assert "config.training.skip_nonfinite" in problems(skip_nonfinite=-1)
    parse(
        {"training": {"steps": 10, "keep_every": 20, "keep_best": "loss", "checkpoint_every": 10, "evaluate_every": 5}}
    )
