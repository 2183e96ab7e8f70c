"""What a checkpoint's folder holds, and how one is found and its description is written and read.

A step's folder is self-contained, so that `generate`, `evaluate` and `export` need no config file:

    <workdir>/checkpoints/<step>/params/    Orbax, a plain nested dict of float32 arrays
                                 train/     Orbax, optimizer state and counters (absent from an export)
                                 meta/      JSON: settings, tokenizer, data fingerprint, versions

An export is one such folder without `train`.
"""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import Any

from absl import logging
from etils import epath

from lacy_jax.config import Config, config_from_dict, config_to_dict
from lacy_jax.data.tokenizer import Tokenizer
from lacy_jax.errors import CheckpointError, ConfigError
from lacy_jax.model.probe import FactualProbe

FORMAT = 1
META_FILE = "meta/metadata"  # where Orbax puts the item `meta` of a JsonSave
_ITEM_FILES = ("_METADATA", "manifest.ocdbt")  # Orbax writes them for every tree of arrays
_VERSIONED = ("lacy_jax", "jax", "flax", "optax", "orbax-checkpoint")


def model_meta(
    config: Config,
    *,
    tokenizer: Tokenizer,
    step: int,
    data: dict[str, Any],
    call_scores: Sequence[float] = (),
    factual_probe: FactualProbe | None = None,
) -> dict[str, Any]:
    """The JSON beside the arrays: everything needed to use them.

    Args:
        data: the packed data's fingerprint.
        call_scores: quantiles of the validation call scores, ascending, which start a cascade's budget.
    """
    return {
        "format": FORMAT,
        "step": step,
        "config": config_to_dict(config),
        "tokenizer": base64.b64encode(tokenizer.model_proto).decode("ascii"),
        "call_id": tokenizer.call_id,
        "data": data,
        "versions": {name: _version(name) for name in _VERSIONED},
        "call_scores": list(call_scores),
        "factual_probe": factual_probe and factual_probe.to_dict(),
    }


def check_savable(folder: str, *, name: str) -> None:
    """Raises `CheckpointError` if checkpoints below `folder`, given as `name`, could not be read again.

    Orbax finds the parts of one by a glob, which reads brackets and backslashes in the folder's path as patterns.
    """
    path = str(epath.Path(folder).absolute())
    if re.search(r"\\|\[[^/]*\]", path):
        raise CheckpointError(
            f"{name}={folder}: a checkpoint cannot be read again from a path with [...] or \\ in it; name another "
            f"folder (here it is {path})"
        )


def find_checkpoint(path: str) -> epath.Path:
    """The folder of one step: `path` itself, or the newest whole step under it (a workdir or its checkpoints/).

    A newer step that is not whole is passed over with a warning.

    Raises:
        CheckpointError: nothing whole lies there.
    """
    root = epath.Path(path).absolute()  # Orbax reads no relative paths
    if (root / META_FILE).exists():
        return root
    found = "it holds no finished checkpoint" if root.exists() else "there is no such folder"
    for folder in (root / "checkpoints", root):
        broken, whole = newest_steps(folder)
        if whole:
            for step, fault in broken.items():
                logging.warning("%s is not whole (%s): step %s is used", step, fault, whole.name)
            return whole
        for step, fault in list(broken.items())[:1]:
            found = f"it holds no finished checkpoint ({step.name}: {fault})"
    if root.exists() and not root.is_dir():
        found = "it is a file, and a checkpoint is a folder"
    raise CheckpointError(
        f"no checkpoint at {path!r}: {found}; give a run's workdir, its checkpoints/, one step of it, an export, "
        "or a Hugging Face folder with config.json, model.safetensors and tokenizer.json"
    )


def newest_steps(
    folder: epath.Path, *, items: Sequence[str] = ("params",)
) -> tuple[dict[epath.Path, str], epath.Path | None]:
    """The newest whole step in `folder`, and before it the newer ones that are not whole, each with what it lacks."""
    broken: dict[epath.Path, str] = {}
    children = [child for child in folder.iterdir() if child.name.isdecimal()] if folder.is_dir() else []
    for step in sorted(children, key=lambda child: int(child.name), reverse=True):
        fault = _fault(step, items)
        if not fault:
            return broken, step
        broken[step] = fault
    return broken, None


def _fault(step: epath.Path, items: Sequence[str]) -> str:
    """What a step's folder lacks, "" where its files are there. The arrays are not read."""
    if not step.is_dir() or not any(step.iterdir()):
        return "it is empty"
    if not (step / META_FILE).exists():
        return f"{META_FILE} is missing"
    try:
        json.loads((step / META_FILE).read_text())
    except (OSError, ValueError):
        return f"{META_FILE} is cut off"
    missing = [f"{item}/{name}" for item in items for name in _ITEM_FILES if not (step / item / name).exists()]
    return f"{missing[0]} is missing" if missing else ""


def read_meta(folder: epath.Path) -> dict[str, Any]:
    """The JSON of a step's folder.

    Raises:
        CheckpointError: not ours, or written by a newer format.
    """
    try:
        meta: dict[str, Any] = json.loads((folder / META_FILE).read_text())
        written = int(meta["format"])
        if written <= FORMAT and "config" not in meta:
            raise KeyError("config")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / META_FILE} is not the description of a lacy_jax checkpoint: {error}"
        ) from error
    if written > FORMAT:
        raise CheckpointError(
            f"{folder} has checkpoint format {written}, this lacy_jax reads up to {FORMAT}: upgrade it"
        )
    return meta


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
