"""A checkpoint's parameters in a folder of their own, without optimizer state."""

import json

import orbax.checkpoint as ocp

from lacy_jax.checkpoints.format import META_FILE, check_savable, read_meta, with_checksums
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.data.tokenizer import Tokenizer
from lacy_jax.errors import CheckpointError
from lacy_jax.folders import unwritable, writing
from lacy_jax.paths import absolute, expand_home, is_bucket


def export(checkpoint: str, *, out: str) -> str:
    """Writes the export and returns a line about it.

    An interrupted export leaves no folder of that name; in a bucket, where no folder can be renamed, it leaves one that
    is not taken for a checkpoint.

    Raises:
        CheckpointError: there is no checkpoint, `out` exists or cannot be written, or could not be read again.
        StorageError: the disk is full, or the bucket out of reach.
    """
    out = expand_home(out)
    check_savable(out, name="--out")
    if problem := unwritable(out, buckets="allowed"):
        raise CheckpointError(f"--out={out}: {problem}")
    target = absolute(out)
    if target.exists():
        raise CheckpointError(f"--out={out} exists already; give a new folder, or delete it first")
    loaded = load_model(checkpoint)
    if not isinstance(loaded.tokenizer, Tokenizer):
        raise CheckpointError(f"--checkpoint={checkpoint} is a Hugging Face folder or a GGUF file, an export already")
    partial = target if is_bucket(out) else target.parent / f"{target.name}.partial"
    if partial.exists():
        partial.rmtree()
    with writing(f"--out={out}"):
        (partial / META_FILE).parent.mkdir(parents=True)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(partial / "params", loaded.params)
        (partial / "tokenizer.model").write_bytes(loaded.tokenizer.model_proto)
        meta = with_checksums(read_meta(absolute(loaded.path)), {"params": loaded.params})
        (partial / META_FILE).write_text(json.dumps(meta))
        if partial != target:
            partial.rename(target)
    return f"{loaded.path} (step {loaded.step:,}) -> {target}"
