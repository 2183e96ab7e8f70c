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


def cut_arrays(item: str) -> None:
    """Cuts off every file of values of an item's arrays, also on a disk."""
    for name in objects(item):
        if "d" in name.split("/"):
            path = absolute(f"{item}/{name}")
            path.write_bytes(path.read_bytes()[: path.stat().length // 2])
