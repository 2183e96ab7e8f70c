"""A checkpoint's parameters in a folder of their own, without optimizer state."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from etils import epath

from lacy_jax.checkpoints.format import META_FILE, check_savable, read_meta, with_checksums
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.errors import CheckpointError
from lacy_jax.folders import cache_folder, copy_there, unwritable, writing
from lacy_jax.model import decoder
from lacy_jax.paths import absolute, expand_home, is_bucket, is_s3


def export(checkpoint: str, *, out: str) -> str:
    """Writes the export and returns a line about it.

    An interrupted export leaves no folder of that name; in a bucket, where no folder can be renamed, it leaves one that
    is not taken for a checkpoint.

    Raises:
        CheckpointError: there is no checkpoint, `out` exists or cannot be written, or could not be read again.
        StorageError: the disk is full, or the bucket out of reach.
    """
    out = expand_home(out)
    target = check_out(out)
    loaded = load_model(checkpoint)
    if loaded.family:
        raise CheckpointError(f"--checkpoint={checkpoint} is a Hugging Face folder or a GGUF file, an export already")
    meta = read_meta(absolute(loaded.path))
    write_export(out, params=loaded.params, tokenizer=loaded.tokenizer, meta=meta)
    return f"{loaded.path} (step {loaded.step:,}) -> {target}"


def check_out(out: str) -> epath.Path:
    """Where an export to `out` would lie.

    Raises:
        CheckpointError: it exists or cannot be written, or could not be read again.
    """
    check_savable(out, name="--out")
    if problem := unwritable(out, buckets="allowed"):
        raise CheckpointError(f"--out={out}: {problem}")
    target = absolute(out)
    if target.exists():
        raise CheckpointError(f"--out={out} exists already; give a new folder, or delete it first")
    return target


def write_export(out: str, *, params: decoder.Params, tokenizer: TextTokenizer, meta: dict[str, Any]) -> None:
    """Puts a checkpoint without optimizer state into the folder `out`; its checksums are computed here.

    Raises:
        StorageError: the disk is full, or the bucket out of reach.
    """
    with writing(f"--out={out}"), _appearing(absolute(out)) as folder:
        (folder / META_FILE).parent.mkdir(parents=True)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / "params", params)
        (folder / "tokenizer.model").write_bytes(tokenizer.definition)
        (folder / META_FILE).write_text(json.dumps(with_checksums(meta, {"params": params})))


@contextlib.contextmanager
def _appearing(target: epath.Path) -> Iterator[epath.Path]:
    """A folder to write to, META_FILE last; when the block ends, what it holds is in `target`."""
    if is_s3(target):
        exports = cache_folder("exports")
        exports.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=exports) as here:
            yield absolute(here)
            copy_there(Path(here), to=str(target), last=META_FILE)
    elif is_bucket(target):
        yield target
    else:
        partial = target.parent / f"{target.name}.partial"
        if partial.exists():
            partial.rmtree()
        yield partial
        partial.rename(target)
