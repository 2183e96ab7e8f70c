"""Slurm: what the fake sbatch gets; and its job script, run for real with an srun that runs the command."""

import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest
from launching import CASES, FLAGS, ROOT, SLURM, dry_run, fake_programs, noted_commands, printed_commands, run


@pytest.mark.parametrize("case", ["slurm", "slurm_container"])
def test_sbatch_gets_exactly_what_a_dry_run_prints(case: str, tmp_path: pathlib.Path) -> None:
    env = fake_programs(tmp_path / "bin", "sbatch")
    result = run(CASES[case], env=env)
    assert result.returncode == 0, result.stderr
    noted = [[word.replace(str(ROOT), "/lacy_jax") for word in words] for words in noted_commands(tmp_path / "bin")]
    assert noted == printed_commands(dry_run(CASES[case]))


def test_a_submission_that_fails_is_told(tmp_path: pathlib.Path) -> None:
    env = fake_programs(tmp_path / "bin", "sbatch")
    assert run(CASES["slurm"], env={**env, "FAIL": "partition=gpu"}).returncode == 7


def test_a_missing_environment_is_told_before_the_job_waits_in_a_queue(tmp_path: pathlib.Path) -> None:
    env = fake_programs(tmp_path / "bin", "sbatch")
    shutil.copytree(ROOT / "launch", tmp_path / "launch")
    words = [str(tmp_path / "launch" / "slurm.sh"), *SLURM, "--", *FLAGS]
    result = run(words, env=env)
    assert (result.returncode, result.stdout) == (2, "")
    assert "there is no .venv/bin/python here: make venv" in result.stderr
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch(mode=0o755)
    assert run(words, env=env).returncode == 0
    assert ".venv/bin/python" in noted_commands(tmp_path / "bin")[0]


def test_one_task_a_gpu_and_each_task_sees_all_gpus() -> None:
    (words,) = printed_commands(dry_run(["slurm.sh", *SLURM, "--", *FLAGS]))
    sbatch, srun = words[: words.index("launch/slurm_job.sh")], words[words.index("srun") :]
    assert {"--nodes=4", "--ntasks-per-node=8", "--gpus-per-node=8", "--requeue"} < set(sbatch)
    assert "--gpu-bind=none" in srun
    assert not [word for word in words if word.startswith(("--gpus-per-task", "--ntasks="))]


# Stands for the main command: saves and ends with 143 when asked, else runs until it is told how to end.
PYTHON = """#!/bin/sh
trap 'touch "$WORK/saved"; exit "${ON_TERM:-143}"' TERM
printf '%s\\0' "$@" "$SRUN_CPUS_PER_TASK" > "$WORK/arguments"
touch "$WORK/begun"
until [ -e "$WORK/end" ]; do sleep 0.05; done
exit "$(cat "$WORK/end")"
"""
# One task, without srun's own flags. Its id is for scancel, which by default signals steps and not the script.
SRUN = '#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\necho $$ > "$WORK/step"\nexec "$@"\n'
SCANCEL = '#!/bin/sh\necho scancel "$@" >> "$WORK/calls"\nkill -s "${1#--signal=}" "$(cat "$WORK/step")"\n'
SCONTROL = '#!/bin/sh\necho scontrol "$@" >> "$WORK/calls"\nexit "${SCONTROL_STATUS:-0}"\n'


class Job:
    """The job script with the command that slurm.sh gives it, in a folder of fake programs."""

    def __init__(self, folder: pathlib.Path, **env: str) -> None:
        self.folder = folder
        for name, text in {"srun": SRUN, "scancel": SCANCEL, "scontrol": SCONTROL, "python": PYTHON}.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        words = ["slurm.sh", *SLURM, f"--python={folder}/python", "--", *FLAGS, '--config.name=it\'s $1 "x"']
        (command,) = printed_commands(dry_run(words))
        self.process = subprocess.Popen(
            ["bash", str(ROOT / "launch" / "slurm_job.sh"), *command[command.index("srun") :]],
            env={
                **os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "WORK": str(folder),
                "SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "12", **env,
            },
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        while not (folder / "begun").exists() and self.process.poll() is None:
            time.sleep(0.05)

    def end(self, status: int) -> None:
        (self.folder / "end").write_text(str(status))

    def calls(self) -> list[str]:
        log = self.folder / "calls"
        return log.read_text().splitlines() if log.exists() else []


def test_out_of_time_saves_and_queues_the_job_again(tmp_path: pathlib.Path) -> None:
    job = Job(tmp_path)
    given = (tmp_path / "arguments").read_text().split("\0")[:-1]
    assert given == ["-m", "lacy_jax.main", "--distributed=on", *FLAGS, '--config.name=it\'s $1 "x"', "12"]
    job.process.send_signal(signal.SIGUSR1)
    assert job.process.wait(60) == 143
    assert (tmp_path / "saved").exists()
    assert job.calls() == ["scancel --signal=TERM 17", "scontrol requeue 17"]


@pytest.mark.parametrize("status", [0, 1, 2, 137, 143])
def test_any_other_end_is_the_end_of_the_job(status: int, tmp_path: pathlib.Path) -> None:
    """Also 143 without the time limit: somebody asked this run to stop, or slurm ended what a failure left."""
    job = Job(tmp_path)
    job.end(status)
    assert job.process.wait(60) == status
    assert job.calls() == []


@pytest.mark.parametrize("status", [0, 1])
def test_a_run_that_ends_otherwise_at_the_limit_is_not_queued_again(status: int, tmp_path: pathlib.Path) -> None:
    job = Job(tmp_path, ON_TERM=str(status))
    job.process.send_signal(signal.SIGUSR1)
    assert job.process.wait(60) == status
    assert job.calls() == ["scancel --signal=TERM 17"]


def test_a_job_that_is_cancelled_is_not_queued_again(tmp_path: pathlib.Path) -> None:
    job = Job(tmp_path)
    job.process.send_signal(signal.SIGTERM)
    assert job.process.wait(60) == -signal.SIGTERM
    job.end(0)  # slurm would end the step too
    assert job.calls() == []


def test_a_queue_that_refuses_is_told(tmp_path: pathlib.Path) -> None:
    job = Job(tmp_path, SCONTROL_STATUS="1")
    job.process.send_signal(signal.SIGUSR1)
    assert job.process.communicate(timeout=60)[1] == (
        "the run is saved but could not be queued again: submit it once more\n"
    )
    assert job.process.returncode == 143
