"""Prepare a corpus: mark its facts, train or load the tokenizer, pack windows. Training does it too where needed.

    python -m lacy_jax.prepare --config=configs/slm_tiny.py [--config.<section>.<setting>=...]

The folder that it names at the end can be copied to another machine and given there as --config.data.packed.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from lacy_jax import flags
from lacy_jax.config import Config
from lacy_jax.doors import Door, run
from lacy_jax.flags import Given
from lacy_jax.start import preparing_problems

if TYPE_CHECKING:
    from lacy_jax.data.prepared import Prepared


def main(given: Given) -> int:
    """Prepares what the config asks for, and prints its folder; of a mixture, a folder for each dataset."""
    from lacy_jax.console import reporting
    from lacy_jax.data.prepare import prepare

    with reporting() as reporter:
        prepared = prepare(given.config, tokenizer=given.tokenizer, progress=reporter.update)
        reporter.finish()
        for name, part in (prepared.parts or {"": prepared}).items():
            if name:
                reporter.say(f"dataset     {name}")
            _describe(part, given.config, say=reporter.say)
    for part in (prepared.parts or {"": prepared}).values():
        print(part.packed.directory)
    return 0


def _describe(prepared: "Prepared", config: Config, *, say: Callable[[str], None]) -> None:
    from lacy_jax.data.marks import describe_marks, doubts
    from lacy_jax.data.pack import SPLITS

    for split in SPLITS:
        count = prepared.packed.statistics[split]
        say(
            f"{split:<10}  {count['documents']:,} documents, {count['tokens']:,} tokens, "
            f"{count['factual'] / count['tokens']:.1%} factual, {count['windows']:,} windows"
        )
    say(f"marked by   {describe_marks(prepared)}")
    for doubt in doubts(prepared, config.annotate):
        say(f"warning     {doubt}")


DOOR = Door(
    "prepare",
    __doc__,
    (flags.CONFIG, flags.PRINT_CONFIG),
    main,
    prefix="error",
    hint=flags.SETTINGS_HINT,
    check=lambda config, _given: preparing_problems(config),
)

if __name__ == "__main__":
    run(DOOR)
