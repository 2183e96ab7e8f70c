"""Suites: what `lacy_jax.evaluate --suite=NAME` can measure of one checkpoint.

A suite is a module with two names:

    FLAGS = ("people", "budgets")    # the flags of lacy_jax.evaluate that it reads: fields of `Settings`
    def run(slm: LoadedModel, settings: Settings, *, out: Path, progress: Progress) -> list[str]: ...

`run` returns lines of Markdown and keeps in the folder `out` whatever is worth keeping. It raises a `LacyError` where
the model or the settings cannot be used. Other packages register theirs in the entry points "lacy_jax.suites".
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.errors import ConfigError
from lacy_jax.registry import Registry

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, done, total)."""

SUITES = Registry(
    kind="suite",
    group="lacy_jax.suites",
    built_in={
        "closed_world": "lacy_jax.evidence.closed_world.suite",
        "real_text": "lacy_jax.evidence.real_text.suite",
    },
    error=ConfigError,
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the flags of `lacy_jax.evaluate` of these names say; a suite reads those that it takes."""

    people: int
    known: float
    temperature: float
    decode: tuple[str, ...]
    budgets: str
    partner: str


class Suite(Protocol):
    """See the head of this module."""

    FLAGS: tuple[str, ...]

    def run(self, slm: LoadedModel, settings: Settings, *, out: Path, progress: Progress) -> list[str]: ...


def load_suite(name: str) -> Suite:
    """The suite of that name.

    Raises:
        ConfigError: there is none, it cannot be imported, or it is not what a suite is.
    """
    suite: Suite = SUITES.load(name)
    known = {field.name for field in dataclasses.fields(Settings)}
    if not callable(getattr(suite, "run", None)) or not {*getattr(suite, "FLAGS", ("none",))} <= known:
        raise ConfigError(
            f"suite {name!r} ({suite!r}) needs a function run, and FLAGS out of {', '.join(sorted(known))}"
        )
    return suite


def share_text(share: float) -> str:
    """A share as the shortest decimal that reads back as it, for tables and names of files: "0.22", "1"."""
    return str(np.format_float_positional(share, trim="-"))
