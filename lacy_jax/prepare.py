"""Prepare a corpus: mark its facts, train or load the tokenizer, pack windows. Training does it too where needed.

    python -m lacy_jax.prepare --config=configs/slm_tiny.py [--config.<field>=...]

The folder that it names at the end can be copied to another machine and given there as --config.data.packed.
"""

from absl import app, flags, logging
from ml_collections import config_flags

from lacy_jax.checks import parse
from lacy_jax.console import reporting
from lacy_jax.data.pack import SPLITS
from lacy_jax.data.prepare import prepare
from lacy_jax.errors import ConfigError, DataError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/slm_tiny.py")


def main(argv: list[str]) -> int:
    """Prepares what the config asks for and prints its folder; returns 2 where the settings or the data will not do."""
    logging.set_verbosity(logging.WARNING)
    with reporting() as reporter:
        try:
            if len(argv) > 1:
                raise ConfigError(f"unexpected argument {argv[1]!r}; settings are given as --config.<field>=<value>")
            packed = prepare(parse(_CONFIG.value), progress=reporter.update).packed
        except (ConfigError, DataError) as error:
            reporter.finish()
            reporter.say(f"error: {error}")
            return 2
        reporter.finish()
        for split in SPLITS:
            count = packed.statistics[split]
            reporter.say(
                f"{split:<10}  {count['documents']:,} documents, {count['tokens']:,} tokens, "
                f"{count['factual'] / count['tokens']:.1%} factual, {count['windows']:,} windows"
            )
    print(packed.directory)
    return 0


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
