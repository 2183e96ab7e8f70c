"""A run in MLflow, by its client. The address and the keys come from MLflow's own variables (MLFLOW_TRACKING_URI)."""

import os
import re
import time
from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from lacy_jax.training.tracking.trackers import Outcome, Tracked

_TAG = "lacy_jax.run"
_STEP = "step"  # a metric that every step has: its last value is the last step that is there
_LONGEST = 500  # characters of a parameter


def metric_name(name: str) -> str:
    """MLflow allows no @: `recall/factual@0.22` is `recall/factual_at_0.22` there."""
    return re.sub(r"[^\w\-. :/]", "_at_", name)


class MlflowRun:
    """The run with the tag of this work folder, or a new one; it goes on after the last step that is there."""

    def __init__(self, run: Tracked):
        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "lacy_jax"
        experiment = self._client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self._client.create_experiment(name)
        found = self._client.search_runs([place], f"tags.`{_TAG}` = '{run.id}'")
        if found:
            self._id, self.last = found[0].info.run_id, int(found[0].data.metrics.get(_STEP, -1))
            self._client.update_run(self._id, status="RUNNING")
            return
        self._id, self.last = self._client.create_run(place, run_name=run.name, tags={_TAG: run.id}).info.run_id, -1
        params = [Param(name, str(value)[:_LONGEST]) for name, value in run.settings.items()]
        for start in range(0, len(params), 100):  # MLflow takes no more at once
            self._client.log_batch(self._id, params=params[start : start + 100])

    def send(self, step: int, numbers: Mapping[str, float]) -> None:
        """One call, which a database takes whole or not at all."""
        now = round(1000 * time.time())
        named = {metric_name(name): value for name, value in numbers.items()} | {_STEP: float(step)}
        self._client.log_batch(self._id, metrics=[Metric(name, value, now, step) for name, value in named.items()])

    def close(self, outcome: Outcome) -> None:
        self._client.set_terminated(self._id, status="FINISHED" if outcome == "ended" else "KILLED")
