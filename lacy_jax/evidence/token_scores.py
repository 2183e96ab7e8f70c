"""What a model says at every token of held-out text, and how well its scores of calling find what it would get wrong.

Teacher-forced: cheap, and the same text for every model. `benchmarks/scores.py` prints it for real text, the study
for the closed world, where every factual token is known.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from lacy_jax.cascade.decoding.engine import encode_text
from lacy_jax.cascade.scores import CALL_SCORES, score_of
from lacy_jax.checkpoints.loading import LoadedModel
from lacy_jax.data.documents import Document, Spans, full_text
from lacy_jax.data.factual import factual_tokens
from lacy_jax.measures import separation
from lacy_jax.measures.intervals import Interval, bootstrap_area, bootstrap_interval
from lacy_jax.model import decoder
from lacy_jax.model.probe import probe_weights

ROWS = 16
OTHER = "other"


@dataclass(frozen=True, eq=False)
class TokenScores:
    """N targets. `kinds`: what each is part of, a span's kind or "other"; the other arrays are float[N] or bool[N].

    documents: int[N], the number of the document that each is of.
    nll: without `<CALL>`, in nats. wrong: the model's own best token is not the target. scores: by name (score, or
    score and ", gated"), what a cascade could rank; those of `<CALL>` only of a model that learned it.
    """

    kinds: np.ndarray
    documents: np.ndarray
    nll: np.ndarray
    wrong: np.ndarray
    scores: Mapping[str, np.ndarray]

    @property
    def factual(self) -> np.ndarray:
        """bool[N]: part of any span."""
        return np.asarray(self.kinds != OTHER)


Values = Callable[[decoder.Params, np.ndarray, np.ndarray], dict[str, jax.Array]]


def value_function(slm: LoadedModel) -> Values:
    """A compiled (params, inputs [B, T], targets [B, T]) -> arrays [B, T]: nll, wrong, gate and the plain scores."""
    call_id = slm.tokenizer.call_id
    # An argument, like the parameters: the program is then the same for all models of a shape, and compiled once.
    probe_E = jnp.asarray(probe_weights(slm.factual_probe, width=slm.model.width))

    @jax.jit
    def values(
        probe_E: jax.Array, params: decoder.Params, inputs: jax.Array, targets: jax.Array
    ) -> dict[str, jax.Array]:
        hidden = decoder.forward(params, inputs, config=slm.model).astype(jnp.float32)
        logits = hidden @ decoder.output_matrix(params).astype(jnp.float32).T
        log_p = jax.nn.log_softmax(logits[..., :call_id])
        return {
            "nll": -jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0],
            "wrong": log_p.argmax(axis=-1) != targets,
            "gate": jax.nn.sigmoid(hidden @ probe_E[:-1] + probe_E[-1]),
            "uncertainty": -jnp.expm1(log_p.max(axis=-1)),
            "entropy": -jnp.sum(jnp.exp(log_p) * log_p, axis=-1),
            "call_score": logits[..., call_id] - jax.nn.logsumexp(logits[..., :call_id], axis=-1),
            "call_logit": logits[..., call_id],
        }

    return functools.partial(values, probe_E)


def cascade_scores(slm: LoadedModel, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every score that a cascade of this model can rank by, alone and gated, of what `value_function` gave."""
    said = {**values, "factual": values["gate"]}
    scores = {"probe": values["gate"]}
    for name, score in CALL_SCORES.items():
        if score.ranks_as is None and (slm.learned_to_call or not score.needs_call):
            scores[name] = np.asarray(score_of(name, said, gate="none"))
            scores[f"{name}, gated"] = np.asarray(score_of(name, said, gate="factual"))
    return scores


def score_documents(slm: LoadedModel, documents: Iterable[tuple[Document, Spans]]) -> TokenScores:
    """The targets of documents, each read alone from its beginning, to the model's context at most."""
    function = value_function(slm)
    context = slm.model.context
    rows = [_row(slm, document, spans) for document, spans in documents]
    parts: dict[str, list[np.ndarray]] = {}
    kinds = []
    for first in range(0, len(rows), ROWS):
        group = rows[first : first + ROWS]
        ids = np.full((ROWS, context + 1), slm.tokenizer.end_id, np.int32)
        for index, (row_ids, row_kinds) in enumerate(group):
            length = min(len(row_ids), context + 1)
            ids[index, :length] = row_ids[:length]
            kinds.append(row_kinds[1:length])
        found = jax.device_get(function(slm.params, ids[:, :-1], ids[:, 1:]))
        for name, value_BT in found.items():
            valid = [value_BT[index, : len(kinds[first + index])] for index in range(len(group))]
            parts.setdefault(name, []).extend(valid)
    values = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    documents = np.repeat(np.arange(len(kinds)), [len(each) for each in kinds])
    return TokenScores(np.concatenate(kinds), documents, values["nll"], values["wrong"], cascade_scores(slm, values))


def _row(slm: LoadedModel, document: Document, spans: Spans) -> tuple[list[int], np.ndarray]:
    """The ids of a document after the start token, and the kind of each."""
    text = full_text(document)
    ids = encode_text(slm.tokenizer, text)
    encoding = slm.tokenizer.encode(text)
    kinds = np.full(len(ids), OTHER, dtype="U32")
    for kind in sorted({*spans.kinds}):
        chosen = np.array([each == kind for each in spans.kinds])
        some = Spans(
            spans.starts[chosen],
            spans.ends[chosen],
            (kind,) * int(chosen.sum()),
            spans.subject[chosen],
            spans.repeated[chosen],
        )
        marked = factual_tokens(encoding.starts, encoding.ends, text=text, spans=some)
        kinds[1:][marked] = kind
    return ids, kinds


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
