"""What the commands of benchmarks/ share: wrong input is one line, never a traceback."""

import argparse

import pytest

from benchmarks import outward, pretrained_speed, step
from benchmarks.door import answered, counts, ratio_line


def test_wrong_input_is_answered_in_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["outward", "--checkpoint=/nowhere.gguf"])
    with pytest.raises(SystemExit) as ended:
        answered(outward.main)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("no checkpoint at '/nowhere.gguf'")


@pytest.mark.parametrize("setting", ["model.layers=x", "model.nothing=1", "layers", "nothing.layers=1"])
def test_a_setting_that_is_wrong(
    setting: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["step", "--set", setting])
    with pytest.raises(SystemExit) as ended:
        answered(step.main)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"--set {setting}: give SECTION.SETTING=VALUE")


def test_what_a_command_returns_is_its_status() -> None:
    for status in (0, 1):
        with pytest.raises(SystemExit) as ended:
            answered(lambda status=status: status)  # type: ignore[misc]
        assert ended.value.code == status


def test_counts() -> None:
    assert counts("1,8,64") == [1, 8, 64]
    for wrong in ("x", "1,", "0", "-1", "1.5", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="whole numbers above 0"):
            counts(wrong)


def test_a_server_has_a_name_and_an_address() -> None:
    assert pretrained_speed.named("llama.cpp, float32=http://h:1/?a=b") == ("llama.cpp, float32", "http://h:1/?a=b")
    for wrong in ("http://127.0.0.1:8080", "name=", "=http://h", "name"):
        with pytest.raises(argparse.ArgumentTypeError, match="NAME=ADDRESS"):
            pretrained_speed.named(wrong)


def test_ratios_by_hand() -> None:
    assert ratio_line([1, 2, 3], [2, 2, 2]) == "1.00 (0.50 .. 1.50)"
