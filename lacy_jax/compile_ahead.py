"""Compiles the training step for a TPU slice that you need not have: does it fit, and what goes over the network?

    python -m lacy_jax.compile_ahead --config=configs/slm_334m.py --topology=v5e:16x16 --config.data.batch_size=1024

Runs on any machine with the package libtpu. Exit status: 0 it fits, 1 it does not, 2 it could not be found out.
"""

from dataclasses import replace

from lacy_jax import flags
from lacy_jax.config import Positive
from lacy_jax.doors import Door, run
from lacy_jax.flags import Flag, Given

_FLAGS = (
    replace(flags.CONFIG, help="The config file of the run: configs/slm_334m.py:method=lacy"),
    flags.PRINT_CONFIG,
    Flag("topology", flags.Text, "TPU version and shape of a slice, as v5e:16x16 or v5p:4x4x4", needed=True),
    Flag("slices", Positive, "Slices of that shape, as in config.mesh.slice", 1),
    Flag("suggest", bool, "Also compile other batches and remats, up to four, for a suggestion", True),
)


def main(given: Given) -> int:
    """Prints the plan; returns 0 where it fits, 1 where it does not."""
    import jax

    from lacy_jax.training.ahead import topology_devices
    from lacy_jax.training.ahead_report import report, suggest

    jax.config.update("jax_platforms", "cpu")  # no device is used
    devices = topology_devices(given.topology, slices=given.slices)
    fits = report(given.config, devices)
    if given.suggest:
        suggest(given.config, devices, fits=fits)
    return 0 if fits else 1


DOOR = Door("compile_ahead", __doc__, _FLAGS, main, prefix="error", hint=flags.SETTINGS_HINT)

if __name__ == "__main__":
    run(DOOR)
