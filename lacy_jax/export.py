"""Copy a checkpoint's parameters into a folder of their own, without optimizer state.

    python -m lacy_jax.export --checkpoint=runs/slm_tiny --out=slm_tiny_export

`<out>/params` is restorable by plain Orbax (`StandardCheckpointer().restore`) as a nested dict of float32 arrays;
`<out>/tokenizer.model` is the SentencePiece model, `<out>/meta/metadata` the settings. `generate` and
`evaluate` take the folder as a checkpoint.
"""

import json
import sys

import orbax.checkpoint as ocp
from absl import app, flags, logging
from etils import epath

from lacy_jax.checkpoint_flag import given_checkpoint
from lacy_jax.checkpoints.format import META_FILE, read_meta
from lacy_jax.checkpoints.loading import load_model
from lacy_jax.data.tokenizer import Tokenizer
from lacy_jax.errors import CheckpointError

_OUT = flags.DEFINE_string("out", None, "The folder to write; it must not exist yet")
flags.mark_flags_as_required(["out"])


def export(checkpoint: str, *, out: str) -> str:
    """Writes the export and returns a line about it. An interrupted export leaves no folder of that name.

    Raises:
        CheckpointError: there is no checkpoint, or `out` exists.
    """
    target = epath.Path(out).absolute()
    if target.exists():
        raise CheckpointError(f"--out={out} exists already; give a new folder, or delete it first")
    loaded = load_model(checkpoint)
    if not isinstance(loaded.tokenizer, Tokenizer):
        raise CheckpointError(f"--checkpoint={checkpoint} is a Hugging Face folder; that is an export already")
    partial = target.parent / f"{target.name}.partial"
    if partial.exists():
        partial.rmtree()
    (partial / META_FILE).parent.mkdir(parents=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(partial / "params", loaded.params)
    (partial / "tokenizer.model").write_bytes(loaded.tokenizer.model_proto)
    (partial / META_FILE).write_text(json.dumps(read_meta(epath.Path(loaded.path))))
    partial.rename(target)
    return f"{loaded.path} (step {loaded.step:,}) -> {target}"


def main(argv: list[str]) -> int:
    logging.set_verbosity(logging.WARNING)
    out = _OUT.value
    assert out is not None  # a required flag
    try:
        if len(argv) > 1:
            raise CheckpointError(f"unexpected argument {argv[1]!r}; allowed are --checkpoint=... and --out=...")
        print(export(given_checkpoint(), out=out))
    except CheckpointError as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    app.run(main)
