"""Files in a bucket or on a disk, whichever an address is of."""

from pathlib import Path

import fsspec

from lacy_jax.paths import absolute


def objects(folder: str) -> list[str]:
    """Names of all objects below a folder."""
    files, root = fsspec.url_to_fs(folder)
    absolute(folder)
    return [name.removeprefix(f"{root}/") for name in files.find(root)]


def put(folder: Path, *, to: str) -> None:
    """Copies all files of a folder below an address."""
    files, root = fsspec.url_to_fs(to)
    files.put(f"{folder}/", f"{root}/", recursive=True)
