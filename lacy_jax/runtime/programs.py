"""Compiled programs are kept between commands, by JAX's own cache, in a folder of the user's.

docs.jax.dev/en/latest/persistent_compilation_cache.html. Imports no JAX, which reads the environment at its import.
"""

import contextlib
import hashlib
import os
import platform
import re
from pathlib import Path

from lacy_jax.folders import cache_folder, unwritable

FOLDER = "JAX_COMPILATION_CACHE_DIR"
_LIMIT = "JAX_COMPILATION_CACHE_MAX_SIZE"
_SETTINGS = {  # of JAX
    # Bytes; those not used for longest go. JAX looks at every program here before it writes one: 0.14 ms each.
    _LIMIT: str(2**30),
    # JAX's own limit of a second would leave most programs out, and there are many of them.
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
}


def keep_programs() -> None:
    """Names a folder for compiled programs to JAX, and to the processes that this one starts.

    Does nothing where the environment says something about the cache, or the folder cannot be written. Several
    processes of one run do without it (`distributed.initialize`): JAX lets only the first of them write, and for GPUs
    they share the work of compiling.
    """
    if FOLDER in os.environ or "JAX_ENABLE_COMPILATION_CACHE" in os.environ:
        return
    folder = default_folder()
    if folder is not None and not unwritable(str(folder)):
        os.environ[FOLDER] = str(folder)
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        if os.environ[_LIMIT] == _SETTINGS[_LIMIT]:
            _remove_cut_off(folder)


def default_folder() -> Path | None:
    """$LACY_CACHE/programs/CPU: programs for one CPU may not run on another that sees the same home.

    None where the variable is not set and the user has no home, as in some containers.
    """
    try:
        return cache_folder("programs") / hashlib.blake2b(_cpu().encode(), digest_size=4).hexdigest()
    except RuntimeError:  # of Path.home
        return None


def _remove_cut_off(folder: Path) -> None:
    """Removes programs of which a full disk, or a kill, has left a part.

    JAX notes when a program was used in a file beside it, after it has written the program. Where that file is missing,
    every later write fails (`LRUCache._evict_if_needed` of jax 0.11).
    """
    with contextlib.suppress(OSError):  # the folder is not there yet, or is not ours
        names = set(os.listdir(folder))  # every command does this: one look at the folder, not one at each program
        for program in (name for name in names if name.endswith("-cache")):
            used = f"{program.removesuffix('cache')}atime"
            if used not in names and not (folder / used).exists():  # or another command has just written it
                (folder / program).unlink(missing_ok=True)


def _cpu() -> str:
    """What the CPU is and can do, as text."""
    try:
        found = re.search(r"^(?:flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    return f"{platform.machine()} {platform.processor()} {found.group() if found else ''}"
