"""Where the rows of a training batch come from: how their texts begin, and the documents in their windows."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lacy_jax.config import DataConfig
from lacy_jax.data.documents import split_of
from lacy_jax.data.loader import batch_windows
from lacy_jax.data.mixing import Mixed
from lacy_jax.data.pack import Progress
from lacy_jax.data.prepared import Prepared

TEXT_CHARACTERS = 60
SHOWN = 3  # texts or documents, in a line about many


def batch_texts(prepared: Prepared, batch: int, data: DataConfig) -> list[str]:
    """How the text of each row of a batch begins, in one line of at most TEXT_CHARACTERS."""
    windows = batch_windows(prepared.train, batch, batch_size=data.batch_size, seed=data.seed)
    return [_beginning(prepared, window) for window in windows]


def shown(names: Sequence[str]) -> str:
    """The first of some texts or ids for a line, each in quotes, and how many more there are."""
    said = ", ".join(map(repr, names[:SHOWN]))
    return f"{said} and {len(names) - SHOWN} more" if len(names) > SHOWN else said


def window_documents(prepared: Prepared, windows: Iterable[int], *, progress: Progress) -> dict[int, list[str]]:
    """The ids of the documents in some windows of the training split, by window.

    Nothing beside the packed data says where documents lie, so all windows up to the last of these are read, and then
    the documents up to the last of theirs.

    Raises:
        DataError: the annotated documents are not there.
    """
    if not isinstance(prepared.train, Mixed):
        return _window_documents(prepared, frozenset(windows), progress=progress)
    found: dict[int, list[str]] = {}
    for name, part, own in _by_dataset(prepared, prepared.train, windows):
        ids = _window_documents(part, frozenset(own), progress=progress)
        found |= {number: [f"{name}: {each}" for each in ids[window]] for window, number in own.items()}
    return found


def window_name(prepared: Prepared, window: int) -> str:
    """`window 12`, of a mixture `web window 12`: the number that the window has in its own dataset."""
    if not isinstance(prepared.train, Mixed):
        return f"window {window}"
    source, own = prepared.train.locate(window)
    return f"{prepared.train.names[source]} window {own}"


def _by_dataset(
    prepared: Prepared, train: Mixed, windows: Iterable[int]
) -> Iterator[tuple[str, Prepared, dict[int, int]]]:
    """Each dataset that has some of the windows, and of these {number in the dataset: number in the mixture}."""
    found: dict[int, dict[int, int]] = {}
    for number in windows:
        source, window = train.locate(number)
        found.setdefault(source, {})[window] = number
    return ((train.names[source], prepared.parts[train.names[source]], own) for source, own in found.items())


def _window_documents(prepared: Prepared, windows: frozenset[int], *, progress: Progress) -> dict[int, list[str]]:
    documents = prepared.documents()
    numbers = _document_numbers(prepared, windows, progress=progress)
    last, share = max(max(each, default=-1) for each in numbers.values()), prepared.fingerprint["validation_share"]
    ids: list[str] = []
    for document in documents:
        if len(ids) > last:
            break
        if split_of(document.id, validation_share=share) == "train":
            ids.append(document.id)
            progress("look documents up", len(ids), last + 1)
    return {window: [ids[number] for number in each] for window, each in numbers.items()}


def _document_numbers(prepared: Prepared, windows: frozenset[int], *, progress: Progress) -> dict[int, Sequence[int]]:
    """The documents in each window, by their place in the stream of the split (docs/data_format.md)."""
    found: dict[int, Sequence[int]] = {}
    before = 0  # ends of documents up to the window; the stream opens with one
    for window in range(max(windows) + 1):
        record = prepared.train[window]
        ends = record["tokens"][: record["length"]] == prepared.tokenizer.end_id
        if window in windows:
            found[window] = np.unique((before + np.cumsum(ends) - 1)[~ends]).tolist()
        before += int(ends[: len(record["tokens"]) - 1].sum())  # the last token opens the next window
        progress("look windows up", window + 1, max(windows) + 1)
    return found


def _beginning(prepared: Prepared, window: int) -> str:
    record, known = prepared.train[window], prepared.tokenizer.vocab_size
    ids = record["tokens"][: record["length"]].tolist()
    # A damaged window may hold others.
    text = prepared.tokenizer.decode_bytes(each for each in ids if each < known).decode(errors="replace")
    return " ".join(text[: 4 * TEXT_CHARACTERS].split())[:TEXT_CHARACTERS]
