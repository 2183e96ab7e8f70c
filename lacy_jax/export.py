"""Copy a checkpoint's parameters into a folder of their own, without optimizer state.

    python -m lacy_jax.export --checkpoint=runs/slm_tiny --out=slm_tiny_export

`<out>/params` is restorable by plain Orbax (`StandardCheckpointer().restore`) as a nested dict of float32 arrays;
`<out>/tokenizer.model` is the tokenizer (trained here: a SentencePiece model), `<out>/meta/metadata` the settings.
Whatever takes a checkpoint takes the folder.
"""

from dataclasses import replace

from lacy_jax import flags
from lacy_jax.doors import Door, run
from lacy_jax.flags import Given


def main(given: Given) -> int:
    """Writes the export, and prints a line about it."""
    checkpoint = flags.given_checkpoint(given)
    from lacy_jax.checkpoints.export import export

    print(export(checkpoint, out=given.out))
    return 0


_FLAGS = (
    replace(flags.CHECKPOINT, help="A run's workdir, its checkpoints/, one step of it, or an export"),
    replace(flags.OUT, help="The folder to write; it must not exist yet", needed=True),
)
DOOR = Door("export", __doc__, _FLAGS, main)

if __name__ == "__main__":
    run(DOOR)
