"""Malformed bodies and broken HTTP: errors in the dialect's own form, and a server that lives.

`benchmarks/server_fuzz.py` sends ten thousand for each dialect to a process.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Callable
from itertools import islice
from random import Random

import pytest

from polyrank import Reranker
from polyrank.server.dialect import Dialect
from polyrank.server.dialects import find_dialects
from server.conftest import Client
from server.framing import FRAMINGS, Wire
from server.malformed import GOOD, JSON, Body, bodies, check_answer, good_bodies
from server.process import Server

DIALECTS = find_dialects()


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)
def test_malformed_bodies_get_errors_in_form_and_never_break_the_server(
    client: Client, dialect: Dialect
) -> None:
    source = Random(dialect.name)
    good = good_bodies(dialect)
    refused = 0
    for path, right in good.items():
        for body in islice(bodies(right, source), 250 // len(good)):
            headers = (
                {"content-type": body.content_type.encode("latin-1")} if body.content_type else {}
            )
            r = client.post(path, body.data, headers=headers)
            try:
                check_answer(path, r.status_code, r.headers["content-type"], r.content)
            except AssertionError as error:
                raise AssertionError(f"{body.kind}: {body.data[:1000]!r}") from error
            refused += r.status_code != 200
    assert refused > 120
    for path, right in good.items():
        assert client.post(path, right).status_code == 200


@pytest.mark.parametrize("field", ["rank_fields", "documents", "inputs", "query"])
def test_a_million_errors_in_a_body_are_told_as_one(client: Client, field: str) -> None:
    path = {"rank_fields": "/jina/v1/rerank", "inputs": "/predict"}.get(field, "/vllm/rerank")
    many = [1] * 1_000_000
    value = {"content": many} if field == "query" else many
    body = json.dumps({"query": "w1", "documents": ["w1"], field: value}).encode()
    r = client.post(path, body, headers={"content-type": JSON})
    assert r.status_code in (400, 422)
    assert len(r.content) < 2000


def test_fields_named_again_and_again_are_read_once(client: Client, reranker: Reranker) -> None:
    documents = [{"title": "w10", "text": "w12"}] * 2000
    body = {"query": "w1", "documents": documents, "rank_fields": ["title", "text"] * 100_000}
    rows = client.post("/cohere/v1/rerank", body).json()["results"]
    expected = float(reranker.score([("w1", "w10\nw12")])[0])
    assert [row["relevance_score"] for row in rows] == pytest.approx([expected] * 2000, abs=1e-5)


@pytest.mark.skipif(sys.platform == "win32", reason="the server is a process of POSIX")
def test_broken_http_gets_an_answer_or_a_closed_connection(started: Callable[..., Server]) -> None:
    server = started("--receive-timeout-seconds", "0.3")
    source = Random(0)
    wire = Wire(server.address)
    path = "/cohere/v2/rerank"
    right = Body(json.dumps(GOOD[path]).encode())
    for framing in FRAMINGS:
        for body in (right, Body(b"{"), *islice(bodies(GOOD[path], source), 3)):
            wire.send(path, body, framing, source)
    assert wire.send(path, right, "chunked", source) == 200
    assert wire.send(path, right, "expect", source) == 200
    wire.close()
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not [line for line in server.log if "traceback" in line.lower()]


def test_a_chunk_that_breaks_after_the_answer_closes_the_connection(
    started: Callable[..., Server],
) -> None:
    server = started(POLYRANK_API_KEY="secret")
    with socket.create_connection(server.address, 60) as connection:
        head = b"POST /v2/rerank HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(head + b"1\r\n{\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 401")
        connection.sendall(b"no chunk\r\n")
        while connection.recv(65536):
            pass
    assert server.http.get("/health").status_code == 200
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert not [line for line in server.log if "traceback" in line.lower()]
