"""Words of documents as the tagger sees them: spaCy's tokenization, and hashes of how each word looks."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lacy_jax.data.annotators.shown import pieces_of, said_before, shorten_runs
from lacy_jax.data.annotators.spacy_words import check_spacy
from lacy_jax.data.documents import Document, text_offset
from lacy_jax.errors import DataError

# The properties of a word that are read, by spaCy's names, and the rows of each one's table.
TABLES = {"NORM": 1 << 14, "LOWER": 1 << 14, "PREFIX": 1 << 10, "SUFFIX": 1 << 12, "SHAPE": 1 << 12}
# How the place of a word is described, and how many values each description has.
PLACES = {"repeated": 2, "in the title": 2, "words before it, on a log scale": 18, "sentences before it": 8}
_ENDS = (".", "!", "?", "\u3002")  # of sentences
_LIFETIME = 20_000_000  # characters that one tokenizer reads: its string store only grows


@dataclass(frozen=True, eq=False)
class Words:
    """N words of one document, in order.

    starts, ends: int32[N], characters of the full text. rows: int32[N, 2 * 5], two rows of each of `TABLES`: two words
    that share one seldom share the other. places: int32[N, 4], where it stands, by `PLACES`. space: bool[N], white
    space. repeated: bool[N], its lower-cased form stands earlier in the document, title included, as in `Spans`.
    """

    starts: np.ndarray
    ends: np.ndarray
    rows: np.ndarray
    places: np.ndarray
    space: np.ndarray
    repeated: np.ndarray

    def __len__(self) -> int:
        return len(self.starts)


def words_of(documents: Iterable[Document], *, language: str) -> Iterator[tuple[Document, Words]]:
    """Each document with the words of its text, by spaCy's tokenizer of a language.

    Raises:
        DataError: spaCy is not installed, has no such language, or needs a package for it that is not installed.
    """
    nlp, read = _tokenizer(language), 0
    for document in documents:
        yield document, _words(document, nlp)
        read += len(document.text)
        if read > _LIFETIME:
            nlp, read = _tokenizer(language), 0


def _tokenizer(language: str) -> Any:
    check_spacy()
    import spacy  # not installed where only training is

    try:
        return spacy.blank(language)
    except ImportError as error:
        said = str(error).partition("\n")[0]
        raise DataError(f"spaCy's tokenizer for the language {language!r} cannot be loaded ({said})") from None


def _words(document: Document, nlp: Any) -> Words:
    from spacy.attrs import IDS

    columns = [IDS[name] for name in ("IDX", "LENGTH", "LOWER", "IS_SPACE", *TABLES)]
    title = nlp.make_doc(shorten_runs(document.title).text).to_array(["LOWER"]).reshape(-1)
    tables = [np.empty((0, len(columns)), np.uint64)]
    for offset, piece in pieces_of(document.text):
        shown = shorten_runs(piece)
        table = nlp.make_doc(shown.text).to_array(columns).reshape(-1, len(columns))
        start = shown.start_in_text(table[:, 0]) + np.uint64(offset)
        end = shown.end_in_text(table[:, 0] + table[:, 1]) + np.uint64(offset)
        tables.append(np.concatenate([start[:, None], end[:, None], table[:, 2:]], axis=1))
    start, end, lower, space, *looks = np.concatenate(tables).T
    repeated = said_before(lower, title=title)
    ended = np.cumsum(np.isin(lower, [nlp.vocab.strings.add(mark) for mark in _ENDS]))
    before = np.log2(np.arange(len(lower)) + 1) * 1.5
    places = [repeated, np.isin(lower, title), np.minimum(before, 17), np.minimum(ended, 7)]
    half = np.uint64(32)
    rows = [part % np.uint64(size) for hashed, size in zip(looks, TABLES.values(), strict=True)
            for part in (hashed, hashed >> half)]  # fmt: skip
    shift = text_offset(document)
    return Words(
        starts=start.astype(np.int32) + np.int32(shift),
        ends=end.astype(np.int32) + np.int32(shift),
        rows=np.stack(rows, axis=1).astype(np.int32),
        places=np.stack(places, axis=1).astype(np.int32),
        space=space.astype(bool),
        repeated=repeated,
    )
