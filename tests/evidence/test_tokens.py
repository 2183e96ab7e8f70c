"""Text coloured by who wrote it, with marks of its own, read back character by character."""

import html.parser

from hypothesis import given
from hypothesis import strategies as st

from lacy_jax.evidence.pages.tokens import Mark, written


class Characters(html.parser.HTMLParser):
    """(character, its span's classes) in order; the pictures of line ends aside."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.found: list[tuple[str, frozenset[str]]] = []
        self._open: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag
        self._open.append(dict(attrs).get("class") or "")

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if "eol" not in self._open:
            self.found += [(each, frozenset(" ".join(self._open).split())) for each in data]


texts = st.text("ab <&\u00e9\n", min_size=1, max_size=6)


@given(texts, st.lists(st.tuples(texts, st.sampled_from([None, "partner"])), max_size=5), st.data())
def test_every_character_is_once_there_with_its_writer_and_its_mark(
    prompt: str, pieces: list[tuple[str, str | None]], data: st.DataObject
) -> None:
    whole = prompt + "".join(text for text, _ in pieces)
    edges = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=4)))
    marks = [Mark(low, high, f"m{low}") for low, high in zip(edges[::2], edges[1::2], strict=False)]
    found = Characters(str(written(prompt, [(*piece, 0.0) for piece in pieces], marks=marks))).found
    assert "".join(each for each, _ in found) == whole
    writers = [None] * len(prompt) + [writer for text, writer in pieces for _ in text]
    for place, (character, classes) in enumerate(found[len(prompt) :], start=len(prompt)):
        if not classes and character == " ":
            continue  # between two writers
        assert ("p" in classes) == (writers[place] is not None)
        assert classes - {"w", "p"} == {mark.name for mark in marks if mark.start <= place < mark.end}
