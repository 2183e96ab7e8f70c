"""What a run says while it works, on a terminal of 80 columns and in a log."""

import io
import re

import pytest
from rich.console import Console

from lacy_jax import console
from lacy_jax.console import Reporter


def test_a_long_note_leaves_room_for_counts_and_the_time_left() -> None:
    file, reporter = io.StringIO(), Reporter()
    reporter.console = Console(file=file, width=80, force_terminal=True, soft_wrap=True)
    note = "33.2 documents, 16,642 characters, 2,664 words/s per core, 9.7% of the characters factual"
    reporter.update("annotate", 0, 1_501_779)
    reporter.update("annotate", 1_000_008, 1_501_779, note)
    reporter.finish()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n")
    assert "\u2026" not in shown
    assert re.search(r"annotate .* 1000008/1501779 .*left [-\d]:[-\d]{2}:[-\d]{2}", shown)
    assert note in " ".join(shown.split())


def test_a_log_does_not_judge_the_speed_by_the_first_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    file, reporter = io.StringIO(), Reporter()
    reporter.console = Console(file=file, width=200, soft_wrap=True)
    for clock, done in ((0.0, 0), (30.0, 1), (30.5, 200), (51.0, 201), (52.0, 1000)):
        monkeypatch.setattr(console.time, "monotonic", lambda clock=clock: clock)
        reporter.update("annotate", done, 1000)
    assert file.getvalue().splitlines() == [
        "annotate: 201 of 1,000, 3.9/s, 3m 23s left",
        "annotate: 1,000 of 1,000, 19.2/s",
    ]
