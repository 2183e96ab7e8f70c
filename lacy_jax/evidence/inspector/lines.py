"""Views as text for a terminal: coloured, or with brackets where there are no colours."""

from collections.abc import Iterable, Iterator, Sequence

from lacy_jax.evidence.inspector.kinds import Entry, Group, group_of, legend
from lacy_jax.evidence.inspector.pieces import Mark, Piece, View, carried
from lacy_jax.terminal import printable

_RESET, _FAINT, _BOLD = "\x1b[0m", "\x1b[2m", "\x1b[1m"
# Of 256 colours, those that can be read on black and on white.
_COLOURS: dict[Group, int] = {
    "person": 170,
    "place": 34,
    "group": 33,
    "time": 37,
    "number": 172,
    "work": 203,
    "name": 99,
    "other": 136,
}
_STYLES: dict[Mark, str] = {
    "subject": "\x1b[2;4m",  # faint, underlined
    "repeated": "\x1b[2;9m",  # faint, struck through
    "kind": "\x1b[2;3m",  # faint, slanted
    "context": _FAINT,
}
_WORDS: dict[Mark, str] = {"subject": "subject", "repeated": "repeated", "kind": "left out", "context": "context"}
_BORDER = "·"


def as_lines(views: Sequence[View], *, about: Iterable[str], colour: bool, tokens: bool) -> Iterator[str]:
    """Lines to print. tokens: a dot stands before each token.

    Nothing in a text can steer the terminal: see `printable`.
    """
    yield from (_faint(printable(_one_line(line)), colour) for line in about)
    if found := legend(views):
        yield _legend(found, colour=colour)
    for view in views:
        yield ""
        title = printable(_one_line(view.title))
        yield f"{_BOLD}{title}{_RESET}" if colour else title
        yield from (_faint(printable(_one_line(line)), colour) for line in view.about)
        yield ""
        yield _text(view, colour=colour, tokens=tokens)


def _text(view: View, *, colour: bool, tokens: bool) -> str:
    parts = []
    before: Piece | None = None
    for piece in view.pieces:
        if piece.mark == "end":
            parts.append(_rule("end of a document", colour=colour, tokens=tokens, before=before))
        else:
            border = _faint(_BORDER, colour) if tokens and piece.token >= 0 else ""
            parted = bool(border) or before is None or before.mark != piece.mark or before.kind != piece.kind
            parts.append(border + _piece(piece, colour=colour, parted=parted))
        before = piece
    if view.padding:
        parts.append(_rule(f"{view.padding:,} tokens of padding", colour=colour, tokens=False, before=before))
    return "".join(parts)


def _piece(piece: Piece, *, colour: bool, parted: bool) -> str:
    text = printable(piece.text)
    if parted:
        text = carried(text)
    if piece.mark == "plain" or not text:
        return text
    if not colour:
        return _bracketed(text, piece)
    style = _style(piece.mark, piece.kind)
    return "\n".join(f"{style}{line}{_RESET}" if line else "" for line in text.split("\n"))


def _bracketed(text: str, piece: Piece) -> str:
    if piece.mark == "factual":
        return f"⟦{text}|{printable(piece.kind)}⟧" if piece.kind else f"⟦{text}⟧"
    return f"⟨{text}|{_WORDS[piece.mark]}⟩"


def _style(mark: Mark, kind: str) -> str:
    return _STYLES[mark] if mark in _STYLES else f"\x1b[1;38;5;{_COLOURS[group_of(kind)]}m"


def _legend(entries: Iterable[Entry], *, colour: bool) -> str:
    said = []
    for entry in entries:
        text = printable(_one_line(entry.text))
        said.append(
            f"{_style(entry.mark, entry.kind)}{text}{_RESET} {entry.count:,}" if colour else f"{text} {entry.count:,}"
        )
    return "   ".join(said)


def _rule(text: str, *, colour: bool, tokens: bool, before: Piece | None) -> str:
    """A line of its own for what is no text."""
    start = "" if before is None or before.mark == "end" else "\n"
    border = _BORDER if tokens else ""
    return f"{start}{_faint(f'{border}──── {text}', colour)}\n"


def _faint(text: str, colour: bool) -> str:
    return f"{_FAINT}{text}{_RESET}" if colour else text


def _one_line(text: str) -> str:
    return " ".join(text.split())
