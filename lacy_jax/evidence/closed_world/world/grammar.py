"""The sentences of words.toml: templates to be filled, and the same as patterns to be matched."""

import functools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

RELATIONS = ("birth_date", "birth_place", "university", "field", "employer", "employer_city")
SHE, HE = ("she", "her"), ("he", "his")

_WORDS_FILE = "words.toml"
_SLOT = re.compile(r"\{(\w+)\}")
_NAME = r"[A-Z][\w-]*(?: [A-Z][\w-]*)?"
_WORD = r"[\w&'-]+"
# {number} and {year} are numbers; a value is any words at all, so that a made-up one is a wrong claim, not no claim.
_PATTERNS = {
    "S": rf"(?P<S>[Ss]he|[Hh]e|{_NAME})",
    "P": rf"(?P<P>[Hh]er|[Hh]is|{_NAME}'s)",
    "V": rf"(?P<V>{_WORD}(?: {_WORD}){{0,7}}?)",
    "number": r"\d{1,4}",
    "year": r"\d{4}",
}


@dataclass(frozen=True)
class Core:
    """A way to state a relation. `anchor`: a part of every such sentence, to be looked for first."""

    relation: str
    template: str
    pattern: re.Pattern[str]
    anchor: str


@dataclass(frozen=True)
class Grammar:
    """All sentences. `slots`: the words of each slot; `fixed`: the one core of each relation of the fixed wording."""

    slots: Mapping[str, tuple[str, ...]]
    openers: tuple[str, ...]
    closers: tuple[str, ...]
    fillers: tuple[str, ...]
    cores: Mapping[str, tuple[str, ...]]
    fixed: Mapping[str, str]


def words_text() -> str:
    """The content of words.toml: what every biography depends on beside its settings."""
    return resources.files(__package__).joinpath(_WORDS_FILE).read_text(encoding="utf-8")


@functools.cache
def word_lists(table: str) -> dict[str, tuple[str, ...]]:
    """The "|"-separated lists of a table of words.toml."""
    return {name: tuple(words.split("|")) for name, words in tomllib.loads(words_text())[table].items()}


@functools.cache
def grammar() -> Grammar:
    """The grammar of words.toml."""
    tables = tomllib.loads(words_text())
    frame, relations = tables["frame"], tables["relations"]
    return Grammar(
        slots=word_lists("slots"),
        openers=tuple(frame["openers"]),
        closers=tuple(frame["closers"]),
        fillers=tuple(frame["fillers"]),
        cores={relation: tuple(relations[relation]["cores"]) for relation in RELATIONS},
        fixed={relation: relations[relation]["fixed"] for relation in RELATIONS},
    )


@functools.cache
def cores() -> tuple[Core, ...]:
    """Every core of every relation, those of the fixed wording too."""
    them = grammar()
    return tuple(
        Core(relation, template, re.compile(_pattern(template)), max(_literals(template), key=len))
        for relation in RELATIONS
        for template in (*them.cores[relation], them.fixed[relation])
    )


@functools.cache
def opener_pattern() -> re.Pattern[str]:
    return _any_of(grammar().openers)


@functools.cache
def closer_pattern() -> re.Pattern[str]:
    return _any_of(grammar().closers)


@functools.cache
def filler_pattern() -> re.Pattern[str]:
    return _any_of(grammar().fillers)


def _any_of(templates: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{_pattern(template)})" for template in templates))


def _literals(template: str) -> list[str]:
    """The fixed parts, less the first letter of the template, which may be a capital."""
    parts = _SLOT.split(template)[::2]
    return [parts[0][1:], *parts[1:]]


def _pattern(template: str) -> str:
    """A regular expression for whole sentences (or their parts), the first letter in either case."""
    parts = _SLOT.split(template)
    found = ""
    for index, part in enumerate(parts):
        if index % 2 == 0:
            first, rest = (part[:1], part[1:]) if index == 0 else ("", part)
            found += (f"[{first}{first.upper()}]" if first else "") + re.escape(rest)
        elif part in _PATTERNS:
            found += _PATTERNS[part]
        else:
            words = [re.escape(word) for word in grammar().slots[part]]
            if not found:  # a slot that begins the sentence
                words = [f"[{word[0]}{word[0].upper()}]{word[1:]}" for word in words]
            found += f"(?:{'|'.join(words)})"
    return found
