"""A checkpoint's parameters in a folder of their own, without optimizer state, or in a form that others read."""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import orbax.checkpoint as ocp
from etils import epath

from lacy_jax.checkpoints.exports import ExportDtype, ExportFormat
from lacy_jax.checkpoints.format import META_FILE, check_savable, read_meta, with_checksums
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.errors import CheckpointError
from lacy_jax.folders import cache_folder, copy_there, unwritable, writing
from lacy_jax.model import decoder
from lacy_jax.paths import absolute, expand_home, is_bucket, is_s3


def export(checkpoint: str, *, out: str, format: ExportFormat = "orbax", dtype: ExportDtype = "stored") -> str:
    """Writes the export and returns a line about it.

    An interrupted export leaves nothing of that name; in a bucket, where no folder can be renamed, it leaves a folder
    that is not taken for a checkpoint.

    Args:
        format: orbax is ours; hf is a Hugging Face folder, gguf llama.cpp's file (docs/exporting.md).
        dtype: hf and gguf: of the tensors.

    Raises:
        CheckpointError: there is no checkpoint, it cannot be written in this format, or `out` exists, cannot be
            written, or could not be read again.
        StorageError: the disk is full, or the bucket out of reach.
    """
    for name, value, kind in (("format", format, ExportFormat), ("dtype", dtype, ExportDtype)):
        if value not in get_args(kind):
            raise CheckpointError(f"--{name}={value}: allowed are {', '.join(get_args(kind))}")
    out = expand_home(out)
    target = check_out(out)
    if format == "orbax" and dtype != "stored":
        raise CheckpointError(f"--dtype={dtype}: an orbax export keeps the parameters as they are; leave --dtype out")
    if format == "gguf" and target.suffix != ".gguf":
        raise CheckpointError(f"--out={out}: --format=gguf writes a file, and its name ends with .gguf")
    loaded = load_model(checkpoint)
    if format == "orbax":
        if loaded.family:
            raise CheckpointError(
                f"--checkpoint={checkpoint} is a Hugging Face folder or a GGUF file, an export already"
            )
        meta = read_meta(absolute(loaded.path))
        write_export(out, params=loaded.params, tokenizer=loaded.tokenizer, meta=meta)
    else:
        with writing(f"--out={out}"):
            _write_for_others(target, loaded, format=format, dtype=dtype)
    step = "" if loaded.family else f" (step {loaded.step:,})"
    return f"{loaded.path}{step} -> {target}"


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
    with writing(f"--out={out}"), _arriving(absolute(out)) as folder:
        (folder / META_FILE).parent.mkdir(parents=True)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(folder / "params", params)
        (folder / "tokenizer.model").write_bytes(tokenizer.definition)
        (folder / META_FILE).write_text(json.dumps(with_checksums(meta, {"params": params})))


def _write_for_others(
    target: epath.Path, loaded: LoadedModel, *, format: Literal["hf", "gguf"], dtype: ExportDtype
) -> None:
    """A Hugging Face folder, or a GGUF file. Raises `CheckpointError` where the model cannot be written so."""
    try:
        if format == "gguf":
            from lacy_jax.checkpoints.exports.gguf_file import write_gguf_file
        else:
            from lacy_jax.checkpoints.exports.hf_folder import LAST_FILE, write_hf_folder
    except ImportError as error:
        raise CheckpointError(
            f'--format={format} needs the package {error.name}: pip install "lacy_jax[partners]"'
        ) from None
    if format == "hf":
        with _sent(target, last=LAST_FILE) if is_bucket(target) else _renamed(target) as folder:
            folder.mkdir(parents=True, exist_ok=True)
            write_hf_folder(Path(folder), loaded, dtype=dtype)
    elif is_bucket(target):
        with _sent(target.parent, last=target.name) as folder:
            write_gguf_file(Path(folder) / target.name, loaded, dtype=dtype)
    else:
        with _renamed(target) as path:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_gguf_file(Path(path), loaded, dtype=dtype)


@contextlib.contextmanager
def _arriving(target: epath.Path) -> Iterator[epath.Path]:
    """A folder for Orbax to write to, META_FILE last; when the block ends, what it holds is in `target`."""
    if is_bucket(target) and not is_s3(target):
        yield target
        return
    with _sent(target, last=META_FILE) if is_s3(target) else _renamed(target) as folder:
        yield folder


@contextlib.contextmanager
def _sent(target: epath.Path, *, last: str) -> Iterator[epath.Path]:
    """A folder on this machine; when the block ends, its files are copied to a bucket, the one named `last` last."""
    exports = cache_folder("exports")
    exports.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=exports) as here:
        yield absolute(here)
        copy_there(Path(here), to=str(target), last=last)


@contextlib.contextmanager
def _renamed(target: epath.Path) -> Iterator[epath.Path]:
    """A name beside `target`, of nothing yet; when the block ends, what was written there gets its name."""
    partial = target.parent / f"{target.name}.partial"
    _remove(partial)
    try:
        yield partial
    except BaseException:
        _remove(partial)
        raise
    partial.rename(target)


def _remove(path: epath.Path) -> None:
    if path.is_dir():
        path.rmtree()
    path.unlink(missing_ok=True)
