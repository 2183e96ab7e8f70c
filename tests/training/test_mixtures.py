"""A run on a mixture: records of each dataset, several validation sets, the same batches on any number of processes."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np
import pytest

from lacy_jax import objective
from lacy_jax.config import Config, DataConfig, TrainingConfig
from lacy_jax.config_dict import config_to_dict
from lacy_jax.console import Reporter
from lacy_jax.data import loader
from lacy_jax.data.batch import Batch
from lacy_jax.data.check import data_problems
from lacy_jax.data.loader import batch_at
from lacy_jax.data.prepare import prepare
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import CheckpointError, DataError
from lacy_jax.evidence.run_report.datasets import datasets_of
from lacy_jax.evidence.run_report.page import RunSummary, render_report
from lacy_jax.training.loop import train
from lacy_jax.training.metrics import class_sums, read_metrics
from lacy_jax.training.replay import replay
from lacy_jax.training.sources import source_records, source_sums
from tests.processes import run_two


class Lines(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def with_mixture(config: Config, mixture: str) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, mixture=mixture))


@pytest.fixture(scope="session")
def prepared(small_mixture: Config) -> Prepared:
    return prepare(small_mixture)


@pytest.fixture(scope="session")
def run(small_mixture: Config, prepared: Prepared, shared: Path) -> tuple[Path, list[str]]:
    """The workdir of a finished run on `small_mixture`, and what it said. No test changes it."""
    workdir, said = shared / "small_mixture_run", shared / "small_mixture_run.json"
    with filelock.FileLock(shared / "small_mixture_run.lock"):
        if not said.exists():
            reporter = Lines()
            assert train(small_mixture, prepared=prepared, workdir=str(workdir), reporter=reporter).finished
            said.write_text(json.dumps(reporter.said))
    return workdir, json.loads(said.read_text())


def sources_of(prepared: Prepared, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The dataset of each row of the batch of a step, and its number of targets."""
    batch = batch_at(prepared.train, step - 1, batch_size=8, seed=0)
    assert batch.sources is not None
    return batch.sources, np.maximum(batch.lengths - 1, 0)


@pytest.mark.slow
def test_the_run_says_how_often_each_dataset_is_read(run: tuple[Path, list[str]], prepared: Prepared) -> None:
    lines = [line for line in run[1] if line.startswith("mixture")]
    counts = np.zeros(2, int)
    for step in range(1, 7):
        counts += np.bincount(sources_of(prepared, step)[0], minlength=2)
    own = [len(prepared.parts[name].train) for name in ("articles", "people")]
    assert lines == [
        "mixture     articles: 100.0% at step 0, from 100.0% to 50.0% at step 3, 25.0% at step 6; "
        f"in all {counts[0]:,} of 48 windows, which is {counts[0] / own[0]:.2f} times each of its {own[0]:,}",
        "mixture     people: 0.0% at step 0, from 0.0% to 50.0% at step 3, 75.0% at step 6; "
        f"in all {counts[1]:,} of 48 windows, which is {counts[1] / own[1]:.2f} times each of its {own[1]:,}",
        "mixture     few: weight 0, only validated",
    ]
    assert sum("a step waits for its batch" in line for line in run[1]) == 1


@pytest.mark.slow
def test_records_of_the_datasets_add_up_to_that_of_the_batch(run: tuple[Path, list[str]], prepared: Prepared) -> None:
    log = {(row["step"], row["split"]): row for row in read_metrics(str(run[0]))}
    for step in range(1, 7):
        sources, targets = sources_of(prepared, step)
        counts = {name: targets[sources == place].sum() for place, name in enumerate(("articles", "people"))}
        own = {name: log[step, f"train/{name}"] for name, count in counts.items() if count}
        assert own.keys() == {name for name in counts if (step, f"train/{name}") in log}
        for number in ("nll/all", "nll_full/all", "share/factual", "share/taken", "call_probability/all"):
            mean = sum(counts[name] * row[number] for name, row in own.items()) / sum(counts.values())
            assert mean == pytest.approx(log[step, "train"][number], rel=1e-4)
    assert (1, "train/people") not in log
    assert (6, "train/people") in log
    facts = [log[6, f"train/{name}"]["share/factual"] for name in ("articles", "people")]
    batch = batch_at(prepared.train, 5, batch_size=8, seed=0)
    for place, share in enumerate(facts):
        rows = batch.sources == place
        valid = np.arange(1, batch.tokens.shape[1]) < batch.lengths[rows][:, None]
        assert share == pytest.approx((batch.target_factual[rows] & valid).sum() / valid.sum())


@pytest.mark.slow
def test_every_dataset_is_validated_alone_and_those_trained_together(
    run: tuple[Path, list[str]], prepared: Prepared
) -> None:
    log = [row for row in read_metrics(str(run[0])) if row["step"] == 6]
    found = {row["split"]: row for row in log if row["split"].startswith("validation")}
    assert found.keys() == {"validation", "validation/articles", "validation/people", "validation/few"}
    counts = {}
    for name in ("articles", "people"):
        source = prepared.parts[name].validation
        counts[name] = sum(max(source[index]["length"] - 1, 0) for index in range(min(16, len(source))))
    for number in ("nll/all", "share/factual", "accuracy"):
        mean = sum(count * found[f"validation/{name}"][number] for name, count in counts.items()) / sum(counts.values())
        assert mean == pytest.approx(found["validation"][number], rel=1e-4)
    assert found["validation/few"].keys() >= {"bits_per_byte", "roc/factual", "call_score/all/q50"}
    names = {name: row.keys() - {"step", "split"} for row in log for name in [row["split"]]}
    assert names["train/articles"] < names["train"]
    assert names["validation/articles"] <= names["validation"] | names["validation/few"]


@pytest.mark.slow
def test_the_report_has_a_row_for_each_dataset(run: tuple[Path, list[str]]) -> None:
    log = read_metrics(str(run[0]))
    rows = datasets_of(log)
    assert [row.name for row in rows] == ["articles", "people", "few"]
    assert [row.trained is None for row in rows] == [False, False, True]
    assert all(row.validated is not None for row in rows)
    summary = RunSummary("mix", "lacy", parameters=1, steps=6, tokens=1, seconds=1.0, device="", command="")
    page = render_report(summary=summary, metrics=log)
    last = next(row for row in reversed(log) if row["split"] == "validation/few")
    few = page.partition('<th scope="row">few</th>')[2].partition("</tr>")[0]
    assert few.count("<td>–</td>") == 4
    assert f"<td>{last['nll/all']:.3f}</td>" in few
    plain = [row for row in log if "/" not in row["split"]]
    assert 'id="datasets"' not in render_report(summary=summary, metrics=plain)


@pytest.mark.slow
def test_a_batch_shown_again_names_the_datasets_of_its_rows(
    small_mixture: Config, run: tuple[Path, list[str]], prepared: Prepared
) -> None:
    head, *rows = replay(small_mixture, prepared=prepared, workdir=str(run[0]), batch=5, reporter=Reporter(quiet=True))
    record = next(row for row in read_metrics(str(run[0])) if (row["step"], row["split"]) == (6, "train"))
    assert f"loss {record['loss']:.6g}" in head
    names = ("articles", "people")
    ids = {name: {document.id for document in prepared.parts[name].documents()} for name in names}
    for row, source in zip(rows, sources_of(prepared, 6)[0], strict=True):
        assert f"  {names[source]} window " in row
        assert f"'{names[source]}: " in row
        assert any(each in row for each in ids[names[source]])


@pytest.mark.slow
def test_another_mixture_is_refused_and_another_validation_set_is_not(
    small_mixture: Config, run: tuple[Path, list[str]], tmp_path: Path
) -> None:
    text = small_mixture.data.mixture
    articles, people, few = text.split(",")
    moved = shutil.copytree(people.rpartition(":")[2].removesuffix("/1.0.0"), tmp_path / "moved") / "1.0.0"
    same = with_mixture(small_mixture, f"{articles},people:0@0.5..2@0.5..6:{moved}".replace("s:1:", "s:2:"))
    assert train(same, prepared=prepare(same), workdir=str(run[0]), reporter=Reporter(quiet=True)).step == 6
    others = {
        f"{people},{articles}": "the prepared data",
        f"{articles},{people},{few.replace(':0:', ':1:')}": "the prepared data",
        text.replace("..3", "..2"): "config.data.mixture: the shares of the datasets differ, by step: here [[0,",
    }
    longer = dataclasses.replace(small_mixture, training=dataclasses.replace(small_mixture.training, steps=8))
    for config, words in [(with_mixture(small_mixture, each), words) for each, words in others.items()] + [
        (longer, "for another budget, write places as steps")
    ]:
        with pytest.raises(CheckpointError, match=words.replace("[", r"\[")):
            train(config, prepared=prepare(config), workdir=str(run[0]), reporter=Reporter(quiet=True))


def test_problems_of_a_mixture_are_named_before_the_work(small_mixture: Config, tmp_path: Path) -> None:
    articles, people, _ = small_mixture.data.mixture.split(",")
    assert list(data_problems(small_mixture)) == []
    missing = with_mixture(small_mixture, f"{articles},web:1:{tmp_path}/none,more:1:nowhere")
    assert list(data_problems(missing)) == [
        f"config.data.mixture: web: there is no folder {tmp_path}/none",
        "config.data.mixture: more: there is no folder nowhere",
    ]
    copy = shutil.copytree(people.rpartition(":")[2].removesuffix("/1.0.0"), tmp_path / "copy") / "1.0.0"
    with pytest.raises(DataError, match="people and copy are the same dataset in two folders"):
        prepare(with_mixture(small_mixture, f"{people},copy:1:{copy}"))
    # Of another tokenizer: trained on the people themselves.
    own = dataclasses.replace(
        small_mixture,
        data=DataConfig(directory=str(tmp_path / "data"), batch_size=8),
        corpus=dataclasses.replace(small_mixture.corpus, name="biographies"),
        annotate=dataclasses.replace(small_mixture.annotate, annotator="oracle"),
        training=TrainingConfig(steps=6),
    )
    world = dataclasses.replace(own.corpus.biographies, people=8, documents=40)
    other = prepare(dataclasses.replace(own, corpus=dataclasses.replace(own.corpus, biographies=world)))
    with pytest.raises(
        DataError, match="articles and other have different tokenizers; prepare other again with --conf"
    ):
        prepare(with_mixture(small_mixture, f"{articles},other:1:{other.packed.directory}"))


def test_sums_of_datasets_are_those_of_their_rows() -> None:
    random = np.random.default_rng(0)
    shape = (6, 7)
    lse, target, call = random.normal(size=(3, *shape)).astype(np.float32)
    scalars = objective.HeadScalars(lse=lse + 2, target=target, call=call)
    tokens = np.zeros((6, 8), np.int32)
    factual, lengths = random.random((6, 8)) < 0.4, np.array([8, 5, 8, 1, 7, 8], np.int32)
    batch = Batch(tokens, factual, tokens, lengths, np.array([0, 2, 0, 2, 2, 0], np.int32))
    taken = random.random(shape) < 0.3
    found = source_sums(scalars, batch, taken=taken, count=3)
    for source in range(3):
        rows = batch.sources == source
        alone = class_sums(
            objective.HeadScalars(lse=scalars.lse[rows], target=target[rows], call=call[rows]),
            factual=batch.target_factual[rows],
            taken=taken[rows],
            valid=np.asarray(batch.valid)[rows],
        )
        assert {name: float(found[f"source/{name}"][source]) for name in alone} == pytest.approx(
            {name: float(value) for name, value in alone.items()}, rel=1e-5, abs=1e-5
        )
    records = source_records(jax.device_get(found), ("a", "b", "c"))
    assert records.keys() == {"a", "c"}  # no row is of b
    assert source_sums(scalars, dataclasses.replace(batch, sources=None), taken=taken, count=3) == {}


# --- On another number of processes ---------------------------------------------------------------------------------

PROGRAM = """
import hashlib, json, sys
from lacy_jax.runtime.distributed import initialize
initialize("auto")
from lacy_jax.config_dict import config_from_dict
from lacy_jax.console import Reporter
from lacy_jax.data import loader
from lacy_jax.data.batch import Batch
from lacy_jax.data.prepare import prepare
from lacy_jax.training.loop import train

out = open(sys.argv[1], "w")
original = loader.batch_at

def batch_at(source, step, **options):
    batch = original(source, step, **options)
    for row, tokens, place in zip(options["rows"], batch.tokens, batch.sources, strict=True):
        print(step, row, place, hashlib.sha256(tokens.tobytes()).hexdigest(), file=out)
    return batch

loader.batch_at = batch_at
config = config_from_dict(json.loads(sys.argv[3]))
assert train(config, prepared=prepare(config), workdir=sys.argv[2], reporter=Reporter(quiet=True)).finished
"""


@pytest.mark.slow
def test_resumed_on_another_number_of_processes_it_reads_the_same_batches(
    small_mixture: Config,
    prepared: Prepared,
    run: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two processes from the first step on; then one goes on from the middle of their run, and two from that of one."""
    workdir, half, other = tmp_path / "two", tmp_path / "half", tmp_path / "other"
    settings = json.dumps(config_to_dict(small_mixture))
    both = run_two(PROGRAM, [workdir, settings], out=tmp_path)
    whole = {row for rows in both for row in rows}
    assert len(both[0]) == len(both[1])
    assert not set(both[0]) & set(both[1])

    seen: list[str] = []
    original = loader.batch_at

    def noted(source: Any, step: int, **options: Any) -> Any:
        batch = original(source, step, **options)
        for row, tokens, place in zip(options["rows"], batch.tokens, batch.sources, strict=True):
            seen.append(f"{step} {row} {place} {hashlib.sha256(tokens.tobytes()).hexdigest()}")
        return batch

    for start, copy in ((workdir, half), (run[0], other)):
        shutil.copytree(start, copy)
        shutil.rmtree(copy / "checkpoints" / "6")
    monkeypatch.setattr(loader, "batch_at", noted)
    assert train(small_mixture, prepared=prepared, workdir=str(half), reporter=Reporter(quiet=True)).finished
    assert {row for row in seen if row[0] in "345"} == {row for row in whole if row[0] in "345"}
    again = run_two(PROGRAM, [other, settings], out=tmp_path)
    rows = {row for each in again for row in each if row[0] in "345"}
    assert rows == {row for row in whole if row[0] in "345"}
    assert len(rows) == 3 * small_mixture.data.batch_size
    first, second = (
        [row for row in read_metrics(str(folder)) if row["split"] == "train/people"] for folder in (half, run[0])
    )
    assert [row["step"] for row in first] == [row["step"] for row in second]
    for one, two in zip(first, second, strict=True):
        assert one["nll/all"] == pytest.approx(two["nll/all"], rel=1e-4)
