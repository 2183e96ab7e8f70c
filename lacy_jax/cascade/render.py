"""A completion for people and for programs: text with the partner's pieces marked, or JSON."""

import dataclasses
from typing import Any

from lacy_jax.cascade.rows import Completion
from lacy_jax.terminal import printable

_COLOUR, _RESET = "\x1b[1;36m", "\x1b[0m"
_BRACKETS = "⟦", "⟧"


def marked_text(completion: Completion, *, colour: bool) -> str:
    """The prompt and what follows it; delegated pieces in colour, or else in ⟦...⟧, runs of them together."""
    before, after = (_COLOUR, _RESET) if colour else _BRACKETS
    parts = [printable(completion.prompt)]
    delegated = False
    for piece in completion.pieces:
        if (piece.source == "partner") != delegated:
            parts.append(after if delegated else before)
            delegated = not delegated
        parts.append(printable(piece.text))
    return "".join(parts) + (after if delegated else "")


def as_json(completion: Completion) -> dict[str, Any]:
    """The fields of `Completion` as JSON values, and the realised `share` among the counts."""
    fields = dataclasses.asdict(completion)
    return {**fields, "counts": {**fields["counts"], "share": completion.counts.share}}
