"""Text that is safe to write to a terminal, whoever wrote it."""

import os
import re
from typing import TextIO

# Control characters in somebody's text could steer a terminal; their pictures (U+2400...) cannot.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_PICTURES |= dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
# Nobody sees these: marks that turn the order of letters round, ends of lines of other kinds, spaces without width,
# tags. Joiners, which are parts of words and emoji, stay.
_UNSEEN = re.compile(
    "[\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def wants_colour(stream: TextIO) -> bool:
    """Whether to write colours to a stream: a terminal that shows them, and NO_COLOR (no-color.org) is not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def printable(text: str) -> str:
    """The text with something to see in place of what steers a terminal or hides: U+202E becomes "‹202E›".

    Line ends and tabs stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return _UNSEEN.sub(lambda found: f"‹{ord(found[0]):04X}›", text.translate(_PICTURES))
