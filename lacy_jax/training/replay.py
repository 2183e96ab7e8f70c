"""What one batch of a run holds: how its texts begin, and, when it is run again, what the model makes of them."""

from lacy_jax.config import DataConfig
from lacy_jax.data.loader import batch_windows
from lacy_jax.data.prepare import Prepared

TEXT_CHARACTERS = 60


def batch_texts(prepared: Prepared, batch: int, data: DataConfig) -> list[str]:
    """How the text of each row of a batch begins, in one line of at most TEXT_CHARACTERS."""
    windows = batch_windows(prepared.train, batch, batch_size=data.batch_size, seed=data.seed)
    return [_beginning(prepared, window) for window in windows]


def _beginning(prepared: Prepared, window: int) -> str:
    record, known = prepared.train[window], prepared.tokenizer.vocab_size
    ids = record["tokens"][: record["length"]].tolist()
    text = prepared.tokenizer.decode(each for each in ids if each < known)  # a damaged window may hold others
    return " ".join(text[: 4 * TEXT_CHARACTERS].split())[:TEXT_CHARACTERS]
