"""--profile_steps: what is refused, and a trace that opens and holds the steps."""

from pathlib import Path

import jax
import pytest

from lacy_jax import main
from lacy_jax.config import Config, TrainingConfig
from lacy_jax.console import Reporter
from lacy_jax.data.prepared import Prepared
from lacy_jax.doors import enter
from lacy_jax.training.loop import train
from lacy_jax.training.profile import Steps, steps_problem


@pytest.mark.parametrize("text", ["5", "a:b", "0:2", "3:2", ":", "1:2:3", "-1:2", "٣:٤"])
def test_steps_that_are_none_are_refused_in_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert enter(main.DOOR, ["--config=configs/slm_tiny.py", f"--profile_steps={text}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --profile_steps={text}: ")
    assert "step" in line


def test_steps_beyond_the_budget_and_buckets_are_refused() -> None:
    config = Config(training=TrainingConfig(steps=20))
    assert steps_problem(Steps(10, 20), config, workdir="runs/a") == ""
    assert steps_problem(Steps(10, 21), config, workdir="runs/a") == (
        "--profile_steps=10:21: the run ends at step 20 (config.training.steps)"
    )
    assert "is a bucket" in steps_problem(Steps(1, 2), config, workdir="gs://a/b")


@pytest.mark.slow
def test_a_trace_opens_and_holds_the_steps_that_were_asked_for(
    small_config: Config, small_data: Prepared, tmp_path: Path
) -> None:
    """The run was stopped after step 3 and goes on; steps 2 and 3 are past, so 4 and 5 are traced."""
    train_to(3, small_config, small_data, tmp_path)
    result = train(
        small_config, prepared=small_data, workdir=str(tmp_path), reporter=Reporter(quiet=True), profile=Steps(2, 5)
    )
    assert result.step == 6
    (path,) = (tmp_path / "profile").rglob("*.xplane.pb")
    events = [
        event
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes
        for line in plane.lines
        for event in line.events
    ]
    assert sorted(dict(event.stats)["step_num"] for event in events if event.name == "train") == [4, 5]
    assert sum("Execute (jit_step)" in event.name for event in events) >= 2  # the step's program
    assert list((tmp_path / "profile").rglob("*.trace.json.gz"))


def train_to(step: int, config: Config, prepared: Prepared, workdir: Path) -> None:
    """Trains up to a checkpoint of the run, and stops as a kill would."""

    class Stop(Exception):
        pass

    class Stopping(Reporter):
        def update(self, _stage: str, done: int, *_: object) -> None:
            if done == step + 1:
                raise Stop

    with pytest.raises(Stop):
        train(config, prepared=prepared, workdir=str(workdir), reporter=Stopping(quiet=True))
