"""What a partner that is a model saves in the words that come next: a linear function of the SLM's hidden state.

Both models read the same texts. The SLM's loss of a word less the partner's is what a call there would save. A ridge
regression finds it in the SLM's state before the word (docs/defer.md has what it is worth).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from lacy_jax.adaptation.kept import read_arrays, write_arrays
from lacy_jax.adaptation.states import CONTEXT, model_digest
from lacy_jax.cascade.marks.reading import TEXTS, read_texts
from lacy_jax.checkpoints.loading import LoadedModel, shortened
from lacy_jax.config import ModelConfig
from lacy_jax.data.documents import NO_SPANS, Document, Losses, Spans, full_text
from lacy_jax.errors import DataError
from lacy_jax.evidence.reading import ROWS, Reading, as_batch, read_documents
from lacy_jax.evidence.token_scores import cascade_scores
from lacy_jax.model import decoder
from lacy_jax.model.probe import Probe

Progress = Callable[[str, int, int | None], None]
RIDGE = 1e-4  # weight of the squares, per piece, of features with a spread of one


@dataclass(frozen=True, eq=False)
class Pieces:
    """Text in N pieces, each the least that ends with a token of the SLM and one of the partner; mostly a word.

    tokens: int[N], of the SLM. bytes: int[N]. own, theirs: float64[N], nats that each pays. hidden: float32[N, D], the
    SLM's final state before each piece. said: what the SLM says there, as in `evidence.reading.Said.call`.
    """

    tokens: np.ndarray
    bytes: np.ndarray
    own: np.ndarray
    theirs: np.ndarray
    hidden: np.ndarray
    said: Mapping[str, np.ndarray]

    @property
    def saved(self) -> np.ndarray:
        """float64[N]: nats per token of the SLM that a call saves."""
        return np.asarray((self.own - self.theirs) / self.tokens)

    def scores(self, slm: LoadedModel) -> dict[str, np.ndarray]:
        """Every score that a cascade of the SLM can rank by (see `cascade_scores`), by its probe for savings."""
        weights_E = slm.probes[1]
        return cascade_scores(slm, {**self.said, "saving": self.hidden @ weights_E[:-1] + weights_E[-1]})

    def bits_per_byte(self, scores: np.ndarray, *, share: float) -> float:
        """Of all the text, if the partner pays for the pieces of the highest scores, `share` of all tokens at most."""
        order = np.argsort(-scores, kind="stable")
        asked = np.zeros(len(order), bool)
        asked[order] = np.cumsum(self.tokens[order]) <= share * self.tokens.sum()
        return float(np.where(asked, self.theirs, self.own).sum() / np.log(2) / self.bytes.sum())


def learn_saving(
    slm: LoadedModel,
    partner: LoadedModel,
    train: Sequence[Document],
    held_out: Sequence[Document],
    *,
    folder: Path,
    progress: Progress,
) -> tuple[LoadedModel, Pieces]:
    """The SLM with a probe fitted to `train`, and the pieces of `held_out`, to which nothing is fitted.

    Of each document the first CONTEXT tokens are read.

    Args:
        folder: what the partner read is kept there, and found again by a second call with the same documents.

    Raises:
        DataError: there is too little text.
    """
    short = shortened(slm, context=min(CONTEXT, slm.model.context))
    read = with_losses(partner, [*train, *held_out], slm=short, folder=folder, progress=progress)
    fitted = pieces_of(short, read[: len(train)], progress=progress)
    compared = pieces_of(short, read[len(train) :])
    return dataclasses.replace(slm, saving_probe=fit_saving(fitted)), compared


def pieces_of(
    slm: LoadedModel, documents: Sequence[tuple[Document, Spans]], *, progress: Progress = lambda *_: None
) -> Pieces:
    """The pieces of documents whose spans have the partner's losses, as far as the SLM reads them.

    Raises:
        DataError: none has a piece.
    """
    found = []
    for first in range(0, len(documents), TEXTS):
        group = documents[first : first + TEXTS]
        readings = read_documents(slm, group)
        for reading, hidden_TD, (_, spans) in zip(readings, _hidden_states(slm, readings), group, strict=True):
            assert spans.losses is not None
            ends = np.intersect1d(reading.ends, spans.losses.ends)
            if len(ends):
                found.append(_pieces(reading, hidden_TD, spans.losses, ends=ends))
        progress("model reads", first + len(group), len(documents))
    if not found:
        raise DataError("the documents hold no word that both models read; give more or longer ones")
    columns = {field.name: [getattr(each, field.name) for each in found] for field in dataclasses.fields(Pieces)}
    said = {name: np.concatenate([each[name] for each in columns["said"]]) for name in found[0].said}
    return Pieces(**{name: np.concatenate(each) for name, each in columns.items() if name != "said"}, said=said)


def with_losses(
    partner: LoadedModel,
    documents: Sequence[Document],
    *,
    slm: LoadedModel,
    folder: Path,
    progress: Progress,
) -> list[tuple[Document, Spans]]:
    """The documents with what the partner pays for them, as far as the SLM reads them; see `learn_saving`."""
    model = model_digest(partner)
    found: list[Losses] = []
    for first in range(0, len(documents), TEXTS):
        texts = [_as_far(slm, full_text(document)) for document in documents[first : first + TEXTS]]
        digest = model.copy()
        digest.update("\0".join(texts).encode())
        path = folder / f"{digest.hexdigest()[:16]}.npz"
        kept = read_arrays(path)
        if kept is None:
            losses = [each.losses for each in read_texts(partner, texts)]
            kept = {f"{name}{n}": getattr(each, name) for n, each in enumerate(losses) for name in ("ends", "nats")}
            write_arrays(path, kept)
        found += [Losses(kept[f"ends{n}"], kept[f"nats{n}"]) for n in range(len(texts))]
        progress("partner reads", len(found), len(documents))
    return [
        (document, dataclasses.replace(NO_SPANS, losses=each)) for document, each in zip(documents, found, strict=True)
    ]


def _as_far(slm: LoadedModel, text: str) -> str:
    ends = slm.tokenizer.encode(text).ends
    return text if len(ends) <= slm.model.context else text[: ends[slm.model.context - 1]]


def fit_saving(pieces: Pieces) -> Probe:
    """The probe for what a call saves, in nats per token: ridge regression, a piece weighed by its tokens."""
    # In float64: of a constant state float32's mean is not the state itself, and its spread would be that difference.
    middle_D, spread_D = (
        pieces.hidden.mean(axis=0, dtype=np.float64),
        pieces.hidden.std(axis=0, dtype=np.float64) + 1e-6,
    )
    features_NE = np.insert(((pieces.hidden - middle_D) / spread_D).astype(np.float32), 0, 1.0, axis=1)
    weighed_NE = features_NE * pieces.tokens[:, None].astype(np.float32)
    squares_EE = (weighed_NE.T @ features_NE).astype(np.float64)
    squares_EE += RIDGE * len(features_NE) * np.eye(len(squares_EE))
    bias, *found = np.linalg.solve(squares_EE, weighed_NE.T @ pieces.saved)
    weights_D = np.array(found) / spread_D
    return Probe(weights=tuple(weights_D.tolist()), bias=float(bias - weights_D @ middle_D))


def _pieces(reading: Reading, hidden_TD: np.ndarray, losses: Losses, *, ends: np.ndarray) -> Pieces:
    """Those of one document. ends: where both have a token's end."""
    mine = np.searchsorted(reading.ends, ends, side="right")  # tokens up to each end, those of one character all
    theirs = np.searchsorted(losses.ends, ends, side="right")
    firsts = np.append(0, mine[:-1])
    texts = [reading.text[start:end] for start, end in zip(np.append(0, ends[:-1]), ends, strict=True)]
    return Pieces(
        tokens=np.diff(mine, prepend=0),
        bytes=np.array([len(text.encode()) for text in texts]),
        own=np.diff(np.cumsum(reading.said.nll, dtype=np.float64)[mine - 1], prepend=0.0),
        theirs=np.diff(np.cumsum(losses.nats, dtype=np.float64)[theirs - 1], prepend=0.0),
        hidden=hidden_TD[firsts],
        said={name: values[firsts] for name, values in reading.said.call.items()},
    )


def _hidden_states(slm: LoadedModel, readings: Sequence[Reading]) -> Iterator[np.ndarray]:
    """The final states before the targets of each document, float32 [T, D]."""
    for first in range(0, len(readings), ROWS):
        group = readings[first : first + ROWS]
        tokens_BT = as_batch(slm.tokenizer, [each.ids for each in group], context=slm.model.context)
        hidden_BTD = np.asarray(_hidden(slm.params, tokens_BT[:, :-1], config=slm.reader), np.float32)
        yield from (hidden_TD[: len(each.ids)] for hidden_TD, each in zip(hidden_BTD, group, strict=False))


@functools.partial(jax.jit, static_argnames="config")
def _hidden(params: decoder.Params, tokens_BT: jax.Array, *, config: ModelConfig) -> jax.Array:
    return decoder.read(params, tokens_BT, config=config)[0]
