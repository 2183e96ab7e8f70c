"""Which prepared data to look at, and which of its documents or windows."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lacy_jax.config import Config, RuleConfig
from lacy_jax.data.datasets import AnnotatedSource, Fingerprint, kind_of, version_folder
from lacy_jax.data.pack import Packed, open_packed
from lacy_jax.data.prepare import prepare
from lacy_jax.data.prepared import annotated_beside
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.errors import ConfigError, DataError, did_you_mean
from lacy_jax.folders import local_copy

Part = Literal["documents", "train", "validation"]
_NUMBERS = re.compile(r"(\d+)(?:-(\d+))?")
_RANDOM = re.compile(r"random(?::(\d+))?")
_NAMED = "id:"
_NEAR = 20_000  # ids among which a near one is looked for


@dataclass(frozen=True, eq=False)
class Source:
    """Prepared data to look at. documents, packed: None where they are not there, or are not looked at."""

    documents: AnnotatedSource | None
    packed: Packed | None
    rule: RuleConfig

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the packed data, else of the documents."""
        found = self.packed or self.documents
        assert found is not None
        return found.fingerprint


def open_folder(folder: str, *, part: Part | None) -> tuple[Source, Part]:
    """The dataset in a version folder, annotated or packed, and its part to look at.

    A packed dataset leads to the documents that it was made of, where they lie beside it.

    Raises:
        DataError: there is no prepared data, or not the part.
        StorageError: it lies in a bucket and cannot be copied.
    """
    directory = version_folder(local_copy(folder))
    kind = kind_of(directory)
    if kind is None:
        raise DataError(
            f"{directory} is no prepared data: name the version folder of a dataset, annotated/NAME/1.0.0 or "
            "packed/NAME/1.0.0"
        )
    if kind == "packed":
        return _of_packed(open_packed(directory), directory=None, part=part or "train"), part or "train"
    if part in ("train", "validation"):
        raise DataError(f"{folder} holds documents, not packed windows: leave --of out, or name a packed folder")
    return Source(AnnotatedSource(directory), None, RuleConfig()), "documents"


def open_configured(config: Config, *, tokenizer: TextTokenizer | None, part: Part | None) -> tuple[Source, Part]:
    """The same of what a config leads to, which must be prepared."""
    prepared = prepare(config, tokenizer=tokenizer, missing="refuse")
    if prepared.parts:
        folders = ", ".join(str(each.packed.directory) for each in prepared.parts.values())
        raise DataError(f"config.data.mixture: one dataset is shown at a time; give --folder=..., one of {folders}")
    part = part or "documents"
    return _of_packed(prepared.packed, directory=prepared.annotated_directory, part=part), part


def choose(which: str, source: Source, *, part: Part, seed: int) -> list[int]:
    """The numbers, from 0, of the documents or windows that `which` asks for: 17, 3-5, random, random:4, id:NAME.

    Raises:
        ConfigError: it has another form, or a number is out of range.
        DataError: no document has the name.
    """
    count = _count(source, part)
    if which.startswith(_NAMED) and which != _NAMED:
        if part != "documents" or source.documents is None:
            raise ConfigError(f"--show={which}: windows have no ids; add --of=documents, or give a number")
        return [_named(which.removeprefix(_NAMED), source.documents)]
    if (found := _RANDOM.fullmatch(which)) and (asked := min(int(found[1] or 1), count)):
        return sorted(np.random.default_rng(seed).choice(count, size=asked, replace=False).tolist())
    if not (found := _NUMBERS.fullmatch(which)):
        raise ConfigError(f"--show={which}: give a number (17), a range (3-5), random, random:4, or id:NAME")
    first, last = int(found[1]), int(found[2] or found[1])
    if first > last:
        raise ConfigError(f"--show={which}: the smaller number stands first; did you mean {last}-{first}?")
    if last >= count:
        things = "documents" if part == "documents" else f"windows in the split {part}"
        raise ConfigError(f"--show={which}: there are {count:,} {things}, from 0 to {count - 1}")
    return list(range(first, last + 1))


def _of_packed(packed: Packed, *, directory: Path | None, part: Part) -> Source:
    rule = RuleConfig(**packed.fingerprint["rule"])
    if part != "documents":
        return Source(None, packed, rule)
    directory = directory or annotated_beside(packed.directory, packed.fingerprint)
    return Source(AnnotatedSource(directory), packed, rule)


def _count(source: Source, part: Part) -> int:
    if part == "documents":
        assert source.documents is not None
        return len(source.documents)
    assert source.packed is not None
    return len(source.packed.train if part == "train" else source.packed.validation)


def _named(name: str, documents: AnnotatedSource) -> int:
    titled, near = -1, []
    for number, (document, _) in enumerate(documents):
        if document.id == name:
            return number
        if titled < 0 and document.title == name:
            titled = number
        if number < _NEAR:
            near += [document.id, document.title]
    if titled < 0:
        raise DataError(
            f"--show=id:{name}: none of the {len(documents):,} documents has this id or title{did_you_mean(name, near)}"
        )
    return titled
