"""One engine for all requests: shared batches, a bounded queue, deadlines, priorities, death."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import numpy as np
import numpy.typing as npt
import pytest
from anyio.from_thread import BlockingPortal

from polyrank import Reranker
from polyrank.errors import BackendError
from polyrank.server.app import build_app
from polyrank.values import Batch
from server.conftest import DOCUMENTS, QUERY, Client
from server.test_errors import GOOD, PATHS, form

BODY = {"model": "m", "query": QUERY, "documents": DOCUMENTS}


class Gate:
    """What stands before a model's forward passes."""

    def __init__(self, reranker: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
        backend = reranker._engine._backend
        self._forward = backend.forward
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.error: BaseException | None = None
        self.batches: list[list[int]] = []
        monkeypatch.setattr(backend, "forward", self.forward)

    def forward(self, batch: Batch, *, all_threads: bool = True) -> npt.NDArray[np.float32]:
        self.entered.set()
        assert self.open.wait(20)
        if self.error is not None:
            raise self.error
        self.batches.append(batch.lengths.tolist())
        return self._forward(batch, all_threads=all_threads)

    def close(self) -> None:
        self.entered.clear()
        self.open.clear()


@pytest.fixture
def own(tiny_model: Any) -> Iterator[Reranker]:
    """A model of the test's own, with a small queue."""
    with Reranker(tiny_model, max_queue_tokens=200) as reranker:
        yield reranker


@pytest.fixture
def gate(own: Reranker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(own, monkeypatch)
    yield gate
    gate.open.set()


def eventually(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


def hold(client: Client, gate: Gate, own: Reranker, path: str = "/v2/rerank") -> Any:
    """A request whose batch is under way, and does not end."""
    gate.close()
    request = client.start(path, GOOD[path])
    assert gate.entered.wait(20)
    eventually(lambda: own.health().queued_tokens == 0)
    return request


def test_requests_of_all_connections_share_batches(
    serving: Callable[..., Client], own: Reranker, gate: Gate
) -> None:
    client = serving(own)
    held = hold(client, gate, own)
    before = len(gate.batches)
    others = [client.start(p, GOOD[p]) for p in ("/rerank", "/v1/rerank", "/infinity/rerank")]
    eventually(lambda: own.health().queued_pairs == 12)
    gate.open.set()
    assert all(r.result(20).status_code == 200 for r in [held, *others])
    assert [len(batch) for batch in gate.batches[before:]] == [4, 12]


@pytest.mark.parametrize("path", PATHS)
def test_a_full_queue_is_429_with_a_time_to_wait(
    serving: Callable[..., Client], own: Reranker, gate: Gate, path: str
) -> None:
    client = serving(own, max_queue_tokens=200)
    held = hold(client, gate, own)
    waiting = client.start("/v2/rerank", {**BODY, "documents": ["w1 w2 " * 85]})
    eventually(lambda: own.health().queued_tokens > 170)
    long = {**BODY, "documents": DOCUMENTS}
    refused = client.post("/v2/rerank", long)  # not admitted by the engine
    assert (refused.status_code, int(refused.headers["retry-after"])) == (429, 1)
    more = client.start("/v2/rerank", {**BODY, "documents": ["w3"]})
    eventually(lambda: own.health().queued_pairs == 2)
    client.service.settings.__dict__["max_queue_tokens"] = 180  # not even read
    r = client.post(path, GOOD[path])
    assert (r.status_code, int(r.headers["retry-after"]) >= 1) == (429, True)
    assert form(path, r)
    gate.open.set()
    assert [f.result(20).status_code for f in (held, waiting, more)] == [200] * 3
    assert client.post(path, GOOD[path]).status_code == 200


def test_only_so_many_requests_are_under_way(
    serving: Callable[..., Client], own: Reranker, gate: Gate
) -> None:
    client = serving(own, max_requests=1)
    held = hold(client, gate, own)
    assert client.post("/v2/rerank", BODY).status_code == 429
    gate.open.set()
    assert held.result(20).status_code == 200
    assert client.post("/v2/rerank", BODY).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_a_request_that_takes_too_long_is_504_and_leaves_the_queue(
    serving: Callable[..., Client], own: Reranker, gate: Gate, path: str
) -> None:
    client = serving(own, request_timeout_seconds=0.2)
    held = hold(client, gate, own)
    r = client.post(path, GOOD[path])
    assert r.status_code == 504
    assert form(path, r)
    assert held.result(20).status_code == 504
    assert own.health().queued_tokens == 0


def test_a_client_that_leaves_frees_the_queue(
    serving: Callable[..., Client], own: Reranker, gate: Gate, portal: BlockingPortal
) -> None:
    client = serving(own)
    held = hold(client, gate, own)
    app = build_app(client.service)
    left = threading.Event()
    sent: list[Any] = []
    body = b'{"model":"m","query":"w1","documents":["w20","w30"]}'
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        while not left.is_set():
            await anyio.sleep(0.005)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v2/rerank", "raw_path": b"/v2/rerank",
        "query_string": b"", "headers": [], "client": ("test", 1), "server": ("test", 1),
        "scheme": "http", "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0"},
    }  # fmt: skip
    request = portal.start_task_soon(app, scope, receive, send)
    eventually(lambda: own.health().queued_pairs == 2)
    left.set()
    request.result(20)
    assert (sent, own.health().queued_pairs, client.service.under_way) == ([], 0, 1)
    gate.open.set()
    assert held.result(20).status_code == 200


def test_the_less_urgent_wait_for_the_more_urgent(
    serving: Callable[..., Client], own: Reranker, gate: Gate
) -> None:
    client = serving(own)
    held = hold(client, gate, own)
    lazy = client.start("/v2/rerank", {**BODY, "priority": 5, "documents": ["w1 w2 w3"]})
    eventually(lambda: client.service._turnstile.waiting_tokens > 0)
    urgent = client.start("/v2/rerank", {**BODY, "documents": ["w4"]})
    eventually(lambda: own.health().queued_pairs == 1)
    gate.open.set()
    assert [f.result(20).status_code for f in (held, lazy, urgent)] == [200] * 3
    lengths = [length for batch in gate.batches for length in batch]
    assert lengths[-1] == max(lengths[-2:])  # the lazy one's, and it is longer


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("path", PATHS)
def test_a_dead_engine_is_503_and_health_is_red(
    serving: Callable[..., Client], own: Reranker, gate: Gate, path: str
) -> None:
    client = serving(own)
    assert client.get("/health").status_code == client.get("/live").status_code == 200
    gate.error = SystemExit()  # which no thread survives
    for _ in range(2):  # under way when it dies, and after
        r = client.post(path, GOOD[path])
        assert (r.status_code, r.headers["retry-after"]) == (503, "1")
        assert form(path, r)
    assert client.get("/health").status_code == client.get("/live").status_code == 503
    assert client.get("/infinity/health").status_code == 503
    assert "polyrank_ready 0.0" in client.get("/metrics").text


def test_a_network_without_numbers_is_an_error_of_ours(
    serving: Callable[..., Client], own: Reranker, gate: Gate
) -> None:
    client = serving(own)
    gate.error = BackendError("NaN for 1 of 4 pairs")
    tei = client.post("/rerank", GOOD["/rerank"])
    assert (tei.status_code, tei.json()["error_type"]) == (424, "Backend")
    assert client.post("/v2/rerank", BODY).status_code == 500
    gate.error = ValueError("a bug, with secrets in its message")
    r = client.post("/v2/rerank", BODY)
    assert (r.status_code, r.json()["message"]) == (500, "internal error")
    gate.error = None
    assert client.post("/v2/rerank", BODY).status_code == 200


def test_while_draining_new_requests_are_refused_and_those_under_way_end(
    serving: Callable[..., Client], own: Reranker, gate: Gate
) -> None:
    client = serving(own)
    held = hold(client, gate, own)
    client.service.draining = True
    r = client.post("/v2/rerank", BODY)
    assert (r.status_code, r.headers["connection"]) == (503, "close")
    assert client.get("/health").status_code == 503
    assert client.get("/live").status_code == 200
    gate.open.set()
    assert held.result(20).status_code == 200


def test_a_known_score_is_not_computed_again(
    serving: Callable[..., Client], own: Reranker, gate: Gate
) -> None:
    client = serving(own, cache_pairs=6)
    first = client.post("/v2/rerank", BODY).json()
    before = len(gate.batches)
    second = client.post("/v2/rerank", {**BODY, "documents": [*DOCUMENTS, "w9"]}).json()
    assert [len(b) for b in gate.batches[before:]] == [1]
    scores = {row["index"]: row["relevance_score"] for row in second["results"]}
    for row in first["results"]:
        assert scores[row["index"]] == row["relevance_score"]
    assert second["meta"]["tokens"]["input_tokens"] > first["meta"]["tokens"]["input_tokens"]
    metrics = client.get("/metrics").text
    assert "polyrank_cache_hits_total 4.0" in metrics
    assert "polyrank_cache_pairs 5.0" in metrics
    client.post("/v2/rerank", {**BODY, "max_tokens_per_doc": 1})
    assert len(gate.batches) == before + 2  # other limits, other scores
