"""Long texts, cut into passages that a model can read at once."""

from collections.abc import Iterator, Sequence


def passages(text: str, *, most: int, cuts: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(offset, passage) of all of a text, none longer than `most` characters.

    cuts: where it is best cut, after the first character of one of these; the first that is there, its last place.
    """
    start = 0
    while len(text) - start > most:
        places = (text.rfind(mark, start + 1, start + most) for mark in cuts)
        end = next((place + 1 for place in places if place > 0), start + most)
        yield start, text[start:end]
        start = end
    if start < len(text):
        yield start, text[start:]
