"""Gathers what the report shows of a finished run: its log, held-out articles scored, and cascade samples."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
from absl import logging

from lacy_jax.cascade import Cascade, Completion
from lacy_jax.cascade.partners import Partner, make_partner
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import Config
from lacy_jax.config_dict import config_to_dict
from lacy_jax.console import Reporter
from lacy_jax.data.documents import Document, Spans
from lacy_jax.data.prepared import Prepared
from lacy_jax.errors import LacyError
from lacy_jax.evidence.pages.render import write_page
from lacy_jax.evidence.run_report.page import RunSummary, render_report
from lacy_jax.evidence.run_report.samples import article_scores, prompt_of
from lacy_jax.paths import absolute
from lacy_jax.training.flops import parameter_count
from lacy_jax.training.metrics import read_metrics

ARTICLES = 40


def report_run(config: Config, *, prepared: Prepared, workdir: str, command: str, reporter: Reporter) -> str:
    """Writes `<workdir>/report.html` from the newest checkpoint; returns its path.

    A run on packed data without its documents gets a report without articles and samples. Where the cascade fails, the
    report says so in place of its samples.
    """
    loaded = load_model(workdir)
    documents: list[tuple[Document, Spans]] = []
    if prepared.has_documents:
        documents = list(itertools.islice(prepared.validation_documents(), ARTICLES))
    reporter.update("report", 0, 3)
    articles = article_scores(loaded, documents)
    reporter.update("report", 1, 3)
    samples, why = _samples_or_why(
        config, loaded, prepared=prepared, documents=[document for document, _ in documents], reporter=reporter
    )
    reporter.update("report", 2, 3)
    metrics = read_metrics(workdir)
    last: dict[str, Any] = next((row for row in reversed(metrics) if row["split"] == "train"), {})
    path = absolute(workdir) / "report.html"
    page = render_report(
        summary=RunSummary(
            name=config.name,
            method=config.method,
            parameters=parameter_count(loaded.model, vocab=loaded.params["embedding"]["embedding"].shape[0]),
            steps=loaded.step,
            tokens=last.get("tokens", 0),
            seconds=last.get("seconds", 0.0),
            device=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            command=command,
            config=config_to_dict(config),
            provenance={"versions": ", ".join(f"{name} {version}" for name, version in loaded.versions.items())},
        ),
        metrics=metrics,
        articles=articles,
        samples=samples,
        samples_missing=why,
        partner=config.cascade.partner,
        budget=config.cascade.budget,
    )
    write_page(str(path), page)
    reporter.update("report", 3, 3)
    return str(path)


def make_sample_partner(config: Config, *, prepared: Prepared) -> Partner | None:
    """Who answers in the report's samples; None where there will be none.

    Raises:
        PartnerError, DataError, CheckpointError: it cannot be made.
    """
    settings = config.cascade
    if not settings.samples or not prepared.has_documents:
        return None
    return make_partner(
        settings.partner,
        corpus=config.corpus,
        directory=config.data.directory,
        span=settings.span,
        timeout=settings.timeout,
    )


def _samples_or_why(
    config: Config, loaded: LoadedModel, *, prepared: Prepared, documents: Sequence[Document], reporter: Reporter
) -> tuple[list[Completion], str]:
    """The samples, or why there are none: a training that is finished gets its report."""
    try:
        return _samples(config, loaded, prepared=prepared, documents=documents), ""
    except Exception as error:  # whatever a partner raises
        if not isinstance(error, LacyError):
            logging.exception("the samples of the report")
        why = f"{type(error).__name__}: {error}"
        reporter.say(f"report without samples of the cascade: {why}")
        return [], why


def _samples(
    config: Config, loaded: LoadedModel, *, prepared: Prepared, documents: Sequence[Document]
) -> list[Completion]:
    """What the cascade writes after the openings of held-out documents."""
    # The run's own settings, not those of the checkpoint that it may have gone on from: files may lie elsewhere now.
    partner = make_sample_partner(config, prepared=prepared) if documents else None
    if partner is None:
        return []
    cascade = Cascade(dataclasses.replace(loaded, config=config), partner)
    return cascade.generate([prompt_of(document) for document in documents[: config.cascade.samples]])
