"""Problems of a run that can be found before it begins: with files, checkpoints, a partner, places to write."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from lacy_jax.config import Config
from lacy_jax.errors import ConfigError, LacyError


def preparing_problems(config: Config) -> Iterator[str]:
    """One line each: what `lacy_jax.prepare` would stumble over."""
    from lacy_jax.data.check import data_problems  # imported only once flags and settings are right

    yield from data_problems(config)
    if not config.data.packed:
        yield from _unwritable("config.data.directory", config.data.directory)


def training_problems(config: Config, *, workdir: str) -> Iterator[str]:
    """One line each: what `lacy_jax.main` would stumble over, even at its end."""
    yield from preparing_problems(config)
    if config.objective.reference:
        yield from _raised("config.objective.reference", lambda: _find_checkpoint(config.objective.reference))
    yield from _raised("config.cascade.partner", lambda: _check_partner(config.cascade.partner))
    yield from _unsavable(workdir)


def check_writable(name: str, folder: str) -> None:
    """Raises `ConfigError` where the folder that the flag `name` gives cannot be written or made."""
    for problem in _unwritable(name, folder):
        raise ConfigError(problem)


def _unsavable(workdir: str) -> Iterator[str]:
    from lacy_jax.checkpoints.format import check_savable

    yield from _unwritable("--workdir", workdir)
    try:
        check_savable(workdir, name="--workdir")
    except LacyError as error:
        yield from error.problems


def _raised(name: str, check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except LacyError as error:
        yield from (f"{name}: {problem}" for problem in error.problems)


def _find_checkpoint(path: str) -> None:
    from lacy_jax.checkpoints.format import find_checkpoint

    find_checkpoint(path)


def _check_partner(spec: str) -> None:
    from lacy_jax.cascade.partners import check_partner

    check_partner(spec)


def _unwritable(name: str, folder: str) -> Iterator[str]:
    """A folder that is a file, or cannot be written or made; of those on other machines (gs://...) nothing is known."""
    if "://" in folder:
        return
    path = Path(folder).absolute()
    there = next(each for each in (path, *path.parents) if each.exists())
    if not there.is_dir():
        yield f"{name}={folder}: {there} is a file, not a folder"
    elif not os.access(there, os.W_OK | os.X_OK):
        yield f"{name}={folder}: cannot write to {there}"
