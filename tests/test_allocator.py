"""Freed memory is kept: a large block that is freed and allocated again costs no page faults."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from lacy_jax.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
# Written every 4 KiB, so that a gigabyte costs the page faults and little else.
for _ in range(2):
    np.empty(int(sys.argv[2]) << 20, np.uint8)[::4096] = 1
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2):
    np.empty(int(sys.argv[2]) << 20, np.uint8)[::4096] = 1
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str, *, mebibytes: int) -> int:
    """Page faults of two allocations of that size, after two that were freed."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", PROGRAM, mode, str(mebibytes)]
    return int(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
@pytest.mark.parametrize("mebibytes", [128, 2304])  # the second is more than an int of mallopt can say
def test_a_block_that_is_allocated_again_is_not_fetched_again(mebibytes: int) -> None:
    assert faults("keep", mebibytes=mebibytes) < 1_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_glibc_gives_large_blocks_back_unless_told() -> None:
    # 2 x 128 MiB are 65,536 pages of 4 KiB, or 128 of 2 MiB.
    assert faults("leave", mebibytes=128) > 100
