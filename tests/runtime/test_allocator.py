"""Freed memory is kept: a large block that is freed and allocated again costs no page faults."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from lacy_jax.runtime.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(3):
    np.ones(1 << 24)  # 128 MiB: written, and freed
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    np.ones(1 << 24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", PROGRAM, mode]
    return int(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_a_block_that_is_allocated_again_is_not_fetched_again() -> None:
    assert faults("keep") < 1_000
    assert faults("leave") > 2_000  # 4 x 128 MiB are 131,072 pages of 4 KiB, or 256 of 2 MiB... at least each anew
