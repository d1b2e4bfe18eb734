"""What breaks around a server, and inside of it: each time the others are served on."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest

from polyrank import Reranker
from server import faulty
from server.process import BODY, SLOW, Server, clients, scores_of
from server.test_errors import GOOD, PATHS, form

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

LARGE = {"query": "w1", "documents": ["w2" + " " * 1_200_000] * 8}  # of few tokens
FAULTY = {"program": (faulty.__file__,)}


@pytest.fixture(scope="module")
def scores(reranker: Reranker) -> list[float]:
    """What the model says of BODY, computed offline."""
    return [float(s) for s in reranker.score([(BODY["query"], d) for d in BODY["documents"]])]


def with_word(word: str) -> dict[str, Any]:
    return {**BODY, "documents": [*BODY["documents"], word]}


def descriptors(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def request_bytes(path: str, body: Any, *lines: str) -> bytes:
    data = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {len(data)}", *lines, "", ""]
    return "\r\n".join(head).encode() + data


def test_a_killed_server_starts_again_on_its_port(
    started: Callable[..., Server], scores: list[float]
) -> None:
    first = started()
    with clients(first, 4) as seen:
        first.eventually(lambda: len(seen) > 20)
        first.process.kill()
        assert first.wait() == -signal.SIGKILL
        second = started("--port", str(first.address[1]))
        lost = len(seen)
        second.eventually(lambda: len(seen) > lost + 20)
    assert second.address == first.address
    answers = [r for r in seen if isinstance(r, httpx.Response)]
    assert isinstance(seen[-1], httpx.Response)
    # While it loads it says so; no answer is half an answer.
    assert {r.status_code for r in answers} <= {200, 503}
    for r in answers:
        if r.status_code == 200:
            assert scores_of(r) == pytest.approx(scores, abs=1e-5)


def test_a_dead_worker_turns_health_red_within_a_second(started: Callable[..., Server]) -> None:
    server = started(**FAULTY)
    for path in PATHS:
        assert server.http.post(path, json=GOOD[path]).status_code == 200
    deadly = with_word(faulty.ENDS_THE_WORKER)
    assert server.http.post("/v2/rerank", json=deadly).status_code == 503
    server.eventually(lambda: server.http.get("/health").status_code == 503, seconds=1)
    assert server.http.get("/live").status_code == 503
    for path in PATHS:
        r = server.http.post(path, json=GOOD[path])
        assert (r.status_code, r.headers["retry-after"]) == (503, "1")
        assert form(path, r)
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    rows = [json.loads(line) for line in server.log]  # all of them, dying threads' too
    assert [r for r in rows if "a worker ends" in r.get("traceback", "")]


@pytest.mark.parametrize("word", [faulty.RAISES, faulty.GIVES_NAN, faulty.BREAKS_THE_TOKENIZER])
def test_a_request_that_breaks_the_model_fails_alone(
    started: Callable[..., Server], scores: list[float], word: str
) -> None:
    server = started(**FAULTY)
    with clients(server, 8) as seen:
        for path in ("/v2/rerank", "/v1/rerank", "/vllm/rerank"):
            for _ in range(5):
                r = server.http.post(path, json=with_word(word))
                assert r.status_code == 500
                assert form(path, r)
                assert "pass broke" not in r.text  # that is for the log
                assert "tokenizer broke" not in r.text
        server.eventually(lambda: len(seen) > 50)
    for r in seen:
        assert isinstance(r, httpx.Response)
        assert r.status_code == 200
        assert scores_of(r) == pytest.approx(scores, abs=1e-5)
    assert server.http.get("/health").status_code == 200


def test_clients_that_come_back_after_429_lose_nothing(
    started: Callable[..., Server], reranker: Reranker
) -> None:
    server = started("--max-queue-tokens", "3000", "--max-requests", "12")
    bodies = [
        {"model": "m", "query": f"w{10 + n}", "documents": [f"w{n + i} " * 50 for i in range(30)]}
        for n in range(40)
    ]
    answers: list[httpx.Response] = [httpx.Response(0)] * len(bodies)
    waits: list[int] = []

    def ask(n: int) -> None:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            while (r := http.post("/v2/rerank", json=bodies[n])).status_code == 429:
                waits.append(int(r.headers["retry-after"]))
                time.sleep(0.1)
            answers[n] = r

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert waits
    assert all(1 <= seconds <= 60 for seconds in waits)
    for body, r in zip(bodies, answers, strict=True):
        expected = reranker.score([(body["query"], d) for d in body["documents"]])
        assert r.status_code == 200
        assert scores_of(r) == pytest.approx(list(expected), abs=1e-5)
    assert server.metric("polyrank_queue_tokens") == 0


def test_a_client_that_stalls_in_its_body_holds_up_nobody(
    started: Callable[..., Server], scores: list[float]
) -> None:
    server = started("--receive-timeout-seconds", "30", "--max-requests", "8")
    half = request_bytes("/v2/rerank", BODY)[:-10]
    stalled = [socket.create_connection(server.address) for _ in range(6)]
    try:
        for connection in stalled:
            connection.sendall(half)
        server.eventually(lambda: server.metric("polyrank_requests_under_way") == 6)
        for _ in range(5):
            r = server.http.post("/v2/rerank", json=BODY)
            assert scores_of(r) == pytest.approx(scores, abs=1e-5)
    finally:
        for connection in stalled:
            connection.close()
    server.eventually(lambda: server.metric("polyrank_requests_under_way") == 0)


@linux
@pytest.mark.parametrize("way", ["keep-alive", "close", "pipelined"])
def test_a_client_that_never_reads_is_cut_off(started: Callable[..., Server], way: str) -> None:
    server = started("--receive-timeout-seconds", "0.5", "--idle-timeout-seconds", "1")
    server.http.get("/health")  # which stays open
    before = descriptors(server)
    line = "connection: " + ("close" if way == "close" else "keep-alive")
    asked = request_bytes("/jina/v1/rerank", LARGE, line) * (2 if way == "pipelined" else 1)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(60)
        connection.connect(server.address)
        with suppress(OSError):  # cut off while it still sends
            connection.sendall(asked)
        server.eventually(lambda: server.http.get("/metrics").text.count('status="200"') > 0)
        server.eventually(lambda: descriptors(server) <= before)
    assert server.http.get("/health").status_code == 200


def test_a_client_that_reads_slowly_gets_all_of_its_answer(started: Callable[..., Server]) -> None:
    server = started("--receive-timeout-seconds", "0.5", "--idle-timeout-seconds", "1")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        connection.connect(server.address)
        connection.sendall(request_bytes("/jina/v1/rerank", LARGE, "connection: close"))
        received = 0
        while block := connection.recv(1 << 17):  # in twice the time that it may stand still
            received += len(block)
            time.sleep(0.01)
    assert received > 9_000_000


def test_sigterm_under_load_answers_everything(
    started: Callable[..., Server], scores: list[float]
) -> None:
    server = started("--drain-delay-seconds", "1", **FAULTY)
    # The longest document comes first; while its pass stands still, the others wait.
    held = {**SLOW, "documents": [f"{faulty.TAKES_FIVE_SECONDS} " * 200, *SLOW["documents"][1:]]}
    with clients(server, 16) as seen:
        server.eventually(lambda: len(seen) > 50)
        slow: list[httpx.Response] = []
        thread = threading.Thread(
            target=lambda: slow.append(httpx.post(f"{server.url}/v2/rerank", json=held, timeout=60))
        )
        thread.start()
        server.eventually(lambda: server.metric("polyrank_queue_tokens") > 10_000)
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        thread.join(60)
    assert [len(r.json()["results"]) for r in slow] == [800]
    answers = [r for r in seen if isinstance(r, httpx.Response)]
    assert {r.status_code for r in answers} == {200, 503}
    for r in answers:
        if r.status_code == 200:
            assert scores_of(r) == pytest.approx(scores, abs=1e-5)
        else:
            assert r.headers["retry-after"] == "1"
            assert set(r.json()) == {"id", "message"}
    # Nobody was cut off: who got no answer found the port closed, or a connection that was closed
    # or never accepted (then the system resets it).
    lost = [e for e in seen if isinstance(e, httpx.HTTPError)]
    assert all(isinstance(e, (httpx.NetworkError, httpx.RemoteProtocolError)) for e in lost)
    assert not [e for e in lost if "complete message body" in str(e)]


def test_a_second_sigterm_ends_it_at_once(started: Callable[..., Server]) -> None:
    server = started("--drain-delay-seconds", "60")
    server.process.send_signal(signal.SIGTERM)
    server.eventually(lambda: server.http.get("/health").status_code == 503)
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0


@linux
def test_a_server_without_file_descriptors_lives_and_recovers(
    started: Callable[..., Server], scores: list[float]
) -> None:
    import resource

    server = started()
    assert server.http.post("/v2/rerank", json=BODY).status_code == 200
    soft = descriptors(server) + 10
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (soft, soft))
    crowd = [socket.create_connection(server.address) for _ in range(60)]
    try:
        server.eventually(lambda: any("descriptors" in line for line in server.log))
        for _ in range(5):  # who is in is served on
            r = server.http.post("/v2/rerank", json=BODY)
            assert scores_of(r) == pytest.approx(scores, abs=1e-5)
        time.sleep(1.5)  # asyncio would try again by now, again and again
        assert sum("descriptors" in line for line in server.log) == 1
    finally:
        for connection in crowd:
            connection.close()
    with httpx.Client(base_url=server.url, timeout=60) as newcomer:
        assert newcomer.get("/health").status_code == 200
        assert scores_of(newcomer.post("/v2/rerank", json=BODY)) == pytest.approx(scores, abs=1e-5)
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0
