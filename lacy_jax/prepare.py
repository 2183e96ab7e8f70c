"""Prepare a corpus: mark its facts, train or load the tokenizer, pack windows. Training does it too where needed.

    python -m lacy_jax.prepare --config=configs/slm_tiny.py [--config.<section>.<setting>=...]

The folder that it names at the end can be copied to another machine and given there as --config.data.packed.
"""

from lacy_jax import flags
from lacy_jax.doors import Door, run
from lacy_jax.flags import Given
from lacy_jax.start import preparing_problems


def main(given: Given) -> int:
    """Prepares what the config asks for, and prints its folder."""
    from lacy_jax.console import reporting
    from lacy_jax.data.marks import describe_marks, doubts
    from lacy_jax.data.pack import SPLITS
    from lacy_jax.data.prepare import prepare

    with reporting() as reporter:
        prepared = prepare(given.config, tokenizer=given.tokenizer, progress=reporter.update)
        packed = prepared.packed
        reporter.finish()
        for split in SPLITS:
            count = packed.statistics[split]
            reporter.say(
                f"{split:<10}  {count['documents']:,} documents, {count['tokens']:,} tokens, "
                f"{count['factual'] / count['tokens']:.1%} factual, {count['windows']:,} windows"
            )
        reporter.say(f"marked by   {describe_marks(prepared)}")
        for doubt in doubts(prepared, given.config.annotate):
            reporter.say(f"warning     {doubt}")
    print(packed.directory)
    return 0


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
