"""What is counted and timed, in Prometheus' text format; TEI's names for the same, beside ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from polyrank.server.scored import Scored

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKENS = tuple(1 << n for n in range(4, 19))


class Metrics:
    """One server's numbers. Nothing is shared with another server of the process."""

    def __init__(self) -> None:
        own: dict[str, Any] = {"registry": CollectorRegistry()}
        self.registry = own["registry"]
        self._requests = Counter(
            "polyrank_requests", "Requests answered.", ["dialect", "path", "status"], **own
        )
        self._errors = Counter(
            "polyrank_errors", "Requests without scores, by why.", ["dialect", "kind"], **own
        )
        self._seconds = Histogram(
            "polyrank_request_seconds", "From the first byte of a request to its answer.",
            buckets=_SECONDS, **own,
        )  # fmt: skip
        self._stages = {
            stage: Histogram(f"polyrank_{stage}_seconds", text, buckets=_SECONDS, **own)
            for stage, text in (
                ("tokenize", "Of a request: tokenising."),
                ("queue", "Of a request: until its first batch began."),
                ("forward", "Of a request: from its first batch to its last."),
            )
        }
        self._pairs = Counter("polyrank_pairs", "Pairs scored.", **own)
        self._tokens = Counter("polyrank_tokens", "Tokens of the pairs scored.", **own)
        self._truncated = Counter("polyrank_truncated_pairs", "Pairs that were cut.", **own)
        self._cached = Counter(
            "polyrank_cache_hits", "Pairs whose score was known, and not computed.", **own
        )
        self._batch_tokens = Histogram(
            "polyrank_batch_tokens", "Tokens of a forward pass.", buckets=_TOKENS, **own
        )
        self._batch_seconds = Histogram(
            "polyrank_batch_seconds", "Seconds of a forward pass.", buckets=_SECONDS, **own
        )
        self.requests_under_way = Gauge("polyrank_requests_under_way", "Requests now.", **own)
        self.queue_tokens = Gauge("polyrank_queue_tokens", "Tokens that wait.", **own)
        self.queue_pairs = Gauge("polyrank_queue_pairs", "Pairs that wait.", **own)
        self.ready = Gauge("polyrank_ready", "1 while requests are answered.", **own)
        self.cache_pairs = Gauge("polyrank_cache_pairs", "Scores kept in memory.", **own)
        self._max_batch_tokens = Gauge(
            "polyrank_max_batch_tokens", "Most tokens of a forward pass.", **own
        )
        self._model = Info("polyrank_model", "What is served.", **own)
        self.registry.register(_TeiNames(self))

    def model(self, *, max_batch_tokens: int, **facts: str) -> None:
        """Say what is served."""
        self._model.info(facts)
        self._max_batch_tokens.set(max_batch_tokens)

    def answered(self, dialect: str, path: str, status: int, kind: str | None, s: float) -> None:
        """Count a request that is over; `kind`: why it got no scores."""
        self._requests.labels(dialect, path, str(status)).inc()
        if kind is not None:
            self._errors.labels(dialect, kind).inc()
        self._seconds.observe(s)

    def scored(self, scored: Scored) -> None:
        """Count a request's pairs."""
        self._pairs.inc(len(scored.logits))
        self._tokens.inc(scored.total_tokens)
        self._truncated.inc(scored.truncated)
        self._cached.inc(scored.cached)
        for stage, histogram in self._stages.items():
            histogram.observe(getattr(scored.times, stage))

    def batch(self, tokens: int, seconds: float) -> None:
        """Count a forward pass."""
        self._batch_tokens.observe(tokens)
        self._batch_seconds.observe(seconds)

    def text(self) -> str:
        """All of it."""
        return generate_latest(self.registry).decode()

    def mirrored(self) -> Iterator[tuple[str, Metric]]:
        """TEI's name for a histogram or gauge of ours, and what it holds."""
        for name, own in (
            ("te_request_duration", self._seconds),
            ("te_request_tokenization_duration", self._stages["tokenize"]),
            ("te_request_queue_duration", self._stages["queue"]),
            ("te_request_inference_duration", self._stages["forward"]),
            ("te_batch_next_tokens", self._batch_tokens),
            ("te_queue_size", self.queue_pairs),
        ):
            yield from ((name, metric) for metric in own.collect())

    def counted(self) -> Iterator[tuple[str, str, str, float]]:
        """TEI's name for a counter, its label, the label's value, and the count."""
        requests = [s for m in self._requests.collect() for s in m.samples if "status" in s.labels]
        requests = [s for s in requests if s.name.endswith("_total")]
        fine = [s for s in requests if int(s.labels["status"]) < 400]
        yield "te_request_count", "method", "batch", sum(s.value for s in requests)
        yield "te_request_success", "method", "batch", sum(s.value for s in fine)
        for metric in self._errors.collect():
            for sample in metric.samples:
                if sample.name.endswith("_total"):
                    yield "te_request_failure", "err", sample.labels["kind"], sample.value


class _TeiNames(Collector):
    """The same numbers under the names that dashboards for TEI look for."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for name, own in self._metrics.mirrored():
            metric = Metric(name, own.documentation, own.type)
            for sample in own.samples:
                if not sample.name.endswith("_created"):
                    suffix = sample.name.removeprefix(own.name)
                    metric.add_sample(name + suffix, sample.labels, sample.value)
            yield metric
        families: dict[str, Metric] = {}
        for name, label, value, count in self._metrics.counted():
            family = families.setdefault(name, Metric(name, "As TEI counts.", "unknown"))
            family.add_sample(name, {label: value}, count)
        yield from families.values()
