"""Imports that leave something out."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def hidden(*packages: str) -> Iterator[None]:
    """Within it, what is imported does not find these packages, as if they were not installed.

    It is for libraries that import a large package where there is one, and never need it here. What was imported
    before is not hidden. A None in `sys.modules` makes an import raise ModuleNotFoundError (Python's documentation).
    """
    new = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(new))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in new:
            del sys.modules[name]
