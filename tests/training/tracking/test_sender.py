"""What is sent to a tracker: every step once and whole, whatever happens to the run or to the tracker."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import pytest
from etils import epath

from lacy_jax import main
from lacy_jax.doors import enter
from lacy_jax.training.tracking import sender
from lacy_jax.training.tracking.senders import Senders, run_id
from lacy_jax.training.tracking.trackers import Outcome, Tracked, tracker_names, tracker_problems

RUN = Tracked(id="a1", name="small-lacy", folder="", settings={})


class Server:
    """A tracker that keeps what it gets. down: the calls, counted over all, that fail."""

    def __init__(self, *, down: frozenset[int] = frozenset()):
        self.down, self.calls = down, 0
        self.sent: list[tuple[int, dict[str, float]]] = []
        self.outcomes: list[Outcome] = []
        self.last = -1

    def __call__(self) -> "Server":
        self._answer()
        self.last = self.sent[-1][0] if self.sent else -1
        return self

    def send(self, step: int, numbers: Mapping[str, float]) -> None:
        self._answer()
        self.sent.append((step, dict(numbers)))

    def close(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def _answer(self) -> None:
        self.calls += 1
        if self.calls in self.down:
            raise ConnectionError("nobody\nanswers")


def write(path: Path, *steps: int, mode: str = "a") -> None:
    """Each step has two records, as one that is validated."""
    with path.open(mode) as file:
        for step in steps:
            file.write(json.dumps({"step": step, "split": "train", "loss": float(step), "texts": ["a"], "nan": None}))
            file.write("\n" + json.dumps({"step": step, "split": "validation", "loss": 2.0 * step}) + "\n")


def expected(*steps: int) -> list[tuple[int, dict[str, float]]]:
    return [(step, {"train/loss": step, "validation/loss": 2 * step}) for step in steps]


def start(server: Server, path: Path, *events: object) -> tuple[int, list[str]]:
    """Follows the file; each look at it is preceded by an event: a call, or how the run ended."""
    said: list[str] = []
    left: Iterator[object] = iter(events)

    def wait(_seconds: float) -> Literal["running"] | Outcome:
        event = next(left)
        if callable(event):
            event()
            return "running"
        return event  # type: ignore[return-value]

    return sender.follow(server, path, wait=wait, warn=said.append), said


def test_a_step_is_sent_when_it_is_whole_and_the_last_one_at_the_end(tmp_path: Path) -> None:
    server, path = Server(), tmp_path / "metrics.jsonl"

    def half_a_line() -> None:
        assert server.sent == expected(1)
        with path.open("a") as file:
            file.write('{"step": 3, "spl')

    def the_rest() -> None:
        assert server.sent == expected(1)
        with path.open("a") as file:
            file.write('it": "train", "loss": 3.0}\n{"step": 3, "split": "validation", "loss": 6.0}\n')

    status, said = start(server, path, lambda: write(path, 1, 2), half_a_line, the_rest, "ended")
    assert (status, said, server.sent, server.outcomes) == (0, [], expected(1, 2, 3), ["ended"])


def test_a_run_that_is_killed_and_goes_on_sends_no_step_twice(tmp_path: Path) -> None:
    server, path = Server(), tmp_path / "metrics.jsonl"
    start(server, path, lambda: write(path, 1, 2, 3, 4), "killed")
    assert server.sent == expected(1, 2, 3)  # step 4 may lack records
    write(path, 1, 2, mode="w")  # the checkpoint is of step 2
    status, _ = start(server, path, lambda: write(path, 3, 4, 5), "ended")
    assert (status, server.sent, server.outcomes) == (0, expected(1, 2, 3, 4, 5), ["killed", "ended"])


@pytest.mark.parametrize("down", [{1}, {2}, {3}, {1, 2, 3, 4}, {2, 3}])
def test_a_tracker_that_fails_gets_everything_when_it_answers_and_is_named_once(tmp_path: Path, down: set[int]) -> None:
    server, path = Server(down=frozenset(down)), tmp_path / "metrics.jsonl"
    looks = [lambda: None] * 6
    status, said = start(server, path, lambda: write(path, 1, 2, 3), *looks, "ended")
    assert (status, server.sent) == (0, expected(1, 2, 3))
    assert said == ["ConnectionError: nobody answers"]


def test_a_tracker_that_never_answers_ends_with_a_status(tmp_path: Path) -> None:
    server, path = Server(down=frozenset(range(100))), tmp_path / "metrics.jsonl"
    status, said = start(server, path, lambda: write(path, 1, 2), "ended")
    assert (status, len(said), server.sent) == (1, 1, [])


@pytest.mark.parametrize("code", ["import time; time.sleep(10_000)", "raise SystemExit(3)", "import os; os.abort()"])
def test_a_process_that_hangs_or_dies_stops_nothing(tmp_path: Path, code: str) -> None:
    said: list[str] = []
    senders = Senders(
        ["wandb"],
        run=Tracked(**{**vars(RUN), "folder": str(tmp_path / "tracking")}),
        path=tmp_path / "metrics.jsonl",
        say=said.append,
        command=[sys.executable, "-c", code],
        limit=2.0,
    )
    senders.close()
    assert said == ["tracker wandb: not all was sent; the same command sends the rest of metrics.jsonl"]


def test_a_work_folder_has_one_id(tmp_path: Path) -> None:
    first = run_id(epath.Path(tmp_path))
    assert run_id(epath.Path(tmp_path)) == first
    assert run_id(epath.Path(tmp_path / "other")) != first


def test_trackers_are_refused_at_the_door(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert tracker_names(" wandb, mlflow,wandb,") == ["wandb", "mlflow"]
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert list(tracker_problems("")) == []
    assert list(tracker_problems("mlflow")) == [
        'config.training.trackers: mlflow is not installed; pip install "lacy_jax[track]"'
    ]
    monkeypatch.undo()
    assert enter(main.DOOR, ["--config=configs/slm_tiny.py", "--config.training.trackers=wandbb"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: config.training.trackers: unknown tracker 'wandbb'; allowed are wandb, mlflow; did you mean wandb?"
    ]
