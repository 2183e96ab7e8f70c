"""Problems of a run that can be found before it begins: with files, checkpoints, a partner, places to write."""

from collections.abc import Callable, Iterator

from lacy_jax.config import Config
from lacy_jax.errors import ConfigError, LacyError
from lacy_jax.folders import unwritable
from lacy_jax.paths import is_bucket
from lacy_jax.training.tracking.trackers import tracker_problems


def preparing_problems(config: Config) -> Iterator[str]:
    """One line each: what `lacy_jax.prepare` would stumble over."""
    from lacy_jax.data.check import data_problems  # imported only once flags and settings are right

    yield from data_problems(config)
    directory = config.data.directory
    problem = unwritable(directory) if is_bucket(directory) or not (config.data.packed or config.data.mixture) else ""
    if problem:
        yield f"config.data.directory={directory}: {problem}"


def settings_problems(config: Config) -> Iterator[str]:
    """One line for each thing that would end a training after its data is prepared, which can take hours."""
    from lacy_jax.data.questions import question_problems

    yield from preparing_problems(config)
    yield from tracker_problems(config.training.trackers)
    yield from question_problems(config.training.questions)
    if config.objective.reference:
        yield from _raised("config.objective.reference", lambda: _find_checkpoint(config.objective.reference))


def training_problems(config: Config, *, workdir: str) -> Iterator[str]:
    """One line for each thing that would end `lacy_jax.main`, even at its end."""
    yield from settings_problems(config)
    yield from _raised("config.cascade.partner", lambda: _check_partner(config.cascade.partner))
    yield from _unsavable(workdir)


def check_writable(name: str, folder: str) -> None:
    """Raises `ConfigError` where the folder that the flag `name` gives is on no disk here, or cannot be written."""
    if problem := unwritable(folder):
        raise ConfigError(f"{name}={folder}: {problem}")


def _unsavable(workdir: str) -> Iterator[str]:
    from lacy_jax.checkpoints.format import check_savable

    if problem := unwritable(workdir, buckets="allowed"):
        yield f"--workdir={workdir}: {problem}"
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
