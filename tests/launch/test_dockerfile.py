"""The Dockerfile cannot be built in a test; what it names exists, and it installs what this project says."""

import fnmatch
import re
import tomllib

import pytest
from launching import ROOT

TEXT = re.sub(r"\\\n\s*", "", (ROOT / "launch" / "Dockerfile").read_text())
INSTRUCTIONS = [tuple(line.split(" ", 1)) for line in TEXT.splitlines() if line and not line.startswith("#")]


def copied() -> list[str]:
    return [path for name, value in INSTRUCTIONS if name == "COPY" for path in value.split()[:-1]]


def test_all_that_is_copied_exists_and_is_let_through() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert set(copied()) == {line.removeprefix("!") for line in ignore if line.startswith("!")}
    for path in copied():
        assert (ROOT / path).exists()
        assert not any(fnmatch.fnmatch(path, line) for line in ignore if line not in ("*", "") and line[0] not in "!#")


def test_what_the_installation_reads_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml", "lacy_jax"}
    needed |= set(re.findall(r"[\w.]+\.txt", (ROOT / "requirements.txt").read_text())) | {"requirements.txt"}
    assert needed <= set(copied())
    first = min(index for index, (name, value) in enumerate(INSTRUCTIONS) if name == "RUN" and "pip install" in value)
    assert all(index < first for index, (name, _) in enumerate(INSTRUCTIONS) if name == "COPY")


@pytest.mark.parametrize("accelerator", ["tpu", "cuda12", "cuda13", "cpu"])
def test_accelerators_are_extras_of_jax(accelerator: str) -> None:
    metadata = pytest.importorskip("importlib.metadata").metadata("jax")
    assert accelerator in metadata.get_all("Provides-Extra")
    (case,) = re.findall(r"case \"\$ACCELERATOR\" in (.*?)\) ;;", TEXT)
    assert accelerator in case.split(" | ")
    assert '"jax[$ACCELERATOR]" gcsfs' in TEXT


def test_it_runs_as_a_user_and_gets_signals() -> None:
    names = [name for name, _ in INSTRUCTIONS]
    assert names[0] == "FROM"
    assert INSTRUCTIONS[0][1] == "python:3.11-slim"
    assert names.index("USER") > max(index for index, name in enumerate(names) if name == "RUN")
    assert dict(INSTRUCTIONS)["USER"] != "root"
    assert dict(INSTRUCTIONS)["ENTRYPOINT"] == '["python", "-m", "lacy_jax.main"]'
