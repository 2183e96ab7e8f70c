"""Values that pydantic refuses: what is wrong with one, in words, and the settings without them."""

from collections.abc import Iterable, Sequence
from typing import Any


def explain(problem: Any) -> str:
    """What one of pydantic's errors says; of a share that was given in percent, also how to write it."""
    if problem["type"] in ("string_too_short", "too_short") and problem["input"] == "":
        return "it is empty"
    words = problem["msg"].removeprefix("Value error, ")
    said = f"{words[0].lower()}{words[1:]}"
    if problem["type"] in ("less_than_equal", "less_than") and 1.0 in problem["ctx"].values():
        value = float(problem["input"])
        if 1 < value <= 100:
            return f"{said}; write {value / 100:g} for {value:g}%"
    return said


def without(settings: dict[str, Any], paths: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """A copy of nested dicts without the values at some paths."""
    gone = {tuple(path) for path in paths}

    def kept(node: dict[str, Any], above: tuple[Any, ...]) -> dict[str, Any]:
        return {
            name: kept(value, (*above, name)) if isinstance(value, dict) else value
            for name, value in node.items()
            if (*above, name) not in gone
        }

    return kept(settings, ())
