"""Compiled programs are kept between commands, by JAX's own cache, in a folder of the user's.

docs.jax.dev/en/latest/persistent_compilation_cache.html. Imports no JAX: the environment must say it before.
"""

import hashlib
import os
import platform
import re
from pathlib import Path

from lacy_jax.folders import cache_folder, unwritable

FOLDER = "JAX_COMPILATION_CACHE_DIR"
# Of JAX. The least: most programs compile in less than JAX's own limit of a second, and are many.
_SETTINGS = {
    "JAX_COMPILATION_CACHE_MAX_SIZE": str(4 * 2**30),  # bytes; those not used for longest go
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
}


def keep_programs() -> None:
    """Names a folder for compiled programs to JAX, and to the processes that this one starts.

    Does nothing where the environment says something of the cache, and where the folder cannot be written. Several
    processes of one run do without it (`distributed.initialize`): JAX lets but the first of them write, and compiling
    for GPUs is work that they share.
    """
    if FOLDER in os.environ or "JAX_ENABLE_COMPILATION_CACHE" in os.environ:
        return
    folder = default_folder()
    if folder is not None and not unwritable(str(folder)):
        os.environ[FOLDER] = str(folder)
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)


def default_folder() -> Path | None:
    """$LACY_CACHE/programs/CPU: programs for one CPU may not run on another, which sees the same home.

    None where the variable is not set and the user has no home, as in some containers.
    """
    try:
        return cache_folder("programs") / hashlib.blake2b(_cpu().encode(), digest_size=4).hexdigest()
    except RuntimeError:  # of Path.home
        return None


def _cpu() -> str:
    """What the CPU is and can do, as text."""
    try:
        found = re.search(r"^(?:flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return f"{platform.machine()} {platform.processor()} {found.group() if found else ''}"
