"""A server as a process of its own: starting, slow and leaving clients, signals, the end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx
import pytest

from polyrank import Calibration, Reranker
from server import faulty
from server.process import SLOW, Server

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")


def raw(server: Server, data: bytes) -> bytes:
    """Send bytes, and read until the server closes."""
    with socket.create_connection(server.address, 60) as connection:
        connection.sendall(data)
        received = b""
        while block := connection.recv(65536):
            received += block
        return received


def test_a_server_starts_answers_logs_and_ends(started: Callable[..., Server]) -> None:
    server = started(POLYRANK_API_KEY="secret")
    assert re.fullmatch(r"serving tiny \(onnx cpu \w+\) at http://127\.0\.0\.1:\d+\n", server.said)
    body = {"query": "w10 w11", "texts": ["w12", "w10 w13"]}
    key = {"authorization": "Bearer secret"}
    assert server.http.post("/rerank", json=body).status_code == 401
    java = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAEA"}
    r = server.http.post("/rerank", json=body, headers={**key, **java, "x-request-id": "mine"})
    assert (r.status_code, r.headers["x-request-id"]) == (200, "mine")
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    rows = [json.loads(line) for line in server.log if line.startswith("{")]
    (row,) = [r for r in rows if r["event"] == "request" and r["request_id"] == "mine"]
    assert (row["status"], row["dialect"], row["pairs"], row["path"]) == (200, "tei", 2, "/rerank")
    assert not [line for line in server.log if "w13" in line or "secret" in line]
    assert not [row for row in rows if row["level"] == "warning"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_another_server_has_is_said_at_once(
    started: Callable[..., Server], tiny_model: Path, workers: str
) -> None:
    first = started("--workers", workers)
    port = str(first.address[1])
    command = [sys.executable, "-m", "polyrank", "serve", "-m", str(tiny_model), "--port", port]
    second = subprocess.run([*command, "--workers", workers], capture_output=True, check=False)
    assert second.returncode == 1
    assert f"error: expected to listen at 127.0.0.1 port {port}: " in second.stderr.decode()
    assert b"Traceback" not in second.stderr


def test_sigterm_lets_requests_under_way_end_and_refuses_new_ones(
    started: Callable[..., Server],
) -> None:
    server = started("--drain-delay-seconds", "1")
    answers: list[httpx.Response] = []
    thread = server.start(answers)
    server.process.send_signal(signal.SIGTERM)
    server.eventually(lambda: server.http.get("/health").status_code == 503)
    refused = server.http.post("/v2/rerank", json={"model": "m", "query": "w1", "documents": ["w"]})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    thread.join(60)
    assert [r.status_code for r in answers] == [200]
    assert len(answers[0].json()["results"]) == 800
    assert server.wait() == 0


def test_a_second_signal_ends_it_at_once(started: Callable[..., Server]) -> None:
    server = started("--drain-delay-seconds", "60")
    server.process.send_signal(signal.SIGINT)
    server.eventually(lambda: server.http.get("/health").status_code == 503)
    server.process.send_signal(signal.SIGINT)
    assert server.wait() == 130
    assert not [line for line in server.log if "Traceback" in line]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_while_the_model_loads_ends_it_at_once(
    tiny_model: Path, number: int, code: int
) -> None:
    with subprocess.Popen(
        [sys.executable, faulty.__file__, "serve", "-m", str(tiny_model), "--port", "0"],
        env={**os.environ, faulty.LOADS_FOR_EVER: "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline() == "loaded\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert not [line for line in said.splitlines() if "Traceback" in line or "error" in line], said


def test_a_client_that_hangs_up_frees_the_queue(started: Callable[..., Server]) -> None:
    server = started()
    body = json.dumps(SLOW).encode()
    with socket.create_connection(server.address) as connection:
        head = f"POST /v2/rerank HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        server.eventually(lambda: server.metric("polyrank_queue_tokens") > 0)
    server.eventually(lambda: server.metric("polyrank_queue_tokens") == 0)
    server.eventually(lambda: server.metric("polyrank_requests_under_way") == 0)
    assert server.metric(r'polyrank_errors_total{dialect="cohere",kind="client_left"}') == 1
    assert server.metric("polyrank_pairs_total") == 0


def test_slow_clients_do_not_hold_connections(started: Callable[..., Server]) -> None:
    server = started("--receive-timeout-seconds", "0.5", "--idle-timeout-seconds", "1")
    assert raw(server, b"") == b""  # says nothing
    assert raw(server, b"POST /v2/rerank HTTP/1.1\r\nhost:") == b""  # stops in its headers
    slow = raw(server, b"POST /v2/rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{")
    assert slow.startswith(b"HTTP/1.1 408")
    assert b'"message"' in slow
    idle = raw(server, b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n")  # and then nothing
    assert idle.startswith(b"HTTP/1.1 200")


def test_a_body_that_is_too_large_gets_its_answer(started: Callable[..., Server]) -> None:
    server = started("--max-body-bytes", "1000")
    large = json.dumps({"query": "w1", "texts": ["w1 " * 200_000]}).encode()
    headers = {"content-type": "application/json"}
    assert server.http.post("/rerank", content=large, headers=headers).status_code == 413
    pieces = (b"x" * 1000 for _ in range(100))
    assert server.http.post("/rerank", content=pieces, headers=headers).status_code == 413
    assert server.http.get("/health").status_code == 200


def test_who_has_no_key_hears_so_whatever_the_size_of_the_body(
    started: Callable[..., Server],
) -> None:
    server = started("--receive-timeout-seconds", "1", POLYRANK_API_KEY="secret")
    large = b"x" * 8_000_000
    for _ in range(3):
        assert server.http.post("/v2/rerank", content=large).status_code == 401
    head = b"POST /v2/rerank HTTP/1.1\r\nhost: x\r\n"
    with socket.create_connection(server.address, 60) as connection:
        for _ in range(2):  # the body comes after its answer, and the next request much later
            connection.sendall(head + b"content-length: 5\r\n\r\n")
            answer = HTTPResponse(connection, method="POST")
            answer.begin()
            assert (answer.status, len(answer.read()) > 0) == (401, True)
            connection.sendall(b"w1 w2")
            time.sleep(1.5)
        connection.sendall(head + b"transfer-")  # and what does not come is not waited for
        assert connection.recv(1) == b""
    with socket.create_connection(server.address, 60) as connection:
        connection.sendall(head)
        connection.sendall(b"transfer-encoding: chunked\r\n\r\n")
        with pytest.raises(OSError):  # what has no end is cut off
            _drip(connection)


def _drip(connection: socket.socket) -> None:
    for _ in range(6000):
        connection.sendall(b"1\r\nx\r\n")
        time.sleep(0.01)


def run(*args: str, **environment: str) -> Any:
    return subprocess.run(
        [sys.executable, "-m", "polyrank", "serve", *args],
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_what_cannot_be_served_is_said_and_ends_with_1(tiny_model: Path) -> None:
    done = run("-m", "no-such-model", "--port", "0")
    assert (done.returncode, "no-such-model" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("-m", str(tiny_model), "--port", str(taken.getsockname()[1]))
    assert (done.returncode, "--port 0" in done.stderr) == (1, True)
    done = run("--port", "0", POLYRANK_MAX_DOCUMENT="5")
    assert (done.returncode, "POLYRANK_MAX_DOCUMENTS?" in done.stderr) == (1, True)


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no shared ports here")
def test_two_servers_share_a_port_where_both_say_so(started: Callable[..., Server]) -> None:
    first = started("--reuse-port")
    second = started("--reuse-port", "--port", str(first.address[1]))
    assert first.address == second.address
    assert first.http.get("/health").status_code == 200


def test_scores_are_those_of_a_calibration_and_logits_are_not(
    started: Callable[..., Server], reranker: Reranker, tmp_path: Path
) -> None:
    curve = Calibration(scale=3.0, shift=-1.0)
    curve.write(tmp_path / "c.json")
    server = started("--calibration", str(tmp_path / "c.json"))
    body = {"query": "w10 w11", "texts": ["w20 w21", "w10 w12"], "raw_scores": False}
    logits = reranker.logits([(body["query"], text) for text in body["texts"]])
    for raw, wanted in ((False, curve.scores(logits)), (True, logits)):
        rows = server.http.post("/rerank", json={**body, "raw_scores": raw}).json()
        got = {row["index"]: row["score"] for row in rows}
        assert [got[0], got[1]] == pytest.approx(wanted.tolist(), abs=1e-5)


def test_texts_in_windows_are_read_whole(started: Callable[..., Server]) -> None:
    server = started("--on-overflow", "windows", "--max-length", "24")
    body = {"query": "w10 w11", "texts": ["w20 " * 100, "w10 w12"], "truncate": False}
    answer = server.http.post("/rerank", json=body)
    assert answer.status_code == 200
    assert "x-truncated-pairs" not in answer.headers
