"""What a step reads: windows of tokens with their factual bits, on a host and on devices alike."""

from dataclasses import dataclass
from typing import Generic, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

Array = TypeVar("Array", np.ndarray, jax.Array)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Batch(Generic[Array]):
    """B windows of T targets: one host's rows as NumPy arrays, or all rows as arrays on devices.

    tokens: int32[B, T + 1]. factual: bool[B, T + 1], of the tokens themselves.
    starts: int32[B, T + 1], the place in its row where each token's document starts (see `document_starts`).
    lengths: int32[B], real tokens in each row; the rest is padding.
    sources: int32[B], of a training batch of a mixture: the dataset of each row (`mixing.Mixed`).
    partner_losses: float32[B, T + 1], of the tokens themselves, in nats, where the objective reads them; NaN where the
        partner says nothing.
    """

    tokens: Array
    factual: Array
    starts: Array
    lengths: Array
    sources: Array | None = None
    partner_losses: Array | None = None

    @property
    def inputs(self) -> Array:
        """int32[B, T]."""
        return self.tokens[:, :-1]

    @property
    def input_starts(self) -> Array:
        """int32[B, T]."""
        return self.starts[:, :-1]

    @property
    def targets(self) -> Array:
        """int32[B, T]."""
        return self.tokens[:, 1:]

    @property
    def target_factual(self) -> Array:
        """bool[B, T]."""
        return self.factual[:, 1:]

    @property
    def target_partner_losses(self) -> Array | None:
        """float32[B, T]."""
        return None if self.partner_losses is None else self.partner_losses[:, 1:]

    @property
    def valid(self) -> jax.Array:
        """bool[B, T]: targets that are real tokens."""
        return jnp.arange(1, self.tokens.shape[1]) < self.lengths[:, None]


def document_starts(tokens: np.ndarray, *, end_id: int) -> np.ndarray:
    """The place where the document of each token starts; int32, as long as `tokens`, those of one window.

    A document starts with the `end_id` of the one before it, which also stands before a text that the model writes
    (docs/cascade.md). If a window begins inside a document, that document starts at place 0. This is exact, because no
    text gives `end_id`.
    """
    places = np.arange(len(tokens), dtype=np.int32)
    return np.maximum.accumulate(np.where(tokens == end_id, places, 0))
