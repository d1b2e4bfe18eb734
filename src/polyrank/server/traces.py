"""A span of each request and its parts, for OpenTelemetry, which a server that sends none does not
load. Knows no dialect."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from polyrank.errors import MissingDependencyError
from polyrank.server.scored import Times

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["Traces", "open_traces"]

_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_NAMES = {  # a log line's fields that a span has too, the first four as OpenTelemetry calls them
    "method": "http.request.method",
    "path": "http.route",
    "status": "http.response.status_code",
    "problem": "error.type",
    "request_id": "polyrank.request_id",
    "dialect": "polyrank.dialect",
    "pairs": "polyrank.pairs",
    "tokens": "polyrank.tokens",
    "truncated": "polyrank.truncated",
    "cached": "polyrank.cached",
}
_CLOSE_SECONDS = 3.0
_INSTALL = 'pip install "polyrank[otel]"'
_log = logging.getLogger(__name__)


def open_traces(endpoint: str | None) -> Traces | None:
    """What sends spans to `endpoint`, or where OpenTelemetry's own variables say; None: nowhere.

    Raises MissingDependencyError for an endpoint where the packages are not installed. The
    variables may be meant for other programs, and get a warning then.
    """
    if endpoint is None and not any(os.environ.get(name) for name in _VARIABLES):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        if endpoint is None:
            _log.warning("spans are not sent: they need %s", _INSTALL)
            return None
        raise MissingDependencyError(
            f"expected OpenTelemetry's packages for otlp_endpoint, but {error.name} is not "
            f"installed; install them with: {_INSTALL}"
        ) from error
    url = f"{endpoint.rstrip('/')}/v1/traces" if endpoint else None
    resource = Resource.create()  # reads OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "polyrank"}))
    provider = TracerProvider(resource=resource)
    exporter = OTLPSpanExporter(endpoint=url)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Traces(provider, give_up=exporter.shutdown)


class Traces:
    """Makes spans of requests that are over.

    `give_up` ends attempts to send.
    """

    def __init__(
        self, provider: TracerProvider, *, give_up: Callable[[], None] = lambda: None
    ) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._give_up = give_up
        self._tracer = provider.get_tracer("polyrank", version("polyrank"))
        self._parent = TraceContextTextMapPropagator()

    def close(self) -> None:
        """Send what is not sent yet, unless the collector is away."""
        timer = threading.Timer(_CLOSE_SECONDS, self._give_up)
        timer.daemon = True
        timer.start()
        self._provider.shutdown()
        timer.cancel()

    def answered(
        self, headers: Mapping[str, str], row: Mapping[str, Any], *, began: float,
        times: Times | None,
    ) -> None:  # fmt: skip
        """Record a request that is over now.

        headers: with `traceparent`, whose trace this becomes a part of.
        row: its log line.
        began: on the clock of `time.perf_counter`.
        times: of its parts, which become spans within; None: it got no scores.
        """
        from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

        zero = time.time_ns() - time.perf_counter_ns()

        def moment(seconds: float) -> int:
            return zero + int(seconds * 1e9)

        span = self._tracer.start_span(
            f"{row['method']} {row['path']}",
            context=self._parent.extract(headers),
            kind=SpanKind.SERVER,
            attributes={n: row[key] for key, n in _NAMES.items() if row.get(key) is not None},
            start_time=moment(began),
        )
        if times is not None:
            inside, at = set_span_in_context(span), times.began
            for part in ("tokenize", "queue", "forward"):
                child = self._tracer.start_span(part, context=inside, start_time=moment(at))
                at += getattr(times, part)
                child.end(moment(at))
        if row["status"] >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()
