"""The dead letters of a corpus: records that could not be documents, kept beside the annotated dataset."""

import contextlib
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from lacy_jax.data.documents import LeftOut

FILE = "left_out.jsonl"


@contextlib.contextmanager
def left_out_beside(dataset: Path) -> Iterator[TextIO]:
    """What is written becomes FILE beside the version folder `dataset` when the block ends; nothing becomes no file."""
    path = dataset.parent / FILE
    unfinished = path.with_name(f"incomplete.{path.name}")
    try:
        with open(unfinished, "w", encoding="ascii") as file:
            yield file
            written = file.tell()
        path.unlink(missing_ok=True)
        if written:
            unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def add_left_out(dataset: Path, *, after: int, records: Iterable[tuple[str, LeftOut]]) -> None:
    """Writes further records, each with its place, after the first `after` bytes of the file, which may be missing."""
    path = dataset.parent / FILE
    with open(path, "a", encoding="ascii") as file:
        file.truncate(after)
        for where, record in records:
            leave_out(file, where, record)
    if not path.stat().st_size:
        path.unlink()


def leave_out(file: TextIO, where: str, record: LeftOut) -> None:
    """Writes one record as a line of JSON."""
    file.write(json.dumps({"where": where, "reason": record.reason, "beginning": record.beginning}) + "\n")


def say_left_out(dataset: Path) -> None:
    """One line on the log if something was left out of a dataset."""
    path = dataset.parent / FILE
    if path.exists():
        with open(path, "rb") as file:
            logging.warning("%s records left out: see %s", f"{sum(1 for _ in file):,}", path)
