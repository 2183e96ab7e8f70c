"""What the commands of this folder share: wrong input is answered in a line, and ratios are printed with quartiles."""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence

from lacy_jax.errors import LacyError


def answered(main: Callable[[], int | None]) -> None:
    """Runs a command and exits with its status. A `LacyError` is printed in its lines, without a traceback."""
    try:
        status = main()
    except LacyError as error:
        print("\n".join(error.problems), file=sys.stderr)
        status = error.status
    sys.exit(status)


def counts(text: str) -> list[int]:
    """A type for argparse: whole numbers above 0 with commas between them.

    Raises:
        argparse.ArgumentTypeError: the text is something else.
    """
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} should be whole numbers above 0, such as 1,8,64")
    return list(map(int, parts))


def ratio_line(over: Sequence[float], under: Sequence[float]) -> str:
    """The median of the ratios of two series of one length, and their quartiles: "0.63 (0.59 .. 0.67)"."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(over, under, strict=True)], n=4)
    return f"{middle:.2f} ({low:.2f} .. {high:.2f})"
