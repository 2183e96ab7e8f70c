"""A price that was found for a checkpoint is saved in its description; arrays and all else stay as they are."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from lacy_jax.checkpoints.checksums import SIGNATURE, signed
from lacy_jax.checkpoints.format import META_FILE, find_checkpoint, kind_of, read_meta
from lacy_jax.config import CascadeConfig
from lacy_jax.data.files import write_whole
from lacy_jax.errors import CheckpointError
from lacy_jax.folders import unwritable, writing
from lacy_jax.model.probe import Probe
from lacy_jax.paths import absolute, expand_home, is_bucket


def check_calibratable(path: str) -> None:
    """Returns if a price can be saved with the checkpoint at `path`; its arrays are not read.

    Raises:
        CheckpointError: it is none of ours, or lies where nothing can be written.
    """
    path = expand_home(path)
    if kind_of(path) != "own":
        raise CheckpointError(
            f"{path} is a Hugging Face folder or a GGUF file, which has no place for a price; lacy_jax.adapt makes a "
            "checkpoint of it, or --dry_run prints the price"
        )
    if is_bucket(path):
        raise CheckpointError(
            f"{path} lies in a bucket, and a price is saved only on a disk of this machine; copy it here, or add "
            "--dry_run, which prints the price"
        )
    if problem := unwritable(str(find_checkpoint(path) / "meta")):
        raise CheckpointError(f"{path}: the price could not be saved: {problem}; --dry_run only prints it")


def save_calibration(
    folder: str, settings: CascadeConfig, *, found: dict[str, Any], saving_probe: Probe | None = None
) -> None:
    """Makes `settings` those of the cascade of a checkpoint; a reader finds the old description or the whole new one.

    Args:
        folder: of one step, or an export.
        found: how the price was found, plain JSON values: `LoadedModel.calibration`.
        saving_probe: of the partner in `settings`; None: an earlier one, of whatever partner, goes.

    Raises:
        CheckpointError: there is no checkpoint.
        StorageError: the disk is full.
    """
    meta = read_meta(absolute(folder))
    meta["config"]["cascade"] = dataclasses.asdict(settings)
    meta["calibration"] = found
    meta["saving_probe"] = saving_probe and saving_probe.to_dict()
    path = Path(folder) / META_FILE
    with writing(path):
        write_whole(path, json.dumps(signed(meta) if SIGNATURE in meta else meta).encode())
