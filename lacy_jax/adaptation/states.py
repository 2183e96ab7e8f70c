"""The final hidden states of a model before each token of marked documents, kept on disk in chunks."""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax.adaptation.kept import read_arrays, write_arrays
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import ModelConfig
from lacy_jax.data.documents import Document, Spans, full_text
from lacy_jax.data.factual import factual_tokens
from lacy_jax.data.tokenizer import TextTokenizer
from lacy_jax.evidence.reading import ROWS, as_batch
from lacy_jax.model import decoder

CONTEXT = 256  # tokens of a document that are read: those of a whole window of 8,192 fill the memory


@dataclass(frozen=True, eq=False)
class States:
    """N targets, document after document.

    hidden: float16[N, D], the final state that predicts each. factual: bool[N]. wrong: bool[N], the model's own best
    token is another.
    """

    hidden: np.ndarray
    factual: np.ndarray
    wrong: np.ndarray


def read_states(
    slm: LoadedModel,
    documents: Sequence[tuple[Document, Spans]],
    *,
    folder: Path,
    progress: Callable[[str, int, int | None], None],
) -> States:
    """The targets of documents, each read alone from its beginning, to the model's context at most.

    Args:
        folder: chunks of results are kept there, and found again by a second call with the same model and documents.
    """
    rows = [_row(slm.tokenizer, document, spans, most=slm.model.context) for document, spans in documents]
    rows.sort(key=lambda row: len(row[0]))
    groups = [rows[first : first + ROWS] for first in range(0, len(rows), ROWS)]
    total, done = sum(len(ids) for ids, _ in rows), 0
    folder = folder / _fingerprint(slm, rows)
    chunks = []
    for index, group in enumerate(groups):
        path = folder / f"{index:05}.npz"
        chunk = read_arrays(path)
        if chunk is None:
            chunk = _read_group(slm, group)
            write_arrays(path, chunk)
        chunks.append(chunk)
        done += sum(len(ids) for ids, _ in group)
        progress("read", done, total)
    return States(**{name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]})


_Row = tuple[np.ndarray, np.ndarray]  # ids int32[N], factual bool[N]


def _row(tokenizer: TextTokenizer, document: Document, spans: Spans, *, most: int) -> _Row:
    text = full_text(document)
    encoding = tokenizer.encode(text)
    factual = factual_tokens(encoding.starts, encoding.ends, text=text, spans=spans, sub_tokens="all")
    return encoding.ids[:most], factual[:most]


def _read_group(slm: LoadedModel, group: Sequence[_Row]) -> dict[str, np.ndarray]:
    """The fields of `States`, of some documents."""
    tokens_BT = as_batch(slm.tokenizer, [ids for ids, _ in group], context=slm.model.context)
    hidden_BTD, best_BT = jax.device_get(
        _final_states(slm.params, tokens_BT[:, :-1], config=slm.reader, call_id=slm.tokenizer.call_id)
    )
    hidden = np.concatenate([hidden_BTD[row, : len(ids)] for row, (ids, _) in enumerate(group)])
    wrong = np.concatenate([best_BT[row, : len(ids)] != ids for row, (ids, _) in enumerate(group)])
    return {"hidden": hidden, "factual": np.concatenate([factual for _, factual in group]), "wrong": wrong}


@functools.partial(jax.jit, static_argnames=("config", "call_id"))
def _final_states(
    params: decoder.Params, tokens_BT: jax.Array, *, config: ModelConfig, call_id: int
) -> tuple[jax.Array, jax.Array]:
    """(hidden float16 [B, T, D], the most likely next token int32 [B, T])."""
    hidden_BTD, logits_BTV = decoder.read(params, tokens_BT, config=config)
    return hidden_BTD.astype(jnp.float16), logits_BTV[..., :call_id].argmax(axis=-1).astype(jnp.int32)


def model_digest(slm: LoadedModel) -> "hashlib._Hash":
    """Of where a model comes from, its settings, tokenizer and a sample of its weights; more can be added to it."""
    words = slm.tokenizer
    digest = hashlib.sha256(
        json.dumps([slm.path, slm.step, str(slm.model), words.fingerprint, words.start_id]).encode()
    )
    for leaf in jax.tree.leaves(slm.params):
        digest.update(np.asarray(leaf.reshape(-1)[:: max(1, leaf.size // 64)]).tobytes())
    return digest


def _fingerprint(slm: LoadedModel, rows: Sequence[_Row]) -> str:
    """A name for what the chunks depend on: the documents' tokens and marks, and a sample of the weights."""
    digest = model_digest(slm)
    for ids, factual in rows:
        digest.update(ids.tobytes() + factual.tobytes())
    return digest.hexdigest()[:16]
