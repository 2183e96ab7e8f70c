"""TPU VMs: what the fake gcloud gets; and the worker script, run for real with a Python that only waits."""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from launching import (
    CASES,
    FLAGS,
    ROOT,
    TPU,
    TRICKY,
    V5E,
    dry_run,
    fake_programs,
    noted_commands,
    printed_commands,
    run,
)

RESUME = ["tpu_vm.sh", "resume", *TPU, *V5E, "--spot", "--", *FLAGS]


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("tpu_vm")])
def test_gcloud_gets_exactly_what_a_dry_run_prints(case: str, tmp_path: pathlib.Path) -> None:
    env = fake_programs(tmp_path / "bin", "git", "gcloud")
    states = "SUSPENDED\nACTIVE\n" if "resume" in case else "ACTIVE\n"
    (tmp_path / "bin" / "states").write_text(states)
    result = run(CASES[case], env=env)
    assert result.returncode == 0, result.stderr
    assert noted_commands(tmp_path / "bin") == printed_commands(dry_run(CASES[case]))


@pytest.mark.parametrize(
    ("states", "calls"),
    [
        ("ACTIVE", "describe scp ssh ssh"),
        ("WAITING_FOR_RESOURCES PROVISIONING ACTIVE", "describe describe describe scp ssh ssh"),
        ("SUSPENDING SUSPENDED ACTIVE", "describe describe delete create describe scp ssh ssh"),
        ("FAILED WAITING_FOR_RESOURCES ACTIVE", "describe delete create describe describe scp ssh ssh"),
    ],
)
def test_resume_asks_again_only_where_the_machines_are_gone(states: str, calls: str, tmp_path: pathlib.Path) -> None:
    env = fake_programs(tmp_path / "bin", "git", "gcloud")
    (tmp_path / "bin" / "states").write_text(states.replace(" ", "\n") + "\n")
    result = run(RESUME, env=env)
    assert result.returncode == 0, result.stderr
    assert " ".join(words[4] for words in noted_commands(tmp_path / "bin") if words[0] == "gcloud") == calls


def test_a_request_that_fails_ends_resume(tmp_path: pathlib.Path) -> None:
    env = fake_programs(tmp_path / "bin", "git", "gcloud")
    (tmp_path / "bin" / "states").write_text("SUSPENDED\nFAILED\n")
    result = run(RESUME, env=env)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1)
    assert "ended as FAILED" in result.stderr
    assert [words[4] for words in noted_commands(tmp_path / "bin")] == ["describe", "delete", "create", "describe"]


@pytest.mark.parametrize("part", ["describe", "delete", "create", "scp", "worker.sh setup", "worker.sh start"])
def test_a_command_that_fails_ends_the_stage_with_its_status(part: str, tmp_path: pathlib.Path) -> None:
    env = fake_programs(tmp_path / "bin", "git", "gcloud")
    (tmp_path / "bin" / "states").write_text("SUSPENDED\nACTIVE\n")
    result = run(RESUME, env={**env, "FAIL": part})
    assert result.returncode == 7
    assert part in " ".join(noted_commands(tmp_path / "bin")[-1])


def test_uncommitted_changes_and_a_disk_that_may_be_lost_are_mentioned(tmp_path: pathlib.Path) -> None:
    env = fake_programs(tmp_path / "bin", "gcloud", "git")
    (tmp_path / "bin" / "git").write_text("#!/bin/sh\necho ' M lacy_jax/main.py'\n")
    assert run(["tpu_vm.sh", "setup", *TPU], env=env).stderr == "tpu_vm.sh: uncommitted changes are not copied\n"
    result = run(["tpu_vm.sh", "run", *TPU, "--", "--config=c", "--workdir=runs/a"], env=env)
    assert result.returncode == 0
    assert "--workdir=runs/a is on each worker's own disk" in result.stderr


class Worker:
    """A worker's home folder, with a Python that notes its arguments and runs until it is told how to end."""

    def __init__(self, home: pathlib.Path) -> None:
        self.home = home
        shutil.copytree(ROOT / "launch", home / "lacy_jax" / "launch")
        self.program("lacy_jax_venv/bin/python").write_text(
            "#!/bin/sh\ntrap 'echo saved; exit 143' TERM\n"
            'printf "%s\\n" "$@" > "$HOME/arguments"; echo step 1; echo trouble >&2; touch "$HOME/begun"\n'
            'until [ -e "$HOME/end" ]; do sleep 0.05; done; echo step 2; exit "$(cat "$HOME/end")"\n'
        )

    def program(self, path: str) -> pathlib.Path:
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o755)
        return file

    def shell(self, command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command as a connection does, whose end hangs up on all that it has left in its session."""
        env = {**os.environ, "HOME": str(self.home), "PATH": f"{self.home}/bin{os.pathsep}{os.environ['PATH']}"}
        process = subprocess.Popen(
            ["sh", "-c", command],
            cwd=self.home, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        output, errors = process.communicate(timeout=60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGHUP)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What a dry run of launch/tpu_vm.sh with this stage would have a worker do last."""
        return self.shell(printed_commands(dry_run(["tpu_vm.sh", *words]))[-1][-1].removeprefix("--command="))

    def state(self) -> str:
        return self.shell("lacy_jax/launch/tpu_worker.sh state").stdout

    def wait_for(self, true: Callable[[], bool]) -> None:
        for _ in range(1200):
            if true():
                return
            time.sleep(0.05)
        pytest.fail(f"nothing happens on the worker: {self.state()}")


@pytest.fixture
def worker(tmp_path: pathlib.Path) -> Iterator[Worker]:
    worker = Worker(tmp_path)
    yield worker
    (tmp_path / "end").write_text("0")


START = ("run", *TPU, "--", *FLAGS, TRICKY)


def test_a_run_outlives_its_connection_and_watch_ends_with_its_status(worker: Worker) -> None:
    assert "not running, last status unknown: no log" in worker.state()
    assert worker(*START).returncode == 0  # the shell that started it is gone
    worker.wait_for((worker.home / "begun").exists)
    given = (worker.home / "arguments").read_text().splitlines()
    assert given == ["-m", "lacy_jax.main", "--distributed=on", *FLAGS, TRICKY]
    assert "running: trouble" in worker.state()

    again = worker(*START)
    assert (again.returncode, again.stdout) == (1, "")
    assert "a run is under way: stop it first" in again.stderr
    setup = worker("setup", *TPU)
    assert (setup.returncode, setup.stderr) == (1, "a run is under way: stop it first\n")
    assert (worker.home / "lacy_jax" / "launch").is_dir()

    (worker.home / "end").write_text("3")
    watch = worker("watch", *TPU)
    assert watch.returncode == 3
    assert watch.stdout.splitlines()[-1] == "step 2"
    assert "not running, last status 3: step 2" in worker.state()
    assert worker("watch", *TPU).returncode == 3  # afterwards too


def test_stop_lets_a_run_save_and_the_next_one_go_on(worker: Worker) -> None:
    assert "not running" in worker("stop", *TPU).stdout
    worker(*START)
    worker.wait_for((worker.home / "begun").exists)
    assert "asked to save and stop" in worker("stop", *TPU).stdout
    assert worker("watch", *TPU).returncode == 143
    assert "last status 143: saved" in worker.state()

    (worker.home / "end").write_text("0")
    assert worker(*START).returncode == 0
    assert worker("watch", *TPU).returncode == 0
    assert (worker.home / "lacy_jax.log").read_text().count("step 1\n") == 2  # nothing of the log is lost


def test_a_machine_that_shuts_down_lets_a_run_save(worker: Worker) -> None:
    worker(*START)
    worker.wait_for((worker.home / "begun").exists)
    os.killpg(int((worker.home / "lacy_jax.pid").read_text()), signal.SIGTERM)  # to every process, as systemd does
    assert worker("watch", *TPU).returncode == 143
    assert "last status 143: saved" in worker.state()


def test_setting_a_worker_up_twice_keeps_its_environment_and_runs(worker: Worker) -> None:
    for stub in ("bin/python3", "bin/gcloud", ".local/bin/uv"):
        worker.program(stub).write_text('#!/bin/sh\necho "${0##*/}" "$@" >> "$HOME/calls"\n')
    for content in ("old", "new"):
        (worker.home / content).write_text(content)
        archive = ["tar", "-czf", worker.home / "lacy_jax.tar.gz", "-C", worker.home, content, "-C", ROOT, "launch"]
        subprocess.run(archive, check=True)
        result = worker("setup", *TPU, *(["--data=gs://my runs/data"] if content == "new" else []))
        assert result.returncode == 0, result.stderr
        (worker.home / "lacy_jax" / "runs" / content).touch()
    assert sorted(path.name for path in (worker.home / "lacy_jax").iterdir()) == ["launch", "new", "runs"]
    assert sorted(path.name for path in (worker.home / "lacy_jax_runs").iterdir()) == ["data", "new", "old"]
    calls = (worker.home / "calls").read_text().splitlines()
    assert "-r requirements.txt jax[tpu] gcsfs" in calls[-1]
    assert [call for call in calls if "gcloud" in call] == [
        "gcloud storage rsync --recursive gs://my runs/data lacy_jax_runs/data"
    ]
