"""What Prometheus reads at /metrics, in a registry of its own."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from lacy_jax.cascade import Counts, Piece

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Measured(Protocol):
    """A partner that counts. `statistics`: a dataclass of numbers that only grow; `reasons`: failures by reason."""

    @property
    def statistics(self) -> Any: ...

    @property
    def reasons(self) -> Mapping[str, int]: ...


class Metrics:
    """Counters and histograms of a server."""

    def __init__(self, *, partner: Measured | None = None):
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("lacy_requests", "Answers of HTTP", ["route", "status"], **own)
        self.interrupted = Counter("lacy_interrupted", "Completions that did not end by themselves", ["reason"], **own)
        self._prompt_tokens = Counter("lacy_prompt_tokens", "SLM tokens of prompts", **own)
        self._tokens = Counter("lacy_tokens", "SLM tokens written", ["source"], **own)
        self._calls = Counter("lacy_calls", "Questions to the partner, of finished choices", **own)
        self._unanswered = Counter("lacy_calls_unanswered", "Those that it left unanswered", **own)
        histogram = {"buckets": _SECONDS, **own}
        self._first_piece = Histogram("lacy_first_piece_seconds", "From request to first piece", **histogram)
        self._latency = Histogram("lacy_completion_seconds", "From request to the end of its answer", **histogram)
        for source in ("slm", "partner"):
            self._tokens.labels(source)
        ProcessCollector(registry=self.registry)
        if partner is not None:
            self.registry.register(_PartnerCollector(partner))

    def gauge(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        """A gauge that is read when Prometheus asks."""
        Gauge(name, help_text, registry=self.registry).set_function(value)

    def count_prompt(self, tokens: int) -> None:
        self._prompt_tokens.inc(tokens)

    def count_piece(self, piece: Piece) -> None:
        self._tokens.labels(piece.source).inc(piece.tokens)

    def count_choice(self, counts: Counts) -> None:
        self._calls.inc(counts.calls)
        self._unanswered.inc(counts.fallbacks)

    def time_first_piece(self, seconds: float) -> None:
        self._first_piece.observe(seconds)

    def time_completion(self, seconds: float) -> None:
        self._latency.observe(seconds)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


class _PartnerCollector:
    """lacy_partner_*_total, as the partner counts."""

    def __init__(self, partner: Measured):
        self._partner = partner

    def collect(self) -> Iterator[Metric]:
        for name, value in dataclasses.asdict(self._partner.statistics).items():
            yield CounterMetricFamily(f"lacy_partner_{name}", f"The partner's {name}", value=float(value))
        reasons = CounterMetricFamily("lacy_partner_unanswered", "Texts that it left so, by reason", labels=["reason"])
        for reason, texts in self._partner.reasons.items():
            reasons.add_metric([reason], float(texts))
        yield reasons
