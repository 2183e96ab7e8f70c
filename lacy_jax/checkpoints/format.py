"""What a checkpoint's folder holds, and how one is found and its description is written and read.

A step's folder is self-contained, so that `generate`, `evaluate` and `export` need no config file:

    <workdir>/checkpoints/<step>/params/    Orbax, a plain nested dict of float32 arrays
                                 train/     Orbax, optimizer state and counters (absent from an export); if params/ are
                                            an average (optimizer.ema_decay), also those that training goes on with
                                 meta/      JSON: settings, tokenizer, data fingerprint, versions, checksums

An export is one such folder without `train`.

`checksums` of the JSON has the checksum of every array of each item, `sha256` that of the rest of the JSON
(checksums.py). Every reader compares them; what an older lacy_jax wrote has none.
"""

import base64
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, Literal, TypeVar

from absl import logging
from etils import epath

from lacy_jax.checkpoints.chat_template import ChatTemplate
from lacy_jax.checkpoints.checksums import SIGNATURE, Checksums, array_checksums, is_genuine, signed
from lacy_jax.config import Config
from lacy_jax.config_dict import config_from_dict, config_to_dict
from lacy_jax.data.files import parse_json
from lacy_jax.data.read_tokenizer import tokenizer_of
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.errors import CheckpointError, ConfigError, DamagedError
from lacy_jax.folders import children_of, read_file, reading, unreadable
from lacy_jax.model.probe import Probe
from lacy_jax.paths import absolute, is_bucket

FORMAT = 1
META_FILE = "meta/metadata"  # where Orbax puts the item `meta` of a JsonSave
_ITEM_FILES = ("_METADATA", "manifest.ocdbt")  # Orbax writes them for every tree of arrays
FINISHED_FILE = "commit_success.txt"  # in a bucket Orbax, or training/uploads.py, writes it last
_VERSIONED = ("lacy_jax", "jax", "flax", "optax", "orbax-checkpoint")

_T = TypeVar("_T")


def model_meta(
    config: Config,
    *,
    tokenizer: TextTokenizer,
    step: int,
    data: dict[str, Any],
    call_scores: Sequence[float] = (),
    factual_probe: Probe | None = None,
    chat: ChatTemplate | None = None,
) -> dict[str, Any]:
    """The JSON beside the arrays: everything needed to use them.

    Args:
        data: the packed data's fingerprint.
        call_scores: quantiles of the validation call scores, ascending, which start a cascade's budget.
        chat: the chat template of the pretrained model that it was made of.
    """
    return {
        "format": FORMAT,
        "step": step,
        "config": config_to_dict(config),
        "tokenizer": base64.b64encode(tokenizer.definition).decode("ascii"),
        "call_id": tokenizer.call_id,
        "data": data,
        "versions": {name: _version(name) for name in _VERSIONED},
        "call_scores": list(call_scores),
        "factual_probe": factual_probe and factual_probe.to_dict(),
        **({"chat": dataclasses.asdict(chat)} if chat else {}),
    }


def with_checksums(meta: dict[str, Any], items: Mapping[str, Any]) -> dict[str, Any]:
    """The description with the checksums of the arrays of each item ({"params": params, ...}), signed."""
    return signed({**meta, "checksums": {name: array_checksums(tree) for name, tree in items.items()}})


def read_checksums(meta: dict[str, Any], *, item: str) -> Checksums:
    """What `with_checksums` wrote of an item; {} where it was saved without checksums."""
    checksums: Checksums = meta.get("checksums", {}).get(item, {})
    return checksums


def check_savable(folder: str, *, name: str) -> None:
    """Raises `CheckpointError` if checkpoints below `folder`, given as `name`, could not be read again.

    Orbax finds the parts of one by a glob, which reads brackets and backslashes in the folder's path as patterns.
    """
    path = str(absolute(folder))
    if re.search(r"\\|\[[^/]*\]", path):
        raise CheckpointError(
            f"{name}={folder}: a checkpoint cannot be read again from a path with [...] or \\ in it; name another "
            f"folder (here it is {path})"
        )


def first_readable(path: str, read: Callable[[epath.Path], _T]) -> _T:
    """What `read` makes of the newest step at `path` that is whole and can be read (see `find_checkpoint`).

    A step that turns out to be damaged while it is read is passed over as one that is not whole, unless `path` names
    just this one.

    Raises:
        CheckpointError: no step can be read, or `read` raises one that is no `DamagedError`.
    """
    damaged: dict[epath.Path, str] = {}
    while True:
        folder = find_checkpoint(path, damaged=damaged)
        try:
            return read(folder)
        except DamagedError as error:
            if folder == absolute(path):
                raise
            damaged[folder] = str(error).removeprefix(f"{folder}/")


def kind_of(path: str) -> Literal["folder", "gguf", "own"]:
    """What a model at `path` is: a Hugging Face folder, a GGUF file, or else, if anything, one of ours ("own").

    Those of others lie on disks: nothing is asked of a bucket.
    """
    if is_bucket(path):
        return "own"
    if (absolute(path) / "config.json").is_file():
        return "folder"
    return "gguf" if path.endswith(".gguf") and absolute(path).is_file() else "own"


def find_checkpoint(path: str, *, damaged: Mapping[epath.Path, str] | None = None) -> epath.Path:
    """The folder of one step: `path` itself, or the newest whole step under it (a workdir or its checkpoints/).

    A newer step that is not whole is passed over with a warning.

    Args:
        damaged: as for `newest_steps`.

    Raises:
        CheckpointError: nothing whole lies there.
    """
    if problem := unreadable(path):
        raise CheckpointError(f"no checkpoint at {path!r}: {problem}")
    root, kind = absolute(path), "file" if path.endswith(".gguf") else "folder"
    with reading(root):
        if (root / META_FILE).exists() and (is_step(root) or not root.name.isdecimal()):
            return root
        found = "it holds no finished checkpoint" if root.exists() else f"there is no such {kind}"
    for folder in (root / "checkpoints", root):
        broken, whole = newest_steps(folder, damaged=damaged)
        if whole:
            for step, fault in broken.items():
                logging.warning("%s is not whole (%s): step %s is used", step, fault, whole.name)
            return whole
        for step, fault in list(broken.items())[:1]:
            found = f"it holds no finished checkpoint ({step.name}: {fault})"
    if root.exists() and not root.is_dir():
        found = "it is a file, and a checkpoint is a folder or a file NAME.gguf"
    raise CheckpointError(
        f"no checkpoint at {path!r}: {found}; give a run's workdir, its checkpoints/, one step of it, an export, "
        "a Hugging Face folder with config.json, model.safetensors and tokenizer.json, or a GGUF file"
    )


def newest_steps(
    folder: epath.Path, *, items: Sequence[str] = ("params",), damaged: Mapping[epath.Path, str] | None = None
) -> tuple[dict[epath.Path, str], epath.Path | None]:
    """The steps in `folder` that are newer than the newest whole one, each with what it lacks, and that whole one.

    The arrays are not read. damaged: steps whose arrays were found damaged before, each with what is wrong there.

    Raises:
        StorageError: the disk or the bucket does not answer.
    """
    broken: dict[epath.Path, str] = {}
    children = [child for child in children_of(folder) if is_step(child)]
    for step in sorted(children, key=lambda child: int(child.name), reverse=True):
        fault = (damaged or {}).get(step) or step_fault(step, items)
        if not fault:
            return broken, step
        broken[step] = fault
    return broken, None


def is_step(folder: epath.Path) -> bool:
    """Whether it is a step that was saved to its end: on a disk its name says so, in a bucket a file does."""
    with reading(folder):
        return folder.name.isdecimal() and (not is_bucket(folder) or (folder / FINISHED_FILE).exists())


def step_fault(step: epath.Path, items: Sequence[str]) -> str:
    """What a step's folder lacks, "" where its files are there; raises `StorageError` where nobody can say."""
    if not children_of(step):
        return "it is empty"
    if (content := read_file(step / META_FILE)) is None:
        return f"{META_FILE} is missing"
    try:
        meta = parse_json(content)
    except ValueError:
        return f"{META_FILE} is cut off"
    if isinstance(meta, dict) and not is_genuine(meta):
        return f"{META_FILE} is damaged"
    for item in items:
        there = {child.name for child in children_of(step / item)}
        if missing := [name for name in _ITEM_FILES if name not in there]:
            return f"{item}/{missing[0]} is missing"
    return ""


def read_meta(folder: epath.Path) -> dict[str, Any]:
    """The JSON of a step's folder.

    Raises:
        CheckpointError: not ours, or written by a newer format.
        DamagedError: it is no JSON, or was changed since.
    """
    try:
        with reading(folder / META_FILE):
            content = (folder / META_FILE).read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {folder / META_FILE} ({error.strerror})") from None
    try:
        meta: dict[str, Any] = parse_json(content)
    except ValueError as error:
        raise DamagedError(f"{folder / META_FILE} is damaged: it is not JSON ({error})") from None
    if isinstance(meta, dict) and not is_genuine(meta):
        raise DamagedError(
            f"{folder / META_FILE} is damaged: its content does not fit its {SIGNATURE} (if you edited it by hand, "
            f'take out the entry "{SIGNATURE}")'
        )
    try:
        written = int(meta["format"])
        if written <= FORMAT:
            _check_kinds(meta)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(
            f"{folder / META_FILE} is not the description of a lacy_jax checkpoint: {error}"
        ) from error
    if written > FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {written}, this lacy_jax reads up to {FORMAT}: upgrade it"
        )
    return meta


PROBES = ("factual_probe", "saving_probe")  # entries of a description


def probe_of(meta: dict[str, Any], name: str) -> Probe | None:
    """The probe of that name (PROBES) in a description; None where it has none."""
    probe = meta.get(name)
    return Probe(weights=tuple(probe["weights"]), bias=probe["bias"]) if probe else None


def _check_kinds(meta: dict[str, Any]) -> None:
    """Returns if the entries of a description that are read here have the right types.

    Raises:
        KeyError: settings, the step or the tokenizer are missing.
        TypeError: one of them has another type.
    """
    probes = [meta.get(name) or {"weights": [], "bias": 0.0} for name in PROBES]
    optional = dict.fromkeys(("data", "versions", "checksums", "calibration"), dict)
    kinds = {"step": int, "config": dict, "tokenizer": str, **optional}
    found = {**{name: {} for name in optional}, "call_scores": [], **meta}
    if not all(isinstance(found[name], kind) for name, kind in kinds.items()):
        raise TypeError("an entry of it is of another kind")
    dicts = [*probes, found["data"].get("corpus") or {}, *found["checksums"].values()]
    if not all(isinstance(each, dict) for each in dicts):
        raise TypeError("an entry of it is of another kind")
    lists = [found["call_scores"], *(probe["weights"] for probe in probes)]
    if not all(isinstance(each, list) for each in lists):
        raise TypeError("an entry of it is of another kind")
    numbers = [*(each for values in lists for each in values), *(probe["bias"] for probe in probes)]
    if not all(isinstance(each, int | float) for each in numbers):
        raise TypeError("a score of it is no number")


def read_tokenizer(meta: dict[str, Any], *, folder: epath.Path) -> TextTokenizer:
    """The tokenizer in a description; `folder` is for messages.

    Raises:
        CheckpointError: it cannot be read, or is not the one that the data was prepared with, by its sha256.
    """
    try:
        tokenizer = tokenizer_of(base64.b64decode(meta["tokenizer"]))
    except (KeyError, ValueError, TypeError) as error:  # DataError is a ValueError
        raise CheckpointError(f"{folder / META_FILE}: its tokenizer cannot be read ({error})") from None
    expected = (meta.get("data") or {}).get("tokenizer", tokenizer.fingerprint)
    if tokenizer.fingerprint != expected:
        raise DamagedError(
            f"{folder / META_FILE} is damaged: its tokenizer is not the one that its data was prepared with (sha256 "
            f"{tokenizer.fingerprint}, expected {expected})"
        )
    return tokenizer


def read_config(meta: dict[str, Any], *, folder: epath.Path) -> Config:
    """The settings in a description, those that it does not name at their defaults; `folder` is for messages.

    Raises:
        CheckpointError: settings, or values of them, that are unknown here.
    """
    unknown = list(_unknown(meta["config"], config_to_dict(Config()), where="config"))
    if unknown:
        names = f"setting {unknown[0]} is" if len(unknown) == 1 else f"settings {', '.join(unknown)} are"
        raise CheckpointError(f"{folder} was written by a newer lacy_jax: {names} unknown here; upgrade it")
    try:
        return config_from_dict(meta["config"])
    except ConfigError as error:
        problems = "; ".join(error.problems)
        raise CheckpointError(
            f"{folder} was written by another lacy_jax, with settings that this one refuses: {problems}"
        ) from None


def _unknown(found: Any, known: Any, *, where: str) -> Iterator[str]:
    """What `found` names and `known` does not, as config.<section>.<setting>."""
    if isinstance(found, dict) and isinstance(known, dict):
        for name, value in found.items():
            if name in known:
                yield from _unknown(value, known[name], where=f"{where}.{name}")
            else:
                yield f"{where}.{name}"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
