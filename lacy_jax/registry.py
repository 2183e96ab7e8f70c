"""Names that stand for code: ours from a table, others' from entry points, both as "module:object" or "module".

A folder that others can extend keeps one `Registry` beside the code that reads it; docs/adding.md lists them. A name is
imported when it is asked for, so a table may name a module that its reader must not import at the start.
"""

import functools
import importlib.metadata
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lacy_jax.errors import LacyError


@dataclass(frozen=True)
class Registry:
    """What a setting may name.

    kind: the word for it in messages. group: the group of entry points in which packages register their own.
    built_in: name -> address of ours. error: the class of what `load` raises. functions: those that each must have.
    """

    kind: str
    group: str
    built_in: Mapping[str, str]
    error: type[LacyError]
    functions: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Every name: ours, then those of installed packages."""
        return [*self.built_in, *sorted(self._entries().keys() - self.built_in.keys())]

    def load(self, name: str) -> Any:
        """The module or object of that name.

        Raises:
            LacyError: of class `error`: there is none, or it cannot be imported, or lacks a function.
        """
        if name in self.built_in:
            return pkgutil.resolve_name(self.built_in[name])
        entry = self._entries().get(name)
        if entry is None:
            raise self.error(
                f"unknown {self.kind} {name!r}; allowed are {', '.join(self.names())} "
                f"(packages register others in the entry points {self.group!r})"
            )
        where = f"{self.kind} {name!r} (entry point {entry.value!r})"
        try:
            found = entry.load()
        except Exception as error:  # whatever the package's own code raises
            raise self.error(f"{where} cannot be imported: {type(error).__name__}: {error}") from error
        if missing := [each for each in self.functions if not callable(getattr(found, each, None))]:
            raise self.error(f"{where} has no function {' and no function '.join(map(repr, missing))}")
        return found

    def _entries(self) -> dict[str, importlib.metadata.EntryPoint]:
        return {entry.name: entry for entry in _entry_points(self.group, tuple(sys.path))}


@functools.cache
def _entry_points(group: str, _path: tuple[str, ...]) -> importlib.metadata.EntryPoints:
    """Those of all packages on the path: a file of each has to be opened, and a study asks hundreds of times."""
    return importlib.metadata.entry_points(group=group)
