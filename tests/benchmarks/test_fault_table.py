"""The table of faults counts what it is shown: a reader that notices, one that does not, one that fails."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import faults
from benchmarks.fault_cases import damage
from benchmarks.fault_cases.common import Ended, Row, result
from lacy_jax.errors import DataError


def read(folder: Path) -> Any:
    """Compares the first file with its length, takes whatever is in the second, fails at any change of the third."""
    content = [(folder / name).read_bytes() for name in ("a", "b", "c")]
    if content[0] != b"\0" * 8:
        raise DataError("a is damaged")
    if content[2] != b"\0" * 8:
        raise ZeroDivisionError
    return content[1]


def test_flips_and_cuts_are_told_apart_by_how_they_end(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "whole" / name).write_bytes(b"\0" * 8)
    for how in (damage._flip, damage._cut):
        ends = damage._damaged(tmp_path / "whole", tmp_path / "copy", read=read, faults=30, damage=how)
        assert {kind: ends.count(kind) for kind in set(ends)} == {"clear": 10, "silent": 10, "traceback": 10}
    ends = damage._damaged(tmp_path / "whole", tmp_path / "copy", read=lambda _: 1, faults=6, damage=damage._flip)
    assert ends == ["survived"] * 6


def test_a_row_of_the_table() -> None:
    row = Row("flip", ["clear"] * 1200 + ["silent"] * 3, (1.0, 2.0, 9.0), "the whole command")
    assert faults.line(row).split() == [
        *("flip", "1,203", "0", "1,200", "3", "0", "0"),
        *("2.0", "s,", "at", "most", "9.0", "(the", "whole", "command)"),
    ]
    assert faults.TITLE.split() == [
        *("fault", "injected", "survived", "clear", "silent", "lost", "traceback", "recovery"),
    ]


def test_one_line_is_a_refusal_and_a_traceback_is_none() -> None:
    assert Ended(2, "error: no such file\n", 1.0).refused
    assert not Ended(0, "a warning", 1.0).refused
    assert not Ended(1, "Traceback (most recent call last):\n", 1.0).refused
    assert not Ended(-1, "stopped", 1.0).refused


def test_results_are_compared_without_times(small_run: Path, tmp_path: Path) -> None:
    (step, checksums), records = result(small_run)
    assert step == 6
    assert checksums.keys() == {"params", "train"}
    assert [record["step"] for record in records if record["split"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert not any("seconds" in record for record in records)
    assert json.dumps(records)
    assert result(tmp_path) == (None, [])


def test_an_unknown_family_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        faults.main(["--only=flips,quakes"])
    assert "there is no quakes; there are kills, stops, flips" in capsys.readouterr().err
