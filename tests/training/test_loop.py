"""A run: killed and resumed, stopped by a budget or a signal, refused where it does not fit."""

import base64
import contextlib
import dataclasses
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath

from lacy_jax.checkpoints.loading import load_model
from lacy_jax.config import AnnotateConfig, Config, DataConfig, ObjectiveConfig, RuleConfig, TrainingConfig
from lacy_jax.config_dict import config_to_dict
from lacy_jax.console import Reporter
from lacy_jax.data import loader
from lacy_jax.data.prepare import prepare
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import CheckpointError, DataError
from lacy_jax.evidence.reading import read_documents
from lacy_jax.training import checkpoints as checkpoint
from lacy_jax.training import compiled
from lacy_jax.training.announce import describe_objective
from lacy_jax.training.loop import TrainResult, train
from lacy_jax.training.metrics import read_metrics
from lacy_jax.training.watchdog import Watchdog

CLOCKS = ("tokens_per_second", "seconds", "mfu")


class Killed(Exception):
    pass


class KillingReporter(Reporter):
    """Stands for a kill: no code of the run is asked for anything once step `at` is on its way."""

    def __init__(self, at: int):
        super().__init__()
        self.at = at

    def update(self, stage: str, done: int, *_: object) -> None:
        if stage.startswith("train") and done == self.at:
            raise Killed


class KeepingReporter(Reporter):
    """Keeps what a progress bar of the training would show."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[int] = []

    def update(self, stage: str, done: int, *_: object) -> None:
        if stage.startswith("train"):
            self.shown.append(done)


def records(workdir: Path) -> list[dict[str, Any]]:
    """The log without what depends on the clock."""
    log = read_metrics(str(workdir))
    return [{k: v for k, v in record.items() if k not in CLOCKS} for record in log if record["split"] != "goodput"]


def arrays(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint, parameters and optimizer state, by path; read by plain Orbax."""
    folder = workdir.absolute() / "checkpoints" / str(step)
    with ocp.StandardCheckpointer() as checkpointer:
        trees = {item: checkpointer.restore(folder / item) for item in ("params", "train")}
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(trees)}


def contents_of(folder: Path) -> dict[str, str]:
    """The files under a folder, by their hashes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_killed_and_resumed_equals_never_killed_to_the_bit(
    small_config: Config, small_data: Prepared, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    original = loader.batch_at

    def hashed(source: Any, step: int, **options: Any) -> Any:
        batch = original(source, step, **options)
        seen.append(f"{step} {hashlib.sha256(batch.tokens.tobytes()).hexdigest()}")
        return batch

    monkeypatch.setattr(loader, "batch_at", hashed)
    with pytest.raises(Killed):
        train(small_config, prepared=small_data, workdir=str(tmp_path), reporter=KillingReporter(at=5))
    first, seen[:] = seen[:6], []
    result = train(small_config, prepared=small_data, workdir=str(tmp_path), reporter=Reporter())
    assert result.finished
    assert result.step == 6
    assert seen[:3] == first[3:6]  # batches 3, 4, 5: the checkpoint of step 3 goes on with batch 3
    expected, found = arrays(small_run, 6), arrays(tmp_path, 6)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.tobytes() == found[name].tobytes(), name
    assert records(tmp_path) == records(small_run)


def test_runs_of_equal_settings_in_one_process_share_a_program(
    small_config: Config, small_data: Prepared, small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(config: Config, name: str) -> None:
        train(config, prepared=small_data, workdir=str(tmp_path / name), reporter=Reporter(quiet=True))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("compiled")

    run(small_config, "one")
    monkeypatch.setattr(compiled, "jit_train_step", refuse)
    run(small_config, "two")
    expected, found = arrays(small_run, 6), arrays(tmp_path / "two", 6)
    assert {name: value.tobytes() for name, value in found.items()} == {n: v.tobytes() for n, v in expected.items()}
    other = dataclasses.replace(small_config, objective=dataclasses.replace(small_config.objective, rate=0.123))
    with pytest.raises(AssertionError, match="compiled"):
        run(other, "other")


def test_a_finished_run_is_left_alone(small_config: Config, small_data: Prepared, small_run: Path) -> None:
    before = contents_of(small_run)
    result = train(small_config, prepared=small_data, workdir=str(small_run), reporter=Reporter())
    assert result.finished
    assert result.step == 6
    assert contents_of(small_run) == before


def test_records_have_what_the_report_and_the_comparison_need(small_run: Path) -> None:
    log = records(small_run)
    assert [(r["step"], r["split"]) for r in log if r["split"] == "validation"] == [
        (3, "validation"),
        (6, "validation"),
    ]
    last = log[-1]
    for name in ("all", "factual", "other", "taken", "untaken"):
        assert last[f"nll_full/{name}"] >= last[f"nll/{name}"] > 0
    assert {
        "bits_per_byte",
        "roc/factual",
        "roc/greedy_wrong",
        "precision/factual@0.22",
        "call_score/factual/q50",
    } <= set(last)
    train_records = [r for r in log if r["split"] == "train"]
    assert [r["step"] for r in train_records] == [1, 2, 3, 4, 5, 6]
    assert train_records[-1]["loss"] < train_records[0]["loss"]


def test_the_checkpoint_alone_is_enough_to_use_the_model(
    small_run: Path, small_data: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small_run.parent)
    for path in (small_run, Path(small_run.name), small_run / "checkpoints", small_run / "checkpoints" / "3"):
        loaded = load_model(str(path))
        assert loaded.step == (3 if path.name == "3" else 6)
        assert loaded.tokenizer.fingerprint == small_data.tokenizer.fingerprint
        assert len(loaded.call_scores) == 201
        assert list(loaded.call_scores) == sorted(loaded.call_scores)


@pytest.mark.parametrize("unit", [pytest.param("tokens", marks=pytest.mark.slow), "ground_truth_tokens"])
def test_token_budgets_end_at_the_first_step_that_reaches_them(
    small_config: Config, small_data: Prepared, tmp_path: Path, unit: str
) -> None:
    limit = 8 * 32 * 3 - 20  # less than three batches
    training = dataclasses.replace(small_config.training, steps=0, **{unit: limit})
    objective = ObjectiveConfig(rule="loss", rate=0.5, rate_of="valid")
    config = dataclasses.replace(small_config, training=training, objective=objective)
    reporter = KeepingReporter()
    result = train(config, prepared=small_data, workdir=str(tmp_path), reporter=reporter)
    counts = [record[unit] for record in records(tmp_path) if record["split"] == "train"]
    assert result.step == len(counts)
    assert counts[-1] >= limit > counts[-2]
    assert result.step > 3 if unit == "ground_truth_tokens" else result.step == 3
    # From the second step on progress is that of the step before and the mean step, not of all tokens in a batch.
    assert reporter.shown[1:] == pytest.approx([min(count, limit) for count in counts[1:]], abs=0.1 * 8 * 32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objective": ObjectiveConfig(rule="none")}, "config.objective.rule: here 'none', there 'factual_loss'"),
        ({"training": TrainingConfig(steps=6, seed=1)}, "config.training.seed: here 1, there 0"),
        ({"data": DataConfig(batch_size=8, shuffle="block")}, "config.data.shuffle: here 'block', there 'full'"),
    ],
)
def test_a_workdir_of_another_run_is_refused(
    small_config: Config, small_data: Prepared, small_run: Path, change: dict[str, Any], words: str
) -> None:
    before = arrays(small_run, 6).keys()
    with pytest.raises(CheckpointError) as error:
        train(
            dataclasses.replace(small_config, **change),
            prepared=small_data,
            workdir=str(small_run),
            reporter=Reporter(),
        )
    assert words in str(error.value)
    assert "--workdir" in str(error.value)
    assert arrays(small_run, 6).keys() == before


def test_parts_of_a_batch_are_the_machines_matter_unless_targets_are_chosen_in_each(small_data: Prepared) -> None:
    tokenizer = small_data.tokenizer
    stored = {"data": small_data.fingerprint, "tokenizer": base64.b64encode(tokenizer.definition).decode("ascii")}

    def resume(scope: Literal["batch", "microbatch"]) -> None:
        old = Config(objective=ObjectiveConfig(scope=scope), training=TrainingConfig(steps=6, microbatches=2))
        new = dataclasses.replace(old, training=TrainingConfig(steps=6, microbatches=4))
        meta = stored | {"config": config_to_dict(old)}
        checkpoint._refuse_other_run(meta, new, data=small_data.fingerprint, folder=epath.Path("a"))

    resume("batch")
    with pytest.raises(CheckpointError, match=r"config\.training\.microbatches: here 4, there 2"):
        resume("microbatch")


def test_nothing_to_load_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder; give a run's workdir"):
        load_model(str(tmp_path / "absent"))
    with pytest.raises(CheckpointError, match="holds no finished checkpoint"):
        load_model(str(tmp_path))


def test_rho_takes_by_excess_loss_over_a_reference(
    small_config: Config, small_data: Prepared, small_run: Path, tmp_path: Path
) -> None:
    objective = ObjectiveConfig(rule="excess_loss", rate=0.15, rate_of="valid", reference=str(small_run))
    config = dataclasses.replace(small_config, objective=objective)
    assert isinstance(train(config, prepared=small_data, workdir=str(tmp_path), reporter=Reporter()), TrainResult)
    shares = [record["share/taken"] for record in records(tmp_path)]
    assert all(share == pytest.approx(0.15, abs=0.01) for share in shares)


def test_a_model_marks_reads_and_is_weighed_against_the_one_that_learns(
    small_config: Config, small_run: Path, tmp_path: Path
) -> None:
    config = dataclasses.replace(
        small_config,
        annotate=AnnotateConfig(annotator="partner", partner=f"checkpoint:{small_run}"),
        rule=RuleConfig(sub_tokens="first"),
        data=dataclasses.replace(small_config.data, directory=str(tmp_path / "data")),
        objective=ObjectiveConfig(rule="loss", rate=0.15, rate_of="valid", partner_losses="stored"),
    )
    prepared = prepare(config)
    slm = load_model(str(small_run))
    documents = list(prepared.validation_documents())
    for reading, (_, spans) in zip(read_documents(slm, documents), documents, strict=True):
        assert spans.losses is not None
        size = len(reading.ids)
        np.testing.assert_allclose(spans.losses.nats[:size], reading.said.nll, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(spans.losses.ends[:size], reading.ends)
    assert isinstance(train(config, prepared=prepared, workdir=str(tmp_path / "run"), reporter=Reporter()), TrainResult)
    assert all(record["share/taken"] == pytest.approx(0.15, abs=0.01) for record in records(tmp_path / "run"))


def test_losses_that_no_marks_bring_are_missed_before_the_marking(small_config: Config, tmp_path: Path) -> None:
    config = dataclasses.replace(
        small_config,
        data=dataclasses.replace(small_config.data, directory=str(tmp_path)),
        objective=ObjectiveConfig(partner_losses="stored"),
    )
    with pytest.raises(
        DataError, match=r"^config\.objective\.partner_losses=stored: what marks has no losses to store"
    ):
        prepare(config)
    assert not (tmp_path / "annotated").exists()


@pytest.mark.parametrize(
    ("objective", "microbatches", "words"),
    [
        (ObjectiveConfig(rule="none"), 1, "plain next-token prediction"),
        (ObjectiveConfig(), 1, "rate 0.6 of the factual targets, chosen over the whole batch;"),
        (ObjectiveConfig(rate_warmup_steps=2000), 4, "after 2,000 warm-up steps, chosen over the whole batch (4 micro"),
        (ObjectiveConfig(scope="microbatch", rate_of="valid"), 4, "valid targets, chosen over each of 4 microbatches"),
        (ObjectiveConfig(rule="factual", rate=1.0, treatment="ignore"), 1, "rule factual, all of them, chosen"),
    ],
    ids=range(5),
)
def test_the_log_says_over_what_targets_are_chosen(objective: ObjectiveConfig, microbatches: int, words: str) -> None:
    config = Config(objective=objective, training=TrainingConfig(steps=1, microbatches=microbatches))
    assert words in describe_objective(config)


@contextlib.contextmanager
def standard_error_in(file: Path) -> Iterator[None]:
    """What C writes there, too."""
    before = os.dup(2)
    with file.open("wb") as opened:
        os.dup2(opened.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def test_a_step_that_hangs_prints_every_stack_and_goes_on(
    small_config: Config, small_data: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "process 0: step 4 has not ended after 1 s; the stack of every thread:"
    log = tmp_path / "stderr"  # pytest's own capture loses what is written while it is read
    original = loader.batch_at

    def stacks() -> str:
        return log.read_text().partition(told)[2]

    def slow_disk(source: Any, step: int, **options: Any) -> Any:
        deadline = time.monotonic() + 300
        # The fourth step's batch comes only once the watchdog has spoken, to the end of the thread that it shows last.
        while step == 3 and "in _loop" not in stacks() and time.monotonic() < deadline:
            time.sleep(0.05)
        return original(source, step, **options)

    monkeypatch.setattr(loader, "batch_at", slow_disk)
    training = dataclasses.replace(small_config.training, hang_seconds=1.0)
    config = dataclasses.replace(small_config, training=training)
    with standard_error_in(log):
        result = train(config, prepared=small_data, workdir=str(tmp_path / "run"), reporter=Reporter(quiet=True))
    assert result.finished
    assert "in slow_disk" in stacks()
    assert "in _loop" in stacks()  # the thread that waits, too


def test_no_watchdog_where_it_is_turned_off(capfd: pytest.CaptureFixture[str]) -> None:
    threads = threading.active_count()
    with Watchdog(0.0) as watchdog:
        watchdog.watch("step", 1)
        assert threading.active_count() == threads
    with Watchdog(600.0) as watchdog:
        watchdog.watch("step", 1)
    assert capfd.readouterr().err == ""
