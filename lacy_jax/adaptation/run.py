"""From a pretrained model and marked documents to a checkpoint that knows when to ask, and its report."""

import dataclasses
import time
from pathlib import Path

import numpy as np

from lacy_jax.adaptation.fit import Ranking, fit_call_row, fit_probe, rankings, with_call_row
from lacy_jax.adaptation.states import read_states
from lacy_jax.cascade import Cascade, Completion, Partner
from lacy_jax.cascade.scores import CALL_SCORES
from lacy_jax.checkpoints.export import write_export
from lacy_jax.checkpoints.format import model_meta
from lacy_jax.checkpoints.loading import LoadedModel, shortened
from lacy_jax.config import Config, ObjectiveConfig, Policy, Score
from lacy_jax.console import Reporter
from lacy_jax.data.datasets import Fingerprint
from lacy_jax.data.documents import Document, Spans, split_of
from lacy_jax.data.factual import select_spans
from lacy_jax.data.prepare import annotated_documents, source_fingerprint
from lacy_jax.errors import DataError
from lacy_jax.evidence.reading import Reading, read_documents
from lacy_jax.evidence.run_report.samples import prompt_of
from lacy_jax.evidence.token_scores import TokenScores, scores_of

CONTEXT = 256  # tokens of a document that are read
HELD_OUT = 0.2  # share of the documents that nothing is fitted to; it holds the held-out ones of a smaller share
SCORES: tuple[Score, ...] = tuple(name for name, score in CALL_SCORES.items() if score.ranks_as is None)
UNCERTAINTY = "uncertainty"  # what a model's own scores are compared with

Marked = list[tuple[Document, Spans]]


@dataclasses.dataclass(frozen=True, eq=False)
class Adapted:
    """What came of it.

    model: what was saved.
    rankings: the ways to call, best first, the first of them its setting. readings, tokens: of the held-out documents
    that they were compared on. documents: how many were read to fit. fitted: targets fitted to.
    samples: (alone, in the cascade) for each prompt. seconds: wall time by stage.
    """

    model: LoadedModel
    rankings: list[Ranking]
    readings: list[Reading]
    tokens: TokenScores
    documents: int
    fitted: int
    samples: list[tuple[Completion, Completion]]
    seconds: dict[str, float]


def adapt(
    slm: LoadedModel, partner: Partner | None, config: Config, *, documents: int, out: str, reporter: Reporter
) -> Adapted:
    """Fits the probe for facts and the row of `<CALL>` to `documents` documents, and saves a checkpoint at `out`.

    Args:
        slm: any model; its weights stay. partner: writes the samples. config: its sections corpus, annotate, data and
            cascade are used.

    Raises:
        DataError: the corpus cannot be read, or has too few documents.
        CheckpointError, StorageError: `out` cannot be written.
    """
    clock = _Clock()
    train, held_out = _documents(slm, config, count=documents, reporter=reporter)
    clock.stage("mark")
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
    own = _own_settings(slm, config, best=ranked[0])
    model = with_call_row(dataclasses.replace(slm, config=own, factual_probe=probe, family=""), call_row)
    _save(model, out=out, data=source_fingerprint(config), call_scores=tokens.scores["call_score"])
    clock.stage("save")
    openings = [prompt_of(document) for document, _ in held_out[: config.cascade.samples]]
    samples = _samples(model, partner, openings, reporter=reporter)
    clock.stage("samples")
    return Adapted(
        model=model,
        rankings=ranked,
        readings=readings,
        tokens=tokens,
        documents=len(train),
        fitted=len(states.wrong),
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
    """The settings of the checkpoint: it calls by the best ranking, at a price where that stands for a probability."""
    policy: Policy = "quantile" if CALL_SCORES[best.score].threshold is None else "price"
    return dataclasses.replace(
        _learned(slm.config),
        name=f"{slm.config.name}-adapted",
        corpus=config.corpus,
        annotate=config.annotate,
        data=config.data,
        cascade=dataclasses.replace(config.cascade, score=best.score, gate=best.gate, policy=policy),
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


def _documents(slm: LoadedModel, config: Config, *, count: int, reporter: Reporter) -> tuple[Marked, Marked]:
    """Documents to fit and to compare on, in a fixed random order, each with the spans that the rule calls factual."""
    source = annotated_documents(config, tokenizer=slm.tokenizer, progress=reporter.update)
    found: dict[str, Marked] = {"train": [], "validation": []}
    wanted = {"train": count - round(HELD_OUT * count), "validation": max(1, round(HELD_OUT * count))}
    for index in np.random.default_rng(0).permutation(len(source)).tolist():
        document, spans = source[index]
        split = split_of(document.id, validation_share=HELD_OUT)
        if len(found[split]) < wanted[split]:
            found[split].append((document, select_spans(spans, config.rule)))
        if all(len(found[split]) == wanted[split] for split in found):
            break
    if not all(found.values()):
        raise DataError(f"the corpus: {len(source)} documents are too few to fit to some and to compare on others")
    return found["train"], found["validation"]


def _samples(
    model: LoadedModel, partner: Partner | None, prompts: list[str], *, reporter: Reporter
) -> list[tuple[Completion, Completion]]:
    """What the model writes after the openings of documents, alone and in the cascade."""
    if not prompts:
        return []
    written = []
    for number, asked in enumerate((None, partner)):
        reporter.update("samples", number, 2)
        written.append(Cascade(model, asked).generate(prompts, batch_size=len(prompts)))
    return list(zip(*written, strict=True))


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def stage(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name], self._last = now - self._last, now
