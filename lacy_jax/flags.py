"""Flags of the doors: what each is called, takes and means, and how a command line becomes checked values.

A door lists its flags; those of several doors are defined here, once. A flag's type is checked by pydantic, as settings
are. A door that takes `--config` takes every setting of it as a flag, too: `--config.training.steps=20`.
"""

import dataclasses
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import absl.flags
import pydantic
from pydantic import Field

from lacy_jax import paths
from lacy_jax.config import CascadeConfig, Config, Count, NonNegative, Positive
from lacy_jax.config_dict import unknown_setting
from lacy_jax.config_file import read_config
from lacy_jax.errors import ConfigError, did_you_mean
from lacy_jax.invalid import explain

Text = Annotated[str, Field(min_length=1)]
Path = Annotated[paths.Path, Field(min_length=1)]
SETTINGS_HINT = "settings are given as --config.<section>.<setting>=<value>"
_HELP = ("help", "helpshort", "helpfull", "h", "?")


@dataclass(frozen=True)
class Flag:
    """One flag.

    type: of its value, for pydantic; a list may be given several times. default: its value where it is not given.
    needed: it must be given, unless one of the flags `unless` is. old: names that it had, which still work.
    """

    name: str
    type: Any
    help: str
    default: Any = None
    needed: bool = False
    unless: tuple[str, ...] = ()
    old: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.old)


class Given(types.SimpleNamespace):
    """What a command line gives: an attribute for each flag of the door, None or its default where it is not given.

    names: the flags that were given. config: where the door takes one, the checked `Config`. command: the whole line.
    tokenizer: of the model in config.model.initial, None without one; a door that takes a config has read it.
    """


CONFIG = Flag(
    "config", Text, "A config file, with an argument or without: configs/slm_tiny.py:method=lacy", needed=True
)
PRINT_CONFIG = Flag("print_config", bool, "Print every setting with its value and its meaning, and do nothing", False)
CHECKPOINT = Flag(
    "checkpoint",
    Path,
    "A run's workdir, its checkpoints/, one step of it, an export, a Hugging Face folder or a GGUF file",
)
OWN_CORPUS = Flag(
    "corpus", Text, "The name of the checkpoint's corpus (as tfds), if it may run code of its own and you agree"
)
PROMPTS_FILE = Flag(
    "prompts_file",
    Path,
    'A text file of prompts, one per line; in FILE.jsonl each line is a JSON string, or an object with a "prompt"',
)
OUT = Flag("out", Path, "The folder for results")
BATCH_SIZE = Flag("batch_size", Positive, "How many texts are worked on at once", 8)
TEMPERATURE = Flag("temperature", NonNegative, "0 is greedy; above it tokens are drawn", 0.0)


def _of_cascade(name: str, meaning: str, **more: Any) -> Flag:
    """The flag that changes a setting of the checkpoint's cascade, under the setting's name."""
    kind = typing.get_type_hints(CascadeConfig, include_extras=True)[name]
    return Flag(name, kind, f"{meaning} (default: the checkpoint's own setting)", **more)


PARTNER = _of_cascade("partner", "Who answers calls: documents, none, checkpoint:PATH and others (docs/partners.md)")
CASCADE_SETTINGS = (
    PARTNER,
    _of_cascade("policy", "quantile: the budget is spent; price: at most the budget, where the score is above --price"),
    _of_cascade("price", "price: the probability above which the model calls"),
    _of_cascade("budget", "Share of the SLM's tokens to delegate: 0.22 for 22%"),
    _of_cascade("score", "The score that decides where the model calls"),
    _of_cascade("gate", "Weigh the score by P(factual)"),
    _of_cascade("start_token", "What stands before a text: auto, none, or a control token by its name"),
    _of_cascade("span", "How far the partner writes at a call"),
    _of_cascade("timeout", "Seconds that the partner has to answer", old=("partner_timeout",)),
)
_DIRECTORY = Flag(
    "directory", Path, "Where indexes of documents, and what partners read, are kept (default: beside the data)"
)
CASCADE = (*CASCADE_SETTINGS, _DIRECTORY)  # of doors that open a cascade: what changes a checkpoint's own settings

JUDGE_ADDRESS = Flag("judge", Text, "The judge: an OpenAI-compatible server, http://HOST:PORT/v1[#MODEL]")
DRY_RUN = Flag("dry_run", bool, "Say what it would cost, ask nothing", False)
JUDGE = (  # of doors that ask a judge
    JUDGE_ADDRESS,
    Flag("judge_model", str, "The judge's model, where the address does not name it", ""),
    Flag("judge_body", str, "JSON: further entries of each request; null leaves one out", "{}"),
    Flag("concurrent", Positive, "Requests at once", 16),
    replace(OUT, help="The folder for results; answers are kept there, in judge.sqlite"),
    DRY_RUN,
    Flag("max_requests", Count, "Never send more requests than this; 0: any number", 0),
    Flag("prompt_price", NonNegative, "Price of a million prompt tokens, for the cost", 0.0),
    Flag("answer_price", NonNegative, "Price of a million answer tokens, for the cost", 0.0),
)


def parse(
    flags: Sequence[Flag],
    words: Sequence[str],
    *,
    check: Callable[[Config, Given], Iterable[str]] = lambda _config, _given: (),
    hint: str = "flags are written --name=value",
) -> Given:
    """The values of a command line.

    Args:
        flags: of the door.
        words: of the command line, the program's name left out.
        check: see `config_from_dict`; it is also given the other flags.
        hint: said of a word that is no flag.

    Raises:
        ConfigError: all problems: unknown flags and settings, values out of range, needed flags that are missing.
    """
    settings = {"method": str, **setting_types()} if takes_config(flags) else {}
    switches = {name: flag.type is bool for flag in flags for name in flag.names}
    switches |= {f"config.{name}": kind is bool for name, kind in settings.items()}
    end = words.index("--") if "--" in words else len(words)
    texts, rest = _read_words(switches, words[:end])
    problems = list(_unknown_words(rest, words[end + 1 :], known=list(switches), hint=hint))
    given = Given(names=frozenset(flag.name for flag in flags if any(texts[name] for name in flag.names)))
    for flag in flags:
        found = [text for name in flag.names for text in texts[name]]
        # Flags that a program needs for its work are not needed to print its settings.
        printing = PRINT_CONFIG.name in given.names
        optional = flag.name != CONFIG.name if printing else not given.names.isdisjoint(flag.unless)
        try:
            setattr(given, flag.name, _value(replace(flag, needed=flag.needed and not optional), found))
        except ConfigError as error:
            setattr(given, flag.name, flag.default)
            problems += error.problems
    changes = {name: found[-1] for name in settings if (found := texts[f"config.{name}"])}
    if changes and not given.config:
        problems += [f"--config.{name}: settings change those of a config file; add --config=FILE" for name in changes]
    elif settings and given.config:
        try:
            given.config = read_config(given.config, changes, check=lambda config: check(config, given))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(*problems)
    return given


def takes_config(flags: Sequence[Flag]) -> bool:
    return any(flag.name == CONFIG.name for flag in flags)


def asks_for_help(words: Sequence[str]) -> bool:
    return any(word.startswith("-") and word.lstrip("-") in _HELP for word in words)


def describe(about: str, flags: Sequence[Flag]) -> str:
    """What --help prints: what a door does, and all of its flags."""
    lines = [about.strip(), "", "Flags:"]
    for flag in flags:
        end = " (needed)" if flag.needed else ""
        if flag.default not in (None, "", False, []) and "default" not in flag.help:
            end = f" (default: {flag.default})"
        left = f"  --{flag.name}{_shape(flag.type)}"
        first = f"{left:<29} " if len(left) < 30 else f"{left}\n{'':<30}"
        text = textwrap.wrap(f"{flag.help}{end}", 86)
        lines.append(f"{first}{f'{chr(10)}{chr(32) * 30}'.join(text)}")
    if takes_config(flags):
        lines += ["", "Every setting of the config file is a flag, too: --config.training.steps=20."]
        lines += ["--print_config and docs/settings.md list the settings with their meaning."]
    return "\n".join(lines)


def setting_types() -> dict[str, Any]:
    """Every setting of `Config`, by its dotted name, with its type."""
    return dict(_walk(Config, ""))


def _walk(section: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(section):
        if dataclasses.is_dataclass(field.type):
            yield from _walk(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", field.type


def _read_words(switches: dict[str, bool], words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The texts that each flag was given, in absl's syntax, and the words that belong to no flag.

    switches: name -> whether it may be given without a value.
    """
    values = absl.flags.FlagValues()
    values.set_gnu_getopt(True)  # flags may stand after other words
    for name, switch in switches.items():
        parser: absl.flags.ArgumentParser[str] = absl.flags.ArgumentParser()
        flag: absl.flags.MultiFlag[str] = absl.flags.MultiFlag(
            parser, absl.flags.ArgumentSerializer[str](), name, None, ""
        )
        flag.boolean = switch
        values[name] = flag
    try:
        rest = values(["", *words], known_only=True)[1:]
    except (absl.flags.Error, ValueError) as error:
        raise ConfigError(str(error)) from None
    return {name: values[name].value or [] for name in switches}, rest


def _unknown_words(rest: Sequence[str], after: Sequence[str], *, known: Sequence[str], hint: str) -> Iterator[str]:
    """A line about each word that is no flag of the door's nor a flag's value. after: those after `--`."""
    unknown = [word for word in rest if word.startswith("-")]
    for word in unknown:
        yield _unknown(word.lstrip("-").partition("=")[0], known)
    others = after if unknown else [*rest, *after]  # after an unknown flag a word may be its value
    yield from (f"unexpected argument {word!r}; {hint}" for word in others)


def _unknown(name: str, known: Sequence[str]) -> str:
    """The line about a flag that does not exist."""
    sections = {each.rpartition(".")[0] for each in known} - {""}
    if name in sections:
        inside = [each.rpartition(".")[2] for each in known if each.rpartition(".")[0] == name]
        return f"--{name} is a section; its settings are {', '.join(inside)}, as --{name}.{inside[0]}=..."
    if name.startswith("config.") and sections:
        if (setting := name.rpartition(".")[0]) in known:
            return f"--{name}: unknown setting; --{setting} has no parts"
        parts = name.split(".")
        there = next(end for end in range(len(parts) - 1, 0, -1) if ".".join(parts[:end]) in sections)
        return unknown_setting(parts[1 : there + 1])
    flags = [each for each in known if "." not in each]
    return f"--{name}: unknown flag{did_you_mean(name, flags, before='--')}"


def _value(flag: Flag, texts: list[str]) -> Any:
    """The flag's value of what it was given. Raises `ConfigError` where it cannot have it."""
    if not texts:
        if flag.needed:
            raise ConfigError(f"--{flag.name} is needed ({flag.help})")
        return flag.default
    if flag.name == CONFIG.name and len(texts) > 1:
        raise ConfigError(f"--config is given {len(texts)} times ({', '.join(texts)}); give one file")
    text: Any = texts if typing.get_origin(flag.type) is list else texts[-1]
    try:
        return pydantic.TypeAdapter(flag.type).validate_python(text)
    except pydantic.ValidationError as error:
        raise ConfigError(*(f"--{flag.name}={each['input']}: {explain(each)}" for each in error.errors())) from None


def _shape(kind: Any) -> str:
    """What stands for a flag's value in --help."""
    if typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is typing.Literal:
        return f"={'|'.join(map(str, typing.get_args(kind)))}"
    return {bool: "", int: "=NUMBER", float: "=NUMBER"}.get(kind, "=TEXT")
