"""The tagger's network: hashed looks of words, five residual convolutions, and what each word is.

The layout is that of spaCy's own encoder (hashed embeddings of norm, prefix, suffix and shape, then convolutions over
three words: spacy.io/api/architectures#HashEmbedCNN), with wider steps in its last layers, so that a word sees 16 words
to either side.
"""

from dataclasses import dataclass
from typing import Generic

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lacy_jax.data.batch import Array
from lacy_jax.tagging.words import PLACES, TABLES, Words

STEPS = (1, 1, 2, 4, 8)  # how far each layer looks to either side
REACH = sum(STEPS)
WINDOW = 128  # words that are tagged at once; those around them, `REACH` to either side, are only read


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Windows(Generic[Array]):
    """Parts of documents, W = WINDOW + 2 * REACH words each.

    rows: int32[B, W, 10]. places: int32[B, W, 4]. there: bool[B, W], false beyond the ends of a document.
    """

    rows: Array
    places: Array
    there: Array

    def __len__(self) -> int:
        return len(self.rows)


class Network(nnx.Module):
    """Logits of what each word is: its kind, 0 for a word that is not marked; and whether it is part of a subject."""

    def __init__(self, *, width: int, kinds: int, dropout: float, rngs: nnx.Rngs):
        self.tables = nnx.List(
            [nnx.Embed(size, width, embedding_init=nnx.initializers.normal(0.1), rngs=rngs) for size in TABLES.values()]
        )
        zeros = nnx.initializers.zeros
        self.places = nnx.List([nnx.Embed(size, width, embedding_init=zeros, rngs=rngs) for size in PLACES.values()])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.layers = nnx.List([_Layer(width, step, dropout=dropout, rngs=rngs) for step in STEPS])
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.kind = nnx.Linear(2 * width, kinds, rngs=rngs)
        self.subject = nnx.Linear(2 * width, 1, rngs=rngs)

    def __call__(self, windows: Windows[jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Logits of all words of windows: float32[B, W, kinds] and float32[B, W]."""
        there_BW1 = windows.there[..., None]
        looks_BWD = sum(
            table(windows.rows[..., 2 * nth : 2 * nth + 2]).sum(axis=-2) for nth, table in enumerate(self.tables)
        )
        where_BWD = sum(table(windows.places[..., nth]) for nth, table in enumerate(self.places))
        x_BWD = self.dropout((self.norm(looks_BWD) + where_BWD) * there_BW1)
        for layer in self.layers:
            x_BWD = layer(x_BWD) * there_BW1
        x_BWD = jnp.concatenate([x_BWD, where_BWD], axis=-1)
        return self.kind(x_BWD), self.subject(x_BWD)[..., 0]


class _Layer(nnx.Module):
    def __init__(self, width: int, step: int, *, dropout: float, rngs: nnx.Rngs):
        self.up = nnx.Linear(3 * width, 2 * width, rngs=rngs)
        self.down = nnx.Linear(2 * width, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)
        self.step = step

    def __call__(self, x_BWD: jax.Array) -> jax.Array:
        left = jnp.pad(x_BWD, ((0, 0), (self.step, 0), (0, 0)))[:, : -self.step]
        right = jnp.pad(x_BWD, ((0, 0), (0, self.step), (0, 0)))[:, self.step :]
        hidden = jax.nn.gelu(self.up(jnp.concatenate([left, x_BWD, right], axis=-1)))
        return self.norm(x_BWD + self.dropout(self.down(hidden)))


def windows_of(words: Words) -> Windows[np.ndarray]:
    """All words of a document, `WINDOW` of them in each window, with their neighbours."""
    firsts = np.arange(0, len(words), WINDOW)
    places = firsts[:, None] + np.arange(-REACH, WINDOW + REACH)
    there = (places >= 0) & (places < len(words))
    places = np.clip(places, 0, max(len(words) - 1, 0))
    return Windows(
        rows=np.where(there[..., None], words.rows[places], 0),
        places=np.where(there[..., None], words.places[places], 0),
        there=there,
    )


def inner(values: Array) -> Array:
    """[B, WINDOW, ...]: those of values[B, W, ...] that are of the words that a window is for."""
    return values[:, REACH : REACH + WINDOW]
