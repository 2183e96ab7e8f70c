"""Two processes of one run, on this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.xla import xla_flags


def run_two(program: str, arguments: Sequence[object], *, out: Path) -> list[list[str]]:
    """What two processes of one run, of two devices each, write when they run a Python program: the lines of each.

    A process gets as its arguments the file to write to, `out`/0 or `out`/1, and `arguments`. Not stdout: Gloo writes
    there from threads of its own, also into the middle of a line.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "XLA_FLAGS": xla_flags(devices=2),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    files = [out / "0", out / "1"]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(file), *map(str, arguments)],
            cwd=Path(__file__).parents[1],
            env={**environment, "JAX_PROCESS_ID": file.name},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for file in files
    ]
    said = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    return [file.read_text().splitlines() for file in files]
