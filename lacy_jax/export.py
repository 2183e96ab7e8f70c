"""Copy a checkpoint's parameters into a folder of their own, or into a form that other programs read.

    python -m lacy_jax.export --checkpoint=runs/slm_tiny --out=slm_tiny_export
    python -m lacy_jax.export --checkpoint=runs/slm_tiny --format=hf --out=slm_tiny_hf_export
    python -m lacy_jax.export --checkpoint=runs/slm_tiny --format=gguf --dtype=float16 --out=slm_tiny.gguf

orbax, the default: `<out>/params` is restorable by plain Orbax (`StandardCheckpointer().restore`) as a nested dict of
float32 arrays; `<out>/tokenizer.model` is the tokenizer (trained here: a SentencePiece model), `<out>/meta/metadata`
the settings. Whatever takes a checkpoint takes the folder. hf: a Hugging Face folder, for transformers and what builds
on it. gguf: a file for llama.cpp. docs/exporting.md has more.
"""

from dataclasses import replace

from lacy_jax import flags, from_flags
from lacy_jax.checkpoints.exports import ExportDtype, ExportFormat
from lacy_jax.doors import Door, run
from lacy_jax.flags import Flag, Given


def main(given: Given) -> int:
    """Writes the export, and prints a line about it."""
    checkpoint = from_flags.given_checkpoint(given)
    from lacy_jax.checkpoints.export import export

    print(export(checkpoint, out=given.out, format=given.format, dtype=given.dtype))
    return 0


_FLAGS = (
    flags.CHECKPOINT,
    replace(flags.OUT, help="The folder, or the file NAME.gguf, to write; it must not exist yet", needed=True),
    Flag("format", ExportFormat, "Who is to read it: lacy_jax and Orbax, transformers, or llama.cpp", "orbax"),
    Flag("dtype", ExportDtype, "hf and gguf: the type of its tensors; stored: as in the checkpoint", "stored"),
)
DOOR = Door("export", __doc__, _FLAGS, main)

if __name__ == "__main__":
    run(DOOR)
