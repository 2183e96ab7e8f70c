"""Gathers what the report shows of a finished run: its log, held-out articles scored, and cascade samples."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from lacy_jax.cascade import Completion, open_cascade
from lacy_jax.checkpoints.loading import LoadedModel, load_model
from lacy_jax.config import Config, config_to_dict
from lacy_jax.console import Reporter
from lacy_jax.data.documents import Document, Spans
from lacy_jax.data.prepare import Prepared
from lacy_jax.evidence.pages.render import write_page
from lacy_jax.evidence.run_report.page import RunSummary, render_report
from lacy_jax.evidence.run_report.samples import article_scores, prompt_of
from lacy_jax.training.flops import parameter_count
from lacy_jax.training.metrics import read_metrics

ARTICLES = 40


def report_run(config: Config, *, prepared: Prepared, workdir: str, command: str, reporter: Reporter) -> str:
    """Writes `<workdir>/report.html` from the newest checkpoint; returns its path.

    A run on packed data without its documents gets a report without articles and samples.
    """
    loaded = load_model(workdir)
    documents: list[tuple[Document, Spans]] = []
    if prepared.annotated_directory.exists():
        documents = list(itertools.islice(prepared.validation_documents(), ARTICLES))
    reporter.update("report", 0, 3)
    articles = article_scores(loaded, documents)
    reporter.update("report", 1, 3)
    samples = _samples(config, loaded, [document for document, _ in documents])
    reporter.update("report", 2, 3)
    metrics = read_metrics(workdir)
    last: dict[str, Any] = next((row for row in reversed(metrics) if row["split"] == "train"), {})
    path = epath.Path(workdir) / "report.html"
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
        partner=config.cascade.partner,
        budget=config.cascade.budget,
    )
    write_page(str(path), page)
    reporter.update("report", 3, 3)
    return str(path)


def _samples(config: Config, loaded: LoadedModel, documents: Sequence[Document]) -> list[Completion]:
    """What the cascade writes after the openings of held-out documents."""
    settings = config.cascade
    if settings.partner == "none" or not documents or not settings.samples:
        return []
    cascade = open_cascade(loaded, settings, directory=config.data.directory, corpus=config.corpus)
    prompts = [prompt_of(document) for document in documents[: settings.samples]]
    return cascade.generate(prompts, max_new_tokens=settings.max_new_tokens)
