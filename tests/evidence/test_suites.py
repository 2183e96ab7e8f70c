"""Suites from outside: one file and an entry point, run by the door."""

from pathlib import Path

import pytest

from lacy_jax import evaluate as door
from lacy_jax.doors import enter
from lacy_jax.errors import ConfigError
from lacy_jax.evidence.suites import SUITES, load_suite

# Whether a model says the same thing twice: all that somebody would write.
ECHO = """
from lacy_jax.cascade import Cascade

FLAGS = ("people",)

def run(slm, settings, *, out, progress):
    done = Cascade(slm, None).generate(["The river"] * settings.people, max_new_tokens=4)
    progress("echo", 1, 1)
    out.mkdir(parents=True)
    (out / "texts.txt").write_text("\\n".join(each.text for each in done))
    return ["| texts | different |", "|---|---|", f"| {len(done)} | {len({each.text for each in done})} |"]
"""


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if packages with these entry points were installed."""
    (tmp_path / "echo_suite.py").write_text(ECHO)
    (tmp_path / "half_suite.py").write_text("FLAGS = ('people', 'colour')\nrun = print\n")
    info = tmp_path / "suites-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: suites\nVersion: 0\n")
    entries = ("[lacy_jax.suites]", "echo = echo_suite", "half = half_suite", "gone = no_such_suite")
    (info / "entry_points.txt").write_text("\n".join(entries))
    monkeypatch.syspath_prepend(tmp_path)


def run(*words: str) -> int:
    return enter(door.DOOR, words)


def test_a_suite_from_outside_is_run_by_the_door(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--suite=echo", f"--checkpoint={small_run}", f"--out={tmp_path}/out")
    assert run(*words, "--people=3") == 0
    assert capsys.readouterr().out == "| texts | different |\n|---|---|\n| 3 | 1 |\n"
    assert (tmp_path / "out/texts.txt").is_file()
    # The flags of other suites are not its own.
    assert run(*words, "--known=0.5") == 2
    assert "--known does not go with --suite=echo, which takes --checkpoint, --out, --people" in capsys.readouterr().err


def test_what_is_no_suite_is_refused() -> None:
    assert SUITES.names() == ["closed_world", "real_text", "echo", "gone", "half"]
    for name in ("closed_world", "real_text"):
        assert callable(load_suite(name).run)
    for name, said in {
        "none": "unknown suite 'none'; allowed are closed_world, real_text, echo, gone, half",
        "half": "needs a function run, and FLAGS out of budgets, decode, known",
        "gone": "cannot be imported: ModuleNotFoundError",
    }.items():
        with pytest.raises(ConfigError, match=said):
            load_suite(name)
