"""Prepares one small corpus by every runner that runs on one machine, or through kills, and compares every byte.

python -m benchmarks.prepare_runs [--documents=150]     plain pool, DirectRunner, a job service, Dask (lacy_jax[beam])
python -m benchmarks.prepare_runs --kills=10            kill -9 at random points, then the same command again
"""

import argparse
import contextlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.door import answered

PROGRAM = """
import sys
from lacy_jax.data import batches
from lacy_jax.doors import enter
from lacy_jax.prepare import DOOR
batches.BATCH, batches.PART_BATCHES = 3_000, 2  # parts of seconds, not of a minute
sys.exit(enter(DOOR, sys.argv[1:]))
"""
SETTINGS = ("--config=configs/slm_tiny.py", "--config.corpus.validation_share=0.1", "--config.tokenizer.vocab_size=600")


def start(folder: Path, documents: int, *more: str) -> "subprocess.Popen[bytes]":
    words = [*SETTINGS, f"--config.corpus.max_documents={documents}", f"--config.data.directory={folder}", *more]
    log = open(f"{folder}.log", "ab")  # noqa: SIM115 - the process has it
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *words], stdout=log, stderr=log)


def seconds_of(folder: Path, documents: int, *more: str) -> float:
    """Runs the command to its end; raises where it fails."""
    began = time.monotonic()
    if status := start(folder, documents, *more).wait():
        raise SystemExit(f"{folder.name} ended with {status}: {Path(f'{folder}.log').read_text()[-1000:]}")
    return time.monotonic() - began


def contents(folder: Path) -> dict[str, bytes]:
    """The files of all datasets."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*/1.0.0/*")}


@contextlib.contextmanager
def services(folder: Path) -> Iterator[tuple[str, str]]:
    """The addresses of a job service and of a Dask scheduler with two workers, on this machine's loopback."""
    modules = ("apache_beam.runners.portability.local_job_service_main", "dask")
    files = folder / "port", folder / "scheduler.json"
    log = open(folder / "services.log", "wb")  # noqa: SIM115 - the processes have it
    commands = [
        (modules[0], f"--port_file={files[0]}"),
        (modules[1], "scheduler", "--host=127.0.0.1", "--port=0", "--no-dashboard", f"--scheduler-file={files[1]}"),
        (modules[1], "worker", f"--scheduler-file={files[1]}", "--nworkers=2", "--nthreads=1", "--no-dashboard"),
    ]
    started = [subprocess.Popen([sys.executable, "-m", *words], stdout=log, stderr=log) for words in commands]
    try:
        while not all(file.exists() for file in files):
            if any(process.poll() is not None for process in started):
                raise SystemExit(f"a service ended: see {log.name}")
            time.sleep(0.1)
        yield f"localhost:{files[0].read_text()}", str(files[1])
    finally:
        for process in started:
            process.terminate()
            process.wait()


def beam_runners(jobs: str, scheduler: str) -> dict[str, tuple[str, ...]]:
    """The flags of each runner; the addresses are those of `services`."""
    portable = f"--beam_options=--job_endpoint={jobs} --environment_type=LOOPBACK"
    dask = f"--beam_options=--dask_scheduler_file={scheduler}"
    return {
        "DirectRunner, multi-processing": ("--beam_runner=DirectRunner",),
        "PortableRunner, local job service": ("--beam_runner=PortableRunner", portable),
        "DaskRunner, two workers": ("--beam_runner=DaskRunner", dask),
    }


def compare_runners(folder: Path, documents: int) -> bool:
    print("| runner | seconds | records |\n|---|---|---|")
    plain = seconds_of(folder / "plain", documents)
    print(f"| plain pool | {plain:.0f} | |", flush=True)
    expected, same = contents(folder / "plain"), True
    with services(folder) as addresses:
        for number, (name, words) in enumerate(beam_runners(*addresses).items()):
            seconds = seconds_of(folder / f"run{number}", documents, *words)
            equal = contents(folder / f"run{number}") == expected
            same &= equal
            print(f"| {name} | {seconds:.0f} | {'identical' if equal else 'DIFFERENT'} |", flush=True)
    return same


def compare_kills(folder: Path, documents: int, *, kills: int, runners: dict[str, tuple[str, ...]]) -> bool:
    print("| runner | killed after | parts marked by then | once more | lost | records |\n|---|---|---|---|---|---|")
    same, choice = True, random.Random(0)
    expected: dict[str, bytes] = {}  # of the plain pool
    for number, (name, words) in enumerate(runners.items()):
        whole = seconds_of(folder / f"{number}whole", documents, *words)
        expected = expected or contents(folder / f"{number}whole")
        print(f"| {name} | never | all | {whole:.1f} s | | |", flush=True)
        for kill in range(kills):
            target = folder / f"{number}killed{kill}"
            process = start(target, documents, *words)
            after = choice.uniform(0.1, 0.95) * whole
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(after)
            process.send_signal(signal.SIGKILL)
            process.wait()
            marked = len(list(target.glob("annotated/*/parts/*.marks")))
            again = seconds_of(target, documents, *words)
            equal = contents(target) == expected
            same &= equal
            lost = after + again - whole
            said = "identical" if equal else "DIFFERENT"
            print(f"| {name} | {after:.1f} s | {marked} | {again:.1f} s | {lost:.1f} s | {said} |", flush=True)
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=150, help="articles of the embedded corpus")
    parser.add_argument("--kills", type=int, default=0, help="kills of each runner; 0: compare runners instead")
    parser.add_argument("--plain", action="store_true", help="only the plain pool is killed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.kills:
            with contextlib.nullcontext() if options.plain else services(folder) as addresses:
                runners = {"plain pool": (), **(beam_runners(*addresses) if addresses else {})}
                same = compare_kills(folder, options.documents, kills=options.kills, runners=runners)
        else:
            same = compare_runners(folder, options.documents)
    sys.exit(0 if same else "not every byte is the same")


if __name__ == "__main__":
    answered(main)
