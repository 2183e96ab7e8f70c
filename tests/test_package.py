"""The package as pip installs it: commands, config files and Python lines work in an empty folder, without a clone."""

import os
import re
import signal
import site
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from lacy_jax.config_file import read_config
from lacy_jax.errors import ConfigError
from tests.docs_commands import DOORS, ROOT, WORLD
from tests.xla import xla_flags

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = PROJECT["scripts"]


def test_every_door_is_a_command() -> None:
    """`lacy-NAME` is `python -m lacy_jax.NAME`; only `main` is called by what it does."""
    names = {door: "train" if door == "main" else door.replace("_", "-") for door in DOORS}
    assert {f"lacy-{name}": f"lacy_jax.{door}:DOOR.start" for door, name in names.items()} == COMMANDS


def test_a_config_file_of_the_package_is_found_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_config("configs/slm_150m.py:method=loss").model.layers == 18
    with pytest.raises(ConfigError, match=r"did you mean configs/slm_150m\.py\?"):
        read_config("configs/slm_15m.py")
    with pytest.raises(ConfigError, match=r"there are configs/biographies\.py, configs/slm_150m\.py"):
        read_config("unheard_of_by_anybody")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/slm_150m.py").write_text((ROOT / "configs/slm_tiny.py").read_text())
    assert read_config("configs/slm_150m.py").name == "slm_tiny"  # the folder's own file comes first
    with pytest.raises(ConfigError, match="there is no file"):
        read_config("elsewhere/slm_334m.py")


@dataclass(frozen=True)
class Installed:
    """bin: of the environment that holds the wheel. folder: an empty one, where a person works."""

    bin: Path
    folder: Path

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self.bin / name, *arguments]
        return subprocess.run(command, cwd=self.folder, env=environment(), capture_output=True, text=True, check=False)


def environment() -> dict[str, str]:
    own = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(devices=1)}
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own


def build(source: Path, *, out: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        out,
        source,
    ]
    subprocess.run(command, check=True)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, out=tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel in an environment of its own; what it needs comes from the tests' environment, the clone does not."""
    place = tmp_path_factory.mktemp("installed")
    venv.create(place / "venv", with_pip=False)
    (packages,) = (place / "venv").glob("lib/python*/site-packages")
    command = [sys.executable, "-m", "pip", "--python", place / "venv/bin/python", "install", "--quiet", "--no-deps"]
    subprocess.run([*command, "--no-index", wheel], check=True)
    # Not by site.addsitedir: the .pth files there, the clone's among them, are not followed.
    (packages / "needed.pth").write_text("\n".join(each for each in site.getsitepackages() if Path(each).is_dir()))
    (place / "work").mkdir()
    return Installed(bin=place / "venv/bin", folder=place / "work")


@pytest.mark.slow
def test_the_wheel_holds_what_the_clone_does(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel).namelist()
    tracked = subprocess.run(
        ["git", "ls-files", "lacy_jax", "configs"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    wanted = {f"lacy_jax/{name}" if name.startswith("configs/") else name for name in tracked}
    assert {name for name in files if ".dist-info/" not in name} == wanted
    assert "lacy_jax/py.typed" in files


@pytest.mark.slow
def test_the_wheel_of_the_source_archive_is_the_same(wheel: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    assert build(source, out=tmp_path / "again").read_bytes() == wheel.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_commands_show_their_help(installed: Installed, name: str) -> None:
    done = installed.run(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert COMMANDS[name].partition(":")[0] in done.stdout


@pytest.mark.slow
def test_commands_end_as_doors_do(installed: Installed) -> None:
    done = installed.run("lacy-train", "--config=configs/slm_15m.py")
    assert done.returncode == 2
    said = "there is no file configs/slm_15m.py; did you mean configs/slm_150m.py?"
    assert done.stderr == f"error: --config=configs/slm_15m.py: {said}\n"


@pytest.mark.slow
def test_a_model_is_trained_and_writes_far_from_the_clone(installed: Installed) -> None:
    trained = installed.run("lacy-train", "--config=configs/biographies.py", *WORLD)
    assert trained.returncode == 0, trained.stderr
    run = "runs/biographies-lacy_full"
    assert (installed.folder / run / "report.html").is_file()
    written = installed.run("lacy-generate", f"--checkpoint={run}", "--prompt=Ada was", "--max_new_tokens=4")
    assert written.returncode == 0, written.stderr
    assert "Ada was" in written.stdout
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    three_lines = min(blocks, key=len).replace("runs/slm_tiny", run)
    shown = f"{three_lines}\nprint(lacy_jax.__file__)"
    done = installed.run("python", "-c", shown)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("site-packages/lacy_jax/__init__.py")
    assert str(ROOT) not in done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_ctrl_c_ends_a_command_quietly(installed: Installed, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [installed.bin / "lacy-generate", f"--prompts_file={fifo}"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a job in the background would ignore
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    with fifo.open("w"):  # returns when the command, at work, has opened it to read
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=300)[0] == ""
    assert process.returncode == 130
