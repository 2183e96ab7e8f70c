"""Doors: the programs that people start, and the one way in which all of them begin and end.

Each is `python -m lacy_jax.NAME`, and a command of the installed package (pyproject.toml lists them).

A door ends with its own status. If its input cannot be used, it ends with 2 and one line per problem on stderr. If
the numbers of a run are no longer finite, it ends with 3 and one line. If a disk is full or a bucket out of reach in
the middle of the work, it ends with 4 and one line. After Ctrl-C a door ends with 130 and says nothing. A fault of the
program keeps its traceback.
"""

import errno
import faulthandler
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from logging import Formatter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import absl.flags
from absl import logging

from lacy_jax import flags
from lacy_jax.config import Config
from lacy_jax.errors import LacyError, StorageError
from lacy_jax.flags import Flag, Given
from lacy_jax.folders import PACKAGES
from lacy_jax.runtime.parent import end_with_parent
from lacy_jax.runtime.programs import keep_programs
from lacy_jax.settings_page import as_flags
from lacy_jax.terminal import printable

if TYPE_CHECKING:
    from lacy_jax.data.tokenizer import TextTokenizer

# The last three as shells show SIGINT, SIGPIPE and SIGTERM.
WRONG_INPUT, INTERRUPTED, PIPE_CLOSED, TERMINATED = 2, 130, 141, 143
# Packages that not every installation has -> the extra that brings them.
EXTRAS = {
    "starlette": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
    "httpx": "partners",
    "safetensors": "partners",
    "tokenizers": "partners",
    "spacy": "prepare",
    "apache_beam": "beam",
    "lm_eval": "eval",
    "libtpu": "tpu",
    **{package: scheme for scheme, package in PACKAGES.items()},
}
_NO_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN}


@dataclass(frozen=True)
class Door:
    """A program.

    name: of its module. about: what it does, with an example, for --help. main: does it, and returns the exit status.
    prefix: of its messages. hint: said of words that are no flags. check: see `flags.parse`.
    """

    name: str
    about: str
    flags: tuple[Flag, ...]
    main: Callable[[Given], int]
    prefix: str = ""
    hint: str = "flags are written --name=value"
    check: Callable[[Config, Given], Iterable[str]] = lambda _config, _given: ()

    def start(self) -> None:
        """`run`, as the command that pip installs calls it (pyproject.toml)."""
        run(self)


def run(door: Door) -> None:
    """The whole process: what stands below `if __name__ == "__main__"`."""
    faulthandler.enable()
    if os.getpid() == 1:  # in a container: without a handler the system ignores SIGTERM there
        signal.signal(signal.SIGTERM, lambda *_: os._exit(TERMINATED))
    end_with_parent()
    keep_programs()
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)
    logging.get_absl_handler().setFormatter(Formatter("%(asctime)s %(message)s", "%m-%d %H:%M:%S"))
    _say_once()
    absl.flags.FLAGS.mark_as_parsed()  # those of libraries: at their defaults
    sys.exit(enter(door, sys.argv[1:]))


def _say_once() -> None:
    """Keeps Orbax from printing tracebacks: of an error that it then raises, and of calls that end after that."""
    logging.get_absl_logger().addFilter(lambda record: not record.exc_info or "orbax" not in record.pathname)
    show = sys.unraisablehook

    def hook(what: Any) -> None:
        if str(what.exc_value) != "Event loop is closed":  # Orbax closed it at an error; TensorStore still calls it
            show(what)

    sys.unraisablehook = hook


def enter(door: Door, words: Sequence[str]) -> int:
    """Does what the words of a command line ask of a door; returns the exit status."""
    try:
        return _do(door, words)
    except LacyError as error:
        return _refused(door, error.problems, status=error.status)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python's own flush at the end complains
        return PIPE_CLOSED
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        return _refused(door, [f'{package} is not installed; pip install "lacy_jax[{EXTRAS[package]}]"'])
    except OSError as error:
        return _without_place(door, error)


def _without_place(door: Door, error: OSError) -> int:
    """The one line about a disk that is full, or a file or folder that may not be written or read."""
    full = error.errno in _FULL
    if not full and (error.errno not in _NO_PLACE or error.filename is None):
        raise error
    where = f" {error.filename}" if error.filename else ""
    said = f"cannot write or read{where}: {error.strerror}"
    return _refused(door, [said], status=StorageError.status if full else WRONG_INPUT)


def _do(door: Door, words: Sequence[str]) -> int:
    if flags.asks_for_help(words):
        print(flags.describe(door.about, door.flags), flush=True)
        return 0

    def check(config: Config, given: Given) -> Iterable[str]:
        return () if getattr(given, "print_config", False) else door.check(config, given)

    given = flags.parse(door.flags, words, check=check, hint=door.hint)
    if flags.takes_config(door.flags):
        given.config, given.tokenizer = _with_initial(given.config)
    if getattr(given, "print_config", False):
        print(as_flags(given.config), flush=True)
        return 0
    given.command = shlex.join([Path(sys.executable).name, "-m", f"lacy_jax.{door.name}", *words])
    status = door.main(given)
    sys.stdout.flush()
    return status


def _with_initial(config: Config | None) -> tuple[Config | None, "TextTokenizer | None"]:
    """As `with_initial`, which imports JAX."""
    if config is None or not config.model.initial:
        return config, None
    from lacy_jax.checkpoints.initial import with_initial

    return with_initial(config)


def _refused(door: Door, problems: Iterable[str], *, status: int = WRONG_INPUT) -> int:
    for problem in problems:
        print(f"{_process()}{door.prefix or door.name}: {printable(' '.join(problem.split()))}", file=sys.stderr)
    return status


def _process() -> str:
    """ "process 3: " in one of several processes of a run: what is wrong on one machine only it can say."""
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0:
        return ""
    return f"process {jax.process_index()}: "
