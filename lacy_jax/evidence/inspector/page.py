"""Views as one HTML page that needs nothing else."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from lacy_jax.evidence.inspector.kinds import SAID, group_of, legend
from lacy_jax.evidence.inspector.pieces import Piece, View, carried
from lacy_jax.evidence.pages.render import render
from lacy_jax.evidence.pages.tokens import visible
from lacy_jax.terminal import printable


def as_page(views: Sequence[View], *, about: Iterable[str], command: str, tokens: bool) -> str:
    """The page. tokens: a line stands before each token."""
    return render(
        "inspector.html",
        about=[printable(line) for line in about],
        legend=[
            (class_of(entry.mark, entry.kind), printable(entry.text), f"{entry.count:,}") for entry in legend(views)
        ],
        views=[
            {
                "title": printable(view.title),
                "about": [printable(line) for line in view.about],
                "text": coloured(view.pieces, tokens=tokens),
                "padding": f"{view.padding:,} tokens of padding" if view.padding else "",
            }
            for view in views
        ],
        command=printable(command),
    )


def coloured(pieces: Iterable[Piece], *, tokens: bool) -> Markup:
    """The pieces as <span>s. Classes: m and the mark, g and the group of a fact's kind, b where a token begins."""
    return Markup("").join(_span(piece, bordered=tokens and piece.token >= 0) for piece in pieces)


def class_of(mark: str, kind: str) -> str:
    """The classes of a mark."""
    return f"m factual g-{group_of(kind)}" if mark == "factual" else f"m {mark}"


def _span(piece: Piece, *, bordered: bool) -> Markup:
    if piece.mark == "end":
        return Markup('<span class="end">end of a document</span>')
    if piece.mark == "plain" and not bordered:
        return visible(piece.text) if piece.text else Markup("")
    text = carried(piece.text)
    classes = class_of(piece.mark, piece.kind) if piece.mark != "plain" else "m"
    said = ", ".join(
        filter(
            None, [printable(piece.kind), SAID.get(piece.mark, ""), f"token {piece.token}" if piece.token >= 0 else ""]
        )
    )
    title = Markup(' title="{}"').format(said) if said else ""
    return Markup('<span class="{}"{}>{}</span>').format(
        classes + (" b" if bordered else ""), title, visible(text) if text else escape("·")
    )
