"""From a pretrained model and marked documents to a checkpoint that knows when to ask, and its report."""

import dataclasses
import time
from pathlib import Path

import numpy as np

from lacy_jax.adaptation import Marks
from lacy_jax.adaptation.fit import Ranking, best_at_a_price, fit_call_row, fit_probe, rankings, with_call_row
from lacy_jax.adaptation.marks import Answers, Marked, known
from lacy_jax.adaptation.samples import Samples, worth_asking, write_samples
from lacy_jax.adaptation.states import CONTEXT, read_states
from lacy_jax.cascade import Partner
from lacy_jax.cascade.scores import CALL_SCORES
from lacy_jax.checkpoints.export import write_export
from lacy_jax.checkpoints.format import model_meta
from lacy_jax.checkpoints.loading import LoadedModel, shortened
from lacy_jax.config import Config, ObjectiveConfig, Score
from lacy_jax.console import Reporter
from lacy_jax.data.datasets import Fingerprint
from lacy_jax.data.documents import Document, split_of
from lacy_jax.data.factual import select_spans
from lacy_jax.data.prepare import annotated_documents, source_fingerprint
from lacy_jax.errors import DataError
from lacy_jax.evidence.reading import Reading, read_documents
from lacy_jax.evidence.token_scores import TokenScores, scores_of

HELD_OUT = 0.2  # share of the documents that nothing is fitted to; it holds the held-out ones of a smaller share
SCORES: tuple[Score, ...] = tuple(
    name for name, score in CALL_SCORES.items() if score.ranks_as is None and score.needs in ("nothing", "call")
)
UNCERTAINTY = "uncertainty"  # what a model's own scores are compared with


@dataclasses.dataclass(frozen=True, eq=False)
class Adapted:
    """What came of it.

    model: what was saved.
    rankings: the ways to call, best first. best: the one that is its setting. readings, tokens: of the held-out
    documents that they were compared on. documents: how many were read to fit. fitted: targets fitted to.
    answers: of the partner, to the facts of all of them; None where it was not asked for marks.
    samples: what it writes; None where none was asked for. seconds: wall time by stage.
    """

    model: LoadedModel
    rankings: list[Ranking]
    best: Ranking
    readings: list[Reading]
    tokens: TokenScores
    documents: int
    fitted: int
    answers: Answers | None
    samples: Samples | None
    seconds: dict[str, float]


def adapt(
    slm: LoadedModel,
    partner: Partner | None,
    config: Config,
    *,
    documents: int,
    marks: Marks = "facts",
    out: str,
    reporter: Reporter,
) -> Adapted:
    """Fits the probe for facts and the row of `<CALL>` to `documents` documents, and saves a checkpoint at `out`.

    Args:
        slm: any model; its weights stay. partner: writes in the samples. config: its sections corpus, annotate, data
            and cascade are used. marks: "facts": all that the rule finds; "answers": those of them that the partner
            answers right.

    Raises:
        DataError: the corpus cannot be read, or has too few documents.
        PartnerError: it was asked for marks, and answered nothing.
        CheckpointError, StorageError: `out` cannot be written.
    """
    clock = _Clock()
    chosen = _documents(slm, config, count=documents, reporter=reporter)
    train, held_out, answers = chosen.train, chosen.held_out, None
    clock.stage("mark")
    if marks == "answers" and partner is not None:
        read, answers = known(train + held_out, partner, timeout=config.cascade.timeout, progress=reporter.update)
        train, held_out = read[: len(train)], read[len(train) :]
        clock.stage("ask")
    short = _as_read(slm)
    states = read_states(short, train, folder=Path(config.data.directory) / "states", progress=reporter.update)
    clock.stage("read")
    reporter.update("fit", 0, 2)
    probe = fit_probe(states)
    call_row = fit_call_row(states)
    short = dataclasses.replace(short, factual_probe=probe, config=_learned(short.config), family="")
    short = with_call_row(short, call_row)
    reporter.update("fit", 2, 2)
    clock.stage("fit")
    readings = read_documents(short, held_out)
    tokens = scores_of(short, readings)
    ranked = rankings(tokens, scores=SCORES, budget=config.cascade.budget)
    if not ranked:
        raise DataError("no held-out target is factual and wrong; give more documents")
    clock.stage("compare")
    best = best_at_a_price(ranked)
    own = _own_settings(slm, config, best=best)
    model = with_call_row(dataclasses.replace(slm, config=own, factual_probe=probe, family=""), call_row)
    _save(model, out=out, data=source_fingerprint(config), call_scores=tokens.scores["call_score"])
    clock.stage("save")
    samples = write_samples(model, partner, chosen.openings, reporter=reporter) if chosen.openings else None
    clock.stage("samples")
    return Adapted(
        model=model,
        rankings=ranked,
        best=best,
        readings=readings,
        tokens=tokens,
        documents=len(train),
        fitted=len(states.wrong),
        answers=answers,
        samples=samples,
        seconds=clock.seconds,
    )


def _as_read(slm: LoadedModel) -> LoadedModel:
    """The model with a short context, computing in float32 as it does when it decodes."""
    short = shortened(slm, context=min(CONTEXT, slm.model.context))
    model = dataclasses.replace(short.model, compute_dtype="float32")
    return dataclasses.replace(short, config=dataclasses.replace(short.config, model=model))


def _learned(config: Config) -> Config:
    """The settings of a model that was taught `<CALL>` at all facts."""
    return dataclasses.replace(config, objective=ObjectiveConfig(rule="factual", rate=1.0))


def _own_settings(slm: LoadedModel, config: Config, *, best: Ranking) -> Config:
    """The settings of the checkpoint: it calls by this ranking, at a price."""
    return dataclasses.replace(
        _learned(slm.config),
        name=f"{slm.config.name}-adapted",
        corpus=config.corpus,
        annotate=config.annotate,
        data=config.data,
        cascade=dataclasses.replace(config.cascade, score=best.score, gate=best.gate, policy="price"),
    )


def _save(model: LoadedModel, *, out: str, data: Fingerprint, call_scores: np.ndarray) -> None:
    meta = model_meta(
        model.config,
        tokenizer=model.tokenizer,
        step=model.step,
        data=data,
        call_scores=np.quantile(call_scores, np.linspace(0, 1, 201)).tolist(),
        factual_probe=model.factual_probe,
        chat=model.chat,
    )
    write_export(out, params=model.params, tokenizer=model.tokenizer, meta=meta)


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """Documents with the spans that the rule calls factual: to fit to, and to compare on; and those of the samples."""

    train: Marked
    held_out: Marked
    openings: list[Document]


def _documents(slm: LoadedModel, config: Config, *, count: int, reporter: Reporter) -> _Chosen:
    """`count` documents in a fixed random order; the samples' are held-out ones, too, from all of the corpus."""
    source = annotated_documents(config, tokenizer=slm.tokenizer, progress=reporter.update)
    found: dict[str, Marked] = {"train": [], "validation": []}
    for index in np.random.default_rng(0).permutation(len(source)).tolist():
        document, spans = source[index]
        found[split_of(document.id, validation_share=HELD_OUT)].append((document, spans))
    held_out = round(HELD_OUT * count)
    train, compared = (
        [(document, select_spans(spans, config.rule)) for document, spans in found[split][:most]]
        for split, most in (("train", count - held_out), ("validation", max(1, held_out)))
    )
    if not train or not compared:
        raise DataError(f"the corpus: {len(source)} documents are too few to fit to some and to compare on others")
    openings = worth_asking((document for document, _ in found["validation"]), config.corpus)
    return _Chosen(train, compared, openings[: config.cascade.samples])


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def stage(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name], self._last = now - self._last, now
