"""A completion for people and for programs: text with the partner's pieces marked, or JSON."""

import dataclasses
import os
from typing import Any, TextIO

from lacy_jax.cascade.rows import Completion

_COLOUR, _RESET = "\x1b[1;36m", "\x1b[0m"
_BRACKETS = "⟦", "⟧"
# Control characters in generated text could steer a terminal; their pictures (U+2400...) cannot.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_PICTURES |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def wants_colour(stream: TextIO) -> bool:
    """Whether to write colours to a stream: a terminal that shows them, and NO_COLOR (no-color.org) is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def marked_text(completion: Completion, *, colour: bool) -> str:
    """The prompt and what follows it; delegated pieces in colour, or else in ⟦...⟧, runs of them together."""
    before, after = (_COLOUR, _RESET) if colour else _BRACKETS
    parts = [completion.prompt.translate(_PICTURES)]
    delegated = False
    for piece in completion.pieces:
        if (piece.source == "partner") != delegated:
            parts.append(after if delegated else before)
            delegated = not delegated
        parts.append(piece.text.translate(_PICTURES))
    return "".join(parts) + (after if delegated else "")


def as_json(completion: Completion) -> dict[str, Any]:
    """The fields of `Completion` as JSON values, and the realised `share` among the counts."""
    fields = dataclasses.asdict(completion)
    return {**fields, "counts": {**fields["counts"], "share": completion.counts.share}}
