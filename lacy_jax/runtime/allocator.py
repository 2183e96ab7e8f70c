"""How the C library hands out a process' memory, for training on CPUs."""

import ctypes
import sys

# Parameters of mallopt (glibc's malloc.h).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees, up to 2 GiB, for its next allocation; True where that could be set.

    XLA allocates a CPU step's temporaries anew every time, and glibc gives so large a block back to the system when it
    is freed: each step then takes a page fault for every 4 KiB (docs/performance.md has figures). One arena,
    because others cannot grow that far. Call it before threads start; it does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_ARENA_MAX: 1, _MMAP_THRESHOLD: _LARGEST, _TRIM_THRESHOLD: _LARGEST}
    results = [mallopt(name, value) for name, value in settings.items()]
    return all(result == 1 for result in results)
