"""Several processes behind one port: one dies, all end, none can start."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from polyrank import Reranker
from polyrank.server.metrics_files import merged
from server.process import BODY, Server, clients, scores_of
from server.test_process import run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")


def processes(server: Server) -> dict[int, int]:
    """The process that each worker has now."""
    rows = [json.loads(line) for line in list(server.log) if "a worker starts" in line]
    return {row["worker"]: row["pid"] for row in rows}


def test_a_killed_worker_comes_back_and_the_others_serve_on(
    started: Callable[..., Server], reranker: Reranker
) -> None:
    server = started("--workers", "2")
    assert server.said.startswith("serving tiny (onnx cpu ")
    scores = [float(s) for s in reranker.score([(BODY["query"], d) for d in BODY["documents"]])]
    before = processes(server)
    assert sorted(before) == [0, 1]
    with clients(server, 8) as seen:
        server.eventually(lambda: len(seen) > 50)
        os.kill(before[1], signal.SIGKILL)
        server.eventually(lambda: processes(server)[1] != before[1])
        served = len(seen)
        server.eventually(lambda: len(seen) > served + 50)
    lost = [e for e in seen if isinstance(e, httpx.HTTPError)]
    assert len(lost) <= 8  # what it had under way: at most one request of each client
    for r in seen:
        if isinstance(r, httpx.Response):
            assert scores_of(r) == pytest.approx(scores, abs=1e-5)
    assert processes(server)[0] == before[0]
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    ends = [json.loads(line) for line in server.log if "a worker ended" in line]
    assert [(e["worker"], e["exit_code"]) for e in ends if e["level"] == "error"] == [(1, -9)]


def test_a_worker_whose_engine_died_is_replaced(started: Callable[..., Server]) -> None:
    from server import faulty

    server = started("--workers", "2", program=(faulty.__file__,))
    before = processes(server)
    deadly = {**BODY, "documents": [faulty.ENDS_THE_WORKER]}
    assert server.http.post("/v2/rerank", json=deadly).status_code == 503
    server.eventually(lambda: processes(server) != before)
    with httpx.Client(base_url=server.url, timeout=60) as another:
        assert another.post("/v2/rerank", json=BODY).status_code == 200


def test_a_worker_that_hangs_is_replaced(started: Callable[..., Server]) -> None:
    from server import faulty

    server = started("--workers", "2", program=(faulty.__file__,))
    before = processes(server)
    os.kill(before[0], signal.SIGSTOP)
    server.eventually(lambda: processes(server)[0] != before[0])
    assert any("a worker hangs" in line for line in server.log)
    assert processes(server)[1] == before[1]
    with httpx.Client(base_url=server.url, timeout=60) as another:
        assert another.post("/v2/rerank", json=BODY).status_code == 200


def test_metrics_are_those_of_all_workers(started: Callable[..., Server]) -> None:
    server = started("--workers", "2")
    for _ in range(20):  # each a connection of its own, for whichever worker takes it
        assert httpx.post(f"{server.url}/v2/rerank", json=BODY).status_code == 200

    def answered() -> float:
        text = server.http.get("/metrics").text
        found = re.findall(r'^polyrank_pairs_total\{worker="\d"\} (\S+)$', text, re.MULTILINE)
        return sum(map(float, found))

    server.eventually(lambda: answered() == 60)
    assert server.http.get("/metrics").text.count("# TYPE polyrank_pairs_total counter") == 1


def test_metrics_of_workers_are_put_together_by_name() -> None:
    one = '# HELP a_total A.\n# TYPE a_total counter\na_total{x="}"} 1.0\n# HELP b B.\nb 2.0\n'
    two = "# HELP b B.\nb 3.0\n"
    assert merged([(0, one), (1, two)]) == (
        '# HELP a_total A.\n# TYPE a_total counter\na_total{worker="0",x="}"} 1.0\n'
        '# HELP b B.\nb{worker="0"} 2.0\nb{worker="1"} 3.0\n'
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_to_all_processes_lets_requests_under_way_end(
    started: Callable[..., Server], number: signal.Signals, code: int
) -> None:
    from server import faulty

    server = started("--workers", "2", program=(faulty.__file__,))
    slow = {**BODY, "documents": [faulty.TAKES_FIVE_SECONDS]}  # workers tell metrics each second
    answers: list[httpx.Response] = []

    def send() -> None:
        answers.append(httpx.post(f"{server.url}/v2/rerank", json=slow, timeout=60))

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()

    def under_way() -> bool:
        text = server.http.get("/metrics").text
        found = re.findall(r"^polyrank_requests_under_way\{.*\} (\S+)$", text, re.MULTILINE)
        return sum(map(float, found)) == 2

    server.eventually(under_way)
    for process in (*processes(server).values(), server.process.pid):  # as a terminal would
        os.kill(process, number)
    for thread in threads:
        thread.join(60)
    assert [r.status_code for r in answers] == [200, 200]
    assert server.wait() == code


def test_a_second_signal_ends_all_workers_at_once(started: Callable[..., Server]) -> None:
    server = started("--workers", "2", "--drain-delay-seconds", "60")
    server.process.send_signal(signal.SIGTERM)
    server.eventually(lambda: server.http.get("/health").status_code == 503)
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0


def test_workers_do_not_outlive_their_parent(started: Callable[..., Server]) -> None:
    server = started("--workers", "2")
    server.process.kill()
    assert server.wait() == -signal.SIGKILL

    def closed() -> bool:
        try:
            socket.create_connection(server.address).close()
        except ConnectionRefusedError:
            return True
        time.sleep(0.05)
        return False

    server.eventually(closed)


def test_workers_that_cannot_start_end_the_server() -> None:
    done = run("-m", "no-such-model", "--port", "0", "--workers", "2")
    assert (done.returncode, "no-such-model" in done.stderr) == (1, True)
    assert "Traceback" not in done.stderr
