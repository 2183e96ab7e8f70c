"""Arrays that took long to make, kept in a file for the next start."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lacy_jax.data.files import write_whole
from lacy_jax.folders import read_file


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays, whole or not at all.

    Raises:
        OSError: they cannot be written.
    """
    file = io.BytesIO()
    np.savez(file, **dict(arrays))  # type: ignore[arg-type]
    write_whole(path, file.getvalue())


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """What `write_arrays` wrote; None where that is missing or damaged, and is to be made."""
    if (content := read_file(path)) is None:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None
