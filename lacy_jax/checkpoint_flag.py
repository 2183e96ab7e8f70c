"""The flag `--checkpoint`, defined once: absl refuses two doors in one process that each define it."""

from absl import flags

from lacy_jax.errors import CheckpointError

CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A run's workdir, its checkpoints/, one step of it, or an export")


def given_checkpoint() -> str:
    """What the flag names.

    Raises:
        CheckpointError: it is not given.
    """
    if not CHECKPOINT.value:
        raise CheckpointError("no checkpoint; give --checkpoint=..., for example the workdir of a run")
    return CHECKPOINT.value
