"""What every setting means: a config as flags that can be copied (`--print_config`), and docs/settings.md.

    python -m lacy_jax.settings_page > docs/settings.md

Both are made of the dataclasses in config.py, where a meaning stands beside its setting.
"""

import dataclasses
import inspect
import shlex
import typing
from collections.abc import Iterator
from typing import Any

from lacy_jax.config import Config
from lacy_jax.presets import ARGUMENTS, METHODS

_LIMITS = {"ge": "{} or more", "gt": "above {}", "le": "{} or less", "lt": "below {}"}
_TYPES = {str: "text", bool: "True or False", int: "whole number", float: "number"}
_HEAD = """# Settings

A run is a config: a Python file that changes these settings, and flags that change them further. Every setting is a
flag of `lacy_jax.main`, `lacy_jax.prepare` and `lacy_jax.compile_ahead`. `--print_config` prints all settings of a
command as flags that can be copied, each with its meaning:

```bash
python -m lacy_jax.main --config=configs/slm_tiny.py --config.training.steps=100 --print_config
```

This page is made from `lacy_jax/config.py` by `python -m lacy_jax.settings_page > docs/settings.md`. The defaults are
those of a config file that changes nothing; each file in `configs/` says what it changes. Settings that are unknown,
out of range or contradict each other are refused before anything starts. All of them are named at once.

## Groups of settings

A config file takes an argument, `--config=configs/slm_tiny.py:corpus=jsonl,method=loss`, which sets several settings:

| argument | values |
|---|---|
"""
_METHODS = """
Their order does not matter: a preset is applied first, then a corpus, then a method. Flags come last.

The method of a run is not a setting. It follows from `config.objective`: a run with the rule and the treatment of a
method has the name of that method, whatever its rate. A run that agrees with no method is called `custom`. `lacy` and
`lacy_full` differ in the normalizer.

| method | `config.objective` |
|---|---|
"""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting: its dotted name, without "config."; its value; what it may be, in words; its meaning."""

    name: str
    value: Any
    allowed: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Section:
    """Settings that belong together: the dotted name ("" for the whole config's own), the meaning, the settings."""

    name: str
    meaning: str
    settings: tuple[Setting, ...]


def sections(config: Config) -> Iterator[Section]:
    """All sections of a config, those within others after them."""
    yield from _sections(config, "")


def as_flags(config: Config) -> str:
    """Every setting as a flag with its meaning, one per line, one block per section; a shell can read it."""
    lines = [f"# {config.name}, method {config.method}"]
    for section in sections(config):
        lines += ["", f"# {section.meaning}"]
        for each in section.settings:
            flag = shlex.quote(f"--config.{each.name}={each.value}")
            lines.append(f"{flag:<48}  # {each.meaning}")
    return "\n".join(lines)


def as_markdown() -> str:
    """docs/settings.md."""
    lines = [_HEAD.rstrip("\n")]
    lines += [f"| `{key}` | {', '.join(f'`{name}`' for name in known)} |" for key, known in ARGUMENTS.items()]
    lines += [_METHODS.rstrip("\n")]
    for name, own in METHODS.items():
        lines.append(f"| `{name}` | {', '.join(f'`{key}={value}`' for key, value in own.items())} |")
    for section in sections(Config()):
        title = f"config.{section.name}" if section.name else "config"
        lines += ["", f"## `{title}`", "", section.meaning, "", "| setting | default | allowed | meaning |"]
        lines += ["|---|---|---|---|"]
        for each in section.settings:
            default = f"`{each.value}`" if each.value != "" else "empty"
            lines.append(f"| `{each.name}` | {default} | {each.allowed} | {each.meaning} |")
    return "\n".join(lines) + "\n"


def _sections(node: Any, prefix: str) -> Iterator[Section]:
    own, within = [], []
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if dataclasses.is_dataclass(value):
            within.append((field.name, value))
            continue
        known = node.__pydantic_fields__[field.name]
        own.append(Setting(f"{prefix}{field.name}", value, _allowed(known), known.description))
    meaning = (inspect.getdoc(type(node)) or "").partition("\n\n")[0].replace("\n", " ")
    yield Section(prefix.rstrip("."), meaning, tuple(own))
    for name, value in within:
        yield from _sections(value, f"{prefix}{name}.")


def _allowed(field: Any) -> str:
    """What a setting may be, in words."""
    if typing.get_origin(field.annotation) is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(field.annotation))
    limits = {key: getattr(limit, key) for limit in field.metadata for key in _LIMITS if hasattr(limit, key)}
    words = [_LIMITS[key].format(f"{value:,g}") for key, value in limits.items()]
    return f"{_TYPES[field.annotation]}{', ' if words else ''}{' and '.join(words)}"


if __name__ == "__main__":
    print(as_markdown(), end="")
