"""Running launch scripts in tests, and their golden dry runs: `python tests/launch/launching.py` writes them anew."""

import os
import pathlib
import re
import shlex
import subprocess
from collections.abc import Mapping
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]
GOLDENS = pathlib.Path(__file__).parent / "goldens"

# One word for a shell, YAML and Kubernetes to stumble over, and what a run cannot do without.
TRICKY = '--config.name=it\'s "mine" $HOME $(HOME) $$ \\n {{IMAGE}} & * ; exit 3'
FLAGS = ["--config=configs/slm_334m.py:method=lacy", "--workdir=gs://my-runs/slm_334m"]
TPU = ["--name=pod-1", "--zone=us-central2-b", "--project=my project"]
V5E = ["--type=v5litepod-256", "--version=v2-alpha-tpuv5-lite"]
JOBSET = ["--image=gcr.io/mine/lacy:1", "--bucket=my-runs", "--accelerator=tpu-v5-lite-podslice", "--topology=16x16"]
SLURM = ["--nodes=4", "--gpus=8", "--time=24:00:00"]

# name of the golden file -> script and its arguments, but for --dry-run
CASES = {
    "demo": ["demo.sh"],
    "tpu_vm_create": ["tpu_vm.sh", "create", *TPU, *V5E],
    "tpu_vm_create_slices": ["tpu_vm.sh", "create", *TPU, *V5E, "--spot", "--slices=2"],
    "tpu_vm_setup": ["tpu_vm.sh", "setup", *TPU],
    "tpu_vm_setup_data": ["tpu_vm.sh", "setup", *TPU, "--data=gs://my-runs/the data"],
    "tpu_vm_run": ["tpu_vm.sh", "run", *TPU, "--", *FLAGS, TRICKY],
    "tpu_vm_watch": ["tpu_vm.sh", "watch", *TPU],
    "tpu_vm_watch_slices": ["tpu_vm.sh", "watch", *TPU, "--slices=2"],
    "tpu_vm_stop": ["tpu_vm.sh", "stop", *TPU],
    "tpu_vm_resume": ["tpu_vm.sh", "resume", *TPU, *V5E, "--spot", "--data=gs://my-runs/data", "--", *FLAGS],
    "tpu_vm_resume_slices": ["tpu_vm.sh", "resume", *TPU, *V5E, "--slices=2", "--", *FLAGS, "--config.mesh.slice=2"],
    "tpu_vm_delete": ["tpu_vm.sh", "delete", *TPU],
    "gke_apply": ["gke.sh", "apply", "--name=run-1", *JOBSET, "--", *FLAGS, TRICKY],
    "gke_apply_slices": [
        "gke.sh", "apply", "--name=run-2", "--namespace=research", *JOBSET, "--slices=2", "--spot", "--restarts=50",
        "--service-account=writer", "--", *FLAGS, "--config.mesh.slice=2",
    ],
    "gke_watch": ["gke.sh", "watch", "--name=run-1"],
    "gke_delete": ["gke.sh", "delete", "--name=run-1"],
    "dataflow": [
        "dataflow.sh", "--project=mine", "--region=us-central1", "--bucket=my-runs", "--image=gcr.io/mine/beam:1",
        "--config=configs/slm_150m.py", TRICKY, "--workers=100",
    ],
    "slurm": ["slurm.sh", *SLURM, "--partition=gpu", "--python=python3", "--", *FLAGS, TRICKY],
    "slurm_container": ["slurm.sh", *SLURM, "--container=/images/lacy 1.sqsh", "--mounts=/data:/data", "--", *FLAGS],
}  # fmt: skip


def run(words: list[str], *, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a launch script; `words` are its name and arguments."""
    return subprocess.run(
        ["bash", str(ROOT / "launch" / words[0]), *words[1:]],
        capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": "/tmp", **(env or {})},
    )  # fmt: skip


def dry_run(words: list[str]) -> str:
    """What a script prints with --dry-run, this folder's name taken out."""
    at = words.index("--") if "--" in words else len(words)
    result = run([*words[:at], "--dry-run", *words[at:]])
    assert result.returncode == 0, result.stderr
    return result.stdout.replace(str(ROOT), "/lacy_jax")


def printed_commands(output: str) -> list[list[str]]:
    """The words of each command that a dry run printed, as a shell would read them."""
    return [shlex.split(command, comments=True) for command in ("\n" + output).split("\n$ ")[1:]]


def manifest_text(output: str) -> str:
    """The manifest that a dry run of gke.sh printed."""
    return output.split("<<'MANIFEST'\n")[1].split("\nMANIFEST\n")[0]


def container_arguments(manifest: dict[str, Any]) -> list[str]:
    """The arguments of a JobSet's container, as Kubernetes reads them: $(NAME) is a variable, $$ is a dollar."""
    pod = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]

    def expand(match: re.Match[str]) -> str:
        assert match[0] == "$$", f"Kubernetes would look for the variable {match[0]}"
        return "$"

    return [re.sub(r"\$\$|\$\([^)]*\)", expand, word) for word in pod["containers"][0]["args"]]


def fake_programs(folder: pathlib.Path, *names: str) -> dict[str, str]:
    """Puts programs on PATH that note their arguments (and, where told by `- FILE`, stdin); returns the environment.

    $FAIL, where it is a part of the arguments, makes one end with 7. `describe` answers a line of $folder/states,
    the first one first.
    """
    folder.mkdir(exist_ok=True)
    (folder / "log").touch()
    for name in names:
        program = folder / name
        program.write_text(
            "#!/bin/sh\n"
            f'case "{name} $1" in "git status") exit 0 ;; esac\n'
            f'printf \'%s\\0\' {name} "$@" "" >> "{folder}/log"\n'
            f'case " $* " in *" --filename=- "*) cat > "{folder}/stdin" ;;\n'
            f'*" describe "*) head -n 1 "{folder}/states"; sed -i 1d "{folder}/states" ;; esac\n'
            'case "${FAIL:+$*}" in ?*) case "$*" in *"$FAIL"*) exit 7 ;; esac ;; esac\n'
        )
        program.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "POLL_SECONDS": "0"}


def noted_commands(folder: pathlib.Path) -> list[list[str]]:
    """What the fake programs were called with, in order."""
    log = (folder / "log").read_text()
    return [command.split("\0") for command in log.removesuffix("\0\0").split("\0\0")] if log else []


if __name__ == "__main__":
    for old in GOLDENS.glob("*.txt"):
        old.unlink()
    for case, words in CASES.items():
        (GOLDENS / f"{case}.txt").write_text(dry_run(words))
