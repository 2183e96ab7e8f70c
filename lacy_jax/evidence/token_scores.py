"""What a model says at every token of held-out text, and how well its scores of calling find what it would get wrong.

Teacher-forced: cheap, and the same text for every model. `benchmarks/scores.py` prints it for real text, the study
for the closed world, where every factual token is known.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lacy_jax.cascade.scores import CALL_SCORES, gate_of, score_of
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.config import Gate
from lacy_jax.data.documents import Document, Spans
from lacy_jax.errors import DataError
from lacy_jax.evidence.reading import OTHER, Reading, read_documents
from lacy_jax.measures import separation
from lacy_jax.measures.intervals import Interval, bootstrap_area, bootstrap_interval

ENDINGS: Mapping[Gate, str] = {"none": "", "factual": ", gated"}  # of a score's name, by its gate


@dataclass(frozen=True, eq=False)
class TokenScores:
    """N targets. `kinds`: what each is part of, a span's kind or "other"; the other arrays are float[N] or bool[N].

    documents: int[N], the number of the document that each is of.
    nll, rank: of the target without `<CALL>`, in nats and from 1. wrong: the model's own best token is not the target.
    scores: by name (score, or score and ", gated"), what a cascade could rank; those of `<CALL>` only of a model that
    learned it.
    """

    kinds: np.ndarray
    documents: np.ndarray
    nll: np.ndarray
    rank: np.ndarray
    wrong: np.ndarray
    scores: Mapping[str, np.ndarray]

    @property
    def factual(self) -> np.ndarray:
        """bool[N]: part of any span."""
        return np.asarray(self.kinds != OTHER)


def cascade_scores(slm: LoadedModel, said: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every score that a cascade of this model can rank by, alone and gated, of what it said (`reading.Said.call`)."""
    has = {
        "nothing": True,
        "call": slm.learned_to_call,
        "fact": slm.factual_probe is not None,
        "saving": slm.saving_probe is not None,
    }
    scores = {}
    for name, score in CALL_SCORES.items():
        if score.ranks_as is None and has[score.needs]:
            for gate, ending in ENDINGS.items():
                if gate_of(name, gate) == gate:
                    scores[name + ending] = np.asarray(score_of(name, said, gate=gate))
    return scores


def score_documents(slm: LoadedModel, documents: Iterable[tuple[Document, Spans]]) -> TokenScores:
    """The targets of documents, each read alone from its beginning, to the model's context at most.

    Raises:
        DataError: there is no document.
    """
    readings = read_documents(slm, list(documents))
    if not readings:
        raise DataError("no held-out document to read; raise corpus.validation_share, or take more documents")
    return scores_of(slm, readings)


def scores_of(slm: LoadedModel, readings: Sequence[Reading]) -> TokenScores:
    """The targets of documents that the model has read, at least one."""
    said = {name: np.concatenate([each.said.call[name] for each in readings]) for name in readings[0].said.call}
    return TokenScores(
        kinds=np.concatenate([each.kinds for each in readings]),
        documents=np.repeat(np.arange(len(readings)), [len(each.ids) for each in readings]),
        nll=np.concatenate([each.said.nll for each in readings]),
        rank=np.concatenate([each.said.rank for each in readings]),
        wrong=np.concatenate([each.wrong for each in readings]),
        scores=cascade_scores(slm, said),
    )


@dataclass(frozen=True)
class Separation:
    """How well a score finds what should be delegated: areas under the ROC curve, and the point of a budget.

    area_factual, area_wrong, area_both: factual targets; those the model alone gets wrong; those that are both.
    precision, recall: of both, at the budget. called: the share of each kind among what is called there.
    """

    area_factual: float
    area_wrong: float
    area_both: float
    precision: float
    recall: float
    called: dict[str, float]


def separate(tokens: TokenScores, name: str, *, budget: float) -> Separation | None:
    """Of one score; None where every target, or none, is factual and wrong."""
    values, both = tokens.scores[name], tokens.factual & tokens.wrong
    factual, wrong, of_both = (separation.roc_curve(values, each) for each in (tokens.factual, tokens.wrong, both))
    point = separation.at_budget(values, both, budget=budget)
    if factual is None or wrong is None or of_both is None or point is None:
        return None
    kinds, counts = np.unique(tokens.kinds[values >= point.threshold], return_counts=True)
    called = dict(zip(kinds.tolist(), (counts / counts.sum()).tolist(), strict=True))
    return Separation(factual.area, wrong.area, of_both.area, point.precision, point.recall, called)


def nll_by_kind(tokens: TokenScores) -> dict[str, float]:
    """Mean NLL in nats of every kind, of all that is factual and of all targets."""
    masks = {kind: tokens.kinds == kind for kind in np.unique(tokens.kinds).tolist()}
    masks |= {"factual": tokens.factual, "all": np.ones_like(tokens.factual)}
    return {kind: float(tokens.nll[mask].mean()) for kind, mask in masks.items() if mask.any()}


def token_intervals(tokens: TokenScores, *, budget: float) -> dict[str, dict[str, Interval]]:
    """The main figures of every score, each with its 95% bootstrap interval over documents, whose tokens hang together.

    NLL of factual and of other targets, which no score changes; of what is factual and wrong: area, precision and
    recall as in `Separation`. The threshold of the budget is that of all documents in every resample. NaN where there
    is nothing to estimate.
    """

    def ratio(top: np.ndarray, bottom: np.ndarray) -> Interval:
        return bootstrap_interval(np.bincount(tokens.documents, top), np.bincount(tokens.documents, bottom))

    both, other = tokens.factual & tokens.wrong, ~tokens.factual
    nll_factual, nll_other = ratio(tokens.nll * tokens.factual, tokens.factual), ratio(tokens.nll * other, other)
    found = {}
    for name, scores in tokens.scores.items():
        point = separation.at_budget(scores, both, budget=budget)
        called = scores >= (np.inf if point is None else point.threshold)
        found[name] = {
            "nll_factual": nll_factual,
            "nll_other": nll_other,
            "area_both": bootstrap_area(scores, both, tokens.documents),
            "precision": ratio(called & both, called),
            "recall": ratio(called & both, both),
        }
    return found
