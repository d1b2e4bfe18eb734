"""Spans of requests: what they say, whose they are, where they go."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from polyrank import Reranker
from polyrank.errors import MissingDependencyError
from polyrank.server.traces import Traces, open_traces
from server.conftest import DOCUMENTS, QUERY, Client

BODY = {"model": "m", "query": QUERY, "documents": DOCUMENTS}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
VARIABLES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def traced(serving: Callable[..., Client], reranker: Reranker) -> Client:
    """A server whose spans stay in memory."""
    client = serving(reranker)
    provider, client.spans = TracerProvider(), InMemorySpanExporter()  # type: ignore[attr-defined]
    provider.add_span_processor(SimpleSpanProcessor(client.spans))  # type: ignore[attr-defined]
    client.service.traces = Traces(provider)
    return client


def spans(client: Any) -> tuple[ReadableSpan, ...]:
    return client.spans.get_finished_spans()


def test_a_request_is_a_span_with_its_parts_inside(traced: Client) -> None:
    before = time.time_ns()
    r = traced.post("/v2/rerank", BODY, headers={"x-request-id": "mine"})
    assert r.status_code == 200
    *parts, whole = spans(traced)
    assert (whole.name, whole.kind, whole.parent) == ("POST /v2/rerank", SpanKind.SERVER, None)
    facts = dict(whole.attributes or {})
    assert facts.pop("polyrank.tokens") > len(DOCUMENTS)
    assert facts == {
        "http.request.method": "POST",
        "http.route": "/v2/rerank",
        "http.response.status_code": 200,
        "polyrank.request_id": "mine",
        "polyrank.dialect": "cohere",
        "polyrank.pairs": len(DOCUMENTS),
        "polyrank.truncated": 0,
        "polyrank.cached": 0,
    }
    assert [part.name for part in parts] == ["tokenize", "queue", "forward"]
    moments = [whole.start_time, *(m for p in parts for m in (p.start_time, p.end_time))]
    moments = [m or 0 for m in [*moments, whole.end_time]]
    assert moments == sorted(moments)
    assert before <= moments[0]
    assert moments[-1] <= time.time_ns()
    for part in parts:
        assert part.parent is not None
        assert part.parent.span_id == whole.context.span_id  # type: ignore[union-attr]


def test_a_request_belongs_to_the_trace_of_its_client(traced: Client) -> None:
    for flag in ("01", "00"):
        header = {"traceparent": f"00-{TRACE}-{PARENT}-{flag}"}
        assert traced.post("/v2/rerank", BODY, headers=header).status_code == 200
    assert len(spans(traced)) == 4  # the client does not want the second one kept
    whole = spans(traced)[-1]
    assert whole.parent is not None
    assert (f"{whole.parent.trace_id:032x}", f"{whole.parent.span_id:016x}") == (TRACE, PARENT)
    traced.post("/v2/rerank", BODY, headers={"traceparent": "nonsense"})
    assert spans(traced)[-1].parent is None


def test_a_request_without_scores_says_why(traced: Client) -> None:
    traced.post("/rerank", {"query": "w1", "texts": []})
    traced.service.draining = True
    traced.post("/rerank", {"query": "w1", "texts": ["w2"]})
    traced.get("/health")
    wrong, refused = spans(traced)  # and nothing of probes
    told = [
        (s.attributes["error.type"], s.attributes["http.response.status_code"], s.status.is_ok)  # type: ignore[index]
        for s in (wrong, refused)
    ]
    assert told == [("empty", 400, True), ("unavailable", 503, False)]  # the first is the client's


def test_no_texts_and_no_keys_are_in_spans(
    serving: Callable[..., Client], reranker: Reranker, traced: Client
) -> None:
    traced.post("/v2/rerank", BODY, headers={"authorization": "Bearer hidden"})
    said = "".join(span.to_json() for span in spans(traced))
    assert QUERY not in said
    assert DOCUMENTS[1] not in said
    assert "hidden" not in said


def test_a_server_that_traces_nothing_loads_nothing() -> None:
    code = "import polyrank.server.run, sys; sys.exit('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert open_traces(None) is None


def test_packages_that_are_missing_are_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "polyrank\[otel\]"'):
        open_traces("http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    assert open_traces(None) is None  # it may be meant for other programs
    assert 'pip install "polyrank[otel]"' in caplog.text


class _Collector(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((self.path, body))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Any]:
    with HTTPServer(("127.0.0.1", 0), _Collector) as server:
        server.received = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("variable", [None, *VARIABLES])
def test_spans_are_sent_to_the_endpoint_when_the_server_ends(
    variable: str | None, collector: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    if variable is not None:
        traces_only = variable.endswith("TRACES_ENDPOINT")
        monkeypatch.setenv(variable, endpoint + "/v1/traces" * traces_only)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "search")
    traces = open_traces(endpoint if variable is None else None)
    assert traces is not None
    row = {"method": "POST", "path": "/rerank", "status": 200}
    traces.answered({}, row, began=time.perf_counter(), times=None)
    traces.close()
    ((path, body),) = collector.received
    assert path == "/v1/traces"
    (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
    names = {a.key: a.value.string_value for a in resource.resource.attributes}
    assert names["service.name"] == ("polyrank" if variable is None else "search")
    assert resource.scope_spans[0].spans[0].name == "POST /rerank"
