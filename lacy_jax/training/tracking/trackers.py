"""What a tracker is, and which there are. Imports neither JAX nor a tracker's package."""

import importlib.util
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from lacy_jax.errors import did_you_mean

TRACKERS = {  # name, which is also that of its package -> a class that is made of a `Tracked`
    "wandb": "lacy_jax.training.tracking.wandb_run:WandbRun",
    "mlflow": "lacy_jax.training.tracking.mlflow_run:MlflowRun",
}
Outcome = Literal["ended", "killed"]


@dataclass(frozen=True)
class Tracked:
    """A run as trackers know it.

    id: the same at each start in one work folder. name: for people. folder: a folder of this machine for what a tracker
    keeps there. settings: of the run, flat.
    """

    id: str
    name: str
    folder: str
    settings: Mapping[str, Any]


class Tracker(Protocol):
    """A run that is open in a tracker. last: the last step that it has, -1 where it has none."""

    last: int

    def send(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self, outcome: Outcome) -> None: ...


def tracker_names(setting: str) -> list[str]:
    """The names in `config.training.trackers`, each once."""
    return list(dict.fromkeys(name.strip() for name in setting.split(",") if name.strip()))


def tracker_problems(setting: str) -> Iterator[str]:
    """One line for each tracker that is unknown, or whose package is not installed; nothing is asked."""
    for name in tracker_names(setting):
        if name not in TRACKERS:
            known = f"{', '.join(TRACKERS)}{did_you_mean(name, TRACKERS)}"
            yield f"config.training.trackers: unknown tracker {name!r}; allowed are {known}"
        elif importlib.util.find_spec(name) is None:
            yield f'config.training.trackers: {name} is not installed; pip install "lacy_jax[track]"'


def open_tracker(name: str, run: Tracked) -> Tracker:
    tracker: Tracker = pkgutil.resolve_name(TRACKERS[name])(run)
    return tracker
