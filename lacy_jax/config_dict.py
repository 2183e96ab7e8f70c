"""Configs from and to nested plain dicts: what checkpoints and studies store, what a config file comes to."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pydantic

from lacy_jax.config import Config
from lacy_jax.errors import ConfigError, did_you_mean
from lacy_jax.invalid import explain, without


def config_to_dict(config: Config) -> dict[str, Any]:
    """The settings as nested plain dicts, for JSON; with the method, which older readers of checkpoints expect."""
    return {"method": config.method, **dataclasses.asdict(config)}


def config_from_dict(
    settings: dict[str, Any], *, check: Callable[[Config], Iterable[str]] = lambda _config: ()
) -> Config:
    """Settings from nested plain dicts, types and ranges checked. A stored method is not read: it follows from them.

    Args:
        check: finds further problems, one line each, in settings that are valid alone. It gets invalid settings at
            their defaults; what it says about those is left out.

    Raises:
        ConfigError: all problems, each naming the field, what it got and what is allowed.
    """
    settings = {name: value for name, value in settings.items() if name != "method"}
    reader = _reader()
    try:
        config, wrong = reader.validate_python(settings), []
    except pydantic.ValidationError as error:
        wrong = error.errors()
        config = reader.validate_python(without(settings, [problem["loc"] for problem in wrong]))
    named = [f"config.{'.'.join(map(str, problem['loc']))}" for problem in wrong]
    further = [line for line in check(config) if not any(name in line for name in named)]
    problems = [*(_describe(problem) for problem in wrong), *further]
    if problems:
        raise ConfigError(*problems)
    return config


@functools.cache
def _reader() -> pydantic.TypeAdapter[Config]:
    """Made once, when first asked for: it takes tens of milliseconds."""
    return pydantic.TypeAdapter(Config)


def unknown_setting(path: Sequence[str]) -> str:
    """The line about a setting that does not exist; `path` is its sections, as far as they do, and its name."""
    *sections, name = path
    node: Any = Config
    for section in sections:
        node = next(field.type for field in dataclasses.fields(node) if field.name == section)
    known = [field.name for field in dataclasses.fields(node)]
    return f"config.{'.'.join(path)}: unknown setting; allowed are {', '.join(known)}{did_you_mean(name, known)}"


def _describe(problem: Any) -> str:
    """One line for one of pydantic's errors."""
    path = [str(part) for part in problem["loc"]]
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return unknown_setting(path)
    return f"config.{'.'.join(path)}: got {problem['input']!r}; {explain(problem)}"
