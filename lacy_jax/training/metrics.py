"""What is measured of a batch, how sums become a record, and where records go.

A record is one flat JSON object on one line of `metrics.jsonl`, and the same numbers as TensorBoard events. A number
that is not finite is null: JSON has no other word for it. Every
method is measured on the same footing: NLL of the true token by class of target, with and without `<CALL>`
in the normalizer, whatever the method trains on.
"""

import contextlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax import objective
from lacy_jax.data.files import read_json_log, write_whole
from lacy_jax.errors import StorageError
from lacy_jax.imports import hidden
from lacy_jax.measures import separation
from lacy_jax.paths import absolute, is_bucket
from lacy_jax.training.mirror import Mirror
from lacy_jax.training.state import count_value

with hidden("torch"):  # seconds, and hundreds of megabytes, before the first step
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.summary import scalar

METRICS_FILE = "metrics.jsonl"
CLASSES = ("all", "factual", "other", "taken", "untaken")
BUDGETS = (0.05, 0.1, 0.15, 0.22, 0.3, 0.5, 0.8)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def class_sums(
    scalars: objective.HeadScalars, *, factual: jax.Array, taken: jax.Array, valid: jax.Array
) -> dict[str, jax.Array]:
    """Sums over valid targets of each class; float32 scalars named `<what>/<class>`."""
    masks = {"all": valid, "factual": valid & factual, "other": valid & ~factual}
    masks |= {"taken": valid & taken, "untaken": valid & ~taken}
    values = {
        "nll": objective.nll_without_call(scalars),
        "nll_full": objective.nll_with_call(scalars),
        "call_score": objective.call_log_odds(scalars),
        "call_probability": objective.call_probability(scalars),
    }
    sums = {f"count/{name}": jnp.sum(mask, dtype=jnp.float32) for name, mask in masks.items()}
    for what, value in values.items():
        for name, mask in masks.items():
            sums[f"{what}/{name}"] = jnp.sum(jnp.where(mask, value, 0.0))
    return sums


def mean_loss(sums: dict[str, Any]) -> float:
    """The loss that a step minimised, in nats per unit of weight, from the host's copy of its sums."""
    return float(sums["loss"]) / max(float(sums["weight"]), 1.0)


def training_record(sums: dict[str, Any]) -> dict[str, float | int]:
    """The record of one step, from the host's copy of what `train_step` returned. Empty classes are left out."""
    record: dict[str, float | int] = {"loss": mean_loss(sums), **class_record(sums)}
    for name in ("rate", "learning_rate", "gradient_norm"):
        record[name] = float(sums[name])
    record["tokens"] = count_value(sums["tokens"])
    record["ground_truth_tokens"] = count_value(sums["ground_truth_tokens"])
    return record


def class_record(sums: Mapping[str, Any]) -> dict[str, float]:
    """Means and shares from what `class_sums` gives. Empty classes are left out."""
    counts = {name: float(sums[f"count/{name}"]) for name in CLASSES}
    record = {}
    for what in ("nll", "nll_full", "call_score", "call_probability"):
        for name in CLASSES:
            if counts[name] > 0:
                record[f"{what}/{name}"] = float(sums[f"{what}/{name}"]) / counts[name]
    record["share/factual"] = counts["factual"] / max(counts["all"], 1.0)
    record["share/taken"] = counts["taken"] / max(counts["all"], 1.0)
    return record


def validation_record(tokens: dict[str, np.ndarray], *, byte_lengths: np.ndarray) -> dict[str, float]:
    """The record of a pass over held-out windows.

    Args:
      tokens: per valid target, flat arrays of one length: nll, nll_full, call_score (float32), factual, taken,
        greedy_right (bool), target (int32 token ids).
      byte_lengths: int32 [V], UTF-8 bytes that a token stands for.

    How well scores separate is left out where one of them is not finite.
    """
    nll, score, factual = tokens["nll"], tokens["call_score"], tokens["factual"]
    masks = {"all": np.ones_like(factual), "factual": factual, "other": ~factual}
    masks |= {"taken": tokens["taken"], "untaken": ~tokens["taken"]}
    record: dict[str, float] = {}
    for name, mask in masks.items():
        if mask.any():
            record[f"nll/{name}"] = float(nll[mask].mean(dtype=np.float64))
            record[f"nll_full/{name}"] = float(tokens["nll_full"][mask].mean(dtype=np.float64))
            record[f"call_score/{name}"] = float(score[mask].mean(dtype=np.float64))
            for q, value in zip(QUANTILES, np.quantile(score[mask], QUANTILES), strict=True):
                record[f"call_score/{name}/q{round(100 * q):02d}"] = float(value)
    record["loss"] = record["nll/all"]
    record["bits_per_byte"] = float(nll.sum(dtype=np.float64) / np.log(2) / byte_lengths[tokens["target"]].sum())
    record["share/factual"] = float(factual.mean())
    record["share/taken"] = float(tokens["taken"].mean())
    record["accuracy"] = float(tokens["greedy_right"].mean())
    if not np.isfinite(score).all():
        return record  # scores that are no numbers have no order
    wanted = {"factual": factual, "greedy_wrong": ~tokens["greedy_right"]}
    wanted["factual_and_wrong"] = wanted["factual"] & wanted["greedy_wrong"]
    for name, positive in wanted.items():
        curve = separation.roc_curve(score, positive)
        if curve is not None:
            record[f"roc/{name}"] = curve.area
        for budget in BUDGETS:
            point = separation.at_budget(score, positive, budget=budget)
            if point is not None:
                record[f"precision/{name}@{budget:g}"] = point.precision
                record[f"recall/{name}@{budget:g}"] = point.recall
    return record


class MetricWriter:
    """Appends records to `<workdir>/metrics.jsonl` and mirrors them to TensorBoard; for one process of a run.

    In a bucket both are copied now and then (`Mirror`), and by `sync`.
    """

    def __init__(self, workdir: str, *, resume_step: int):
        self._mirror = Mirror(absolute(workdir)) if is_bucket(workdir) else None
        folder = self._mirror.local if self._mirror else Path(workdir)
        self.folder, self.path = folder, folder / METRICS_FILE  # on this machine
        # A run cut off after its last checkpoint repeats those steps: their old records go.
        kept = [record for record in read_metrics(workdir) if record["step"] <= resume_step]
        content = "".join(_line(record) for record in kept).encode()
        if not self.path.exists() or self.path.read_bytes() != content:
            write_whole(self.path, content)
        # Wall time of the whole run, earlier attempts included.
        self.seconds_before = max((r.get("seconds", 0.0) for r in kept), default=0.0)
        self._resume_step = resume_step
        self._events: EventsWriter | None = None  # from the first record: a finished run that is started gets no file

    def write(self, record: dict[str, Any], *, step: int, split: str) -> None:
        """Appends one record.

        Raises:
            StorageError: the disk is full or gone.
        """
        numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        values = [each for name, value in finite.items() for each in scalar(f"{split}/{name}", value).value]
        try:
            with self.path.open("a") as file:
                file.write(_line({"step": step, "split": split, **record}))
            self._events = self._events or self._open_events()
            self._events.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
            self._events.flush()
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written ({error.strerror})") from error
        if self._mirror:
            self._mirror.tick()

    def _open_events(self) -> EventsWriter:
        (self.folder / "tensorboard").mkdir(exist_ok=True)
        # Not SummaryWriter, which waits for ever once its thread has met a full disk.
        events = EventsWriter(str(self.folder / "tensorboard" / "events"))
        first = self._resume_step + 1
        events.write_event(Event(step=first, file_version="brain.Event:2"))
        events.write_event(Event(step=first, session_log=SessionLog(status=SessionLog.START)))
        return events

    def sync(self) -> None:
        """Returns when all records are where the run lies. Raises `StorageError` where they cannot be written."""
        if self._mirror:
            self._mirror.sync()

    def close(self) -> None:
        if self._events:
            with contextlib.suppress(OSError):  # on a disk that is still full; `write` has raised for it
                self._events.close()
        if self._mirror:
            self._mirror.close()


def _line(record: dict[str, Any]) -> str:
    """A record as a line of strict JSON; null stands for a number that is not finite."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in record.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def read_metrics(workdir: str) -> list[dict[str, Any]]:
    """All records of a run; a last line cut off by a crash is dropped, and so is what is no record."""
    return [row for row in read_json_log(absolute(workdir) / METRICS_FILE) if _is_record(row)]


def _is_record(row: Any) -> bool:
    """Whether it says of which step and split it is, with numbers where everybody who reads it expects them."""
    if not isinstance(row, dict) or not isinstance(row.get("split"), str):
        return False
    counts = [row.get("step"), row.get("seconds", 0.0), row.get("tokens", 0)]
    return all(type(each) in (int, float) and 0 <= each < 2**53 for each in counts)
