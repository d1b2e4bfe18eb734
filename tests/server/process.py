"""A server as a process of its own, and what it said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

__all__ = ["BODY", "SLOW", "Server", "clients", "scores_of"]

BODY = {"model": "m", "query": "w10 w11 w12", "documents": ["w20 w21", "w10 w12 w30 w31", "w40"]}

SLOW = {  # a second or more, even for this network
    "model": "m",
    "query": "w10 w11",
    "documents": [f"w{20 + n % 400} w{20 + n // 400} " * 60 for n in range(800)],
}


class Server:
    """A process that serves, and what it said. `program`: what runs as `polyrank`."""

    def __init__(
        self,
        model: Path,
        *flags: str,
        program: Sequence[str] = ("-m", "polyrank"),
        **environment: str,
    ) -> None:
        command = [sys.executable, *program, "serve", "-m", str(model), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--threads", "1", *flags],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        address = re.search(r"http://([\d.]+):(\d+)", self.said)
        assert address is not None, (self.said, self.log)
        self.address = (address[1], int(address[2]))
        self.url = address[0]
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.log += self.process.stderr

    def metric(self, name: str) -> float:
        found = re.search(rf"^{name} (\S+)$", self.http.get("/metrics").text, re.MULTILINE)
        assert found is not None, name
        return float(found[1])

    def eventually(self, true: Callable[[], bool], *, seconds: float = 60) -> None:
        """Wait until something is so; AssertionError where it never is."""
        until = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < until, self.log
            time.sleep(0.01)

    def start(self, answers: list[httpx.Response]) -> threading.Thread:
        """Send SLOW from another thread, and return once it is under way."""

        def send() -> None:
            answers.append(httpx.post(f"{self.url}/v2/rerank", json=SLOW, timeout=60))

        thread = threading.Thread(target=send)
        thread.start()
        self.eventually(lambda: self.metric("polyrank_requests_under_way") == 1)
        return thread

    def wait(self) -> int:
        """The exit code; `log` is complete then."""
        code = self.process.wait(60)
        self._reader.join(60)
        return code

    def end(self) -> None:
        self.http.close()
        self.process.kill()
        self.wait()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()


@contextmanager
def clients(server: Server, number: int) -> Iterator[list[httpx.Response | httpx.HTTPError]]:
    """So many clients that send BODY again and again, and what each request came to."""
    seen: list[httpx.Response | httpx.HTTPError] = []
    stop = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            while not stop.is_set():
                seen.append(_asked(http))

    threads = [threading.Thread(target=ask) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def scores_of(response: httpx.Response) -> list[float]:
    """The scores of an answer in Cohere's form, in the order of the documents."""
    rows = sorted(response.json()["results"], key=lambda row: row["index"])
    return [row["relevance_score"] for row in rows]


def _asked(http: httpx.Client) -> httpx.Response | httpx.HTTPError:
    try:
        return http.post("/v2/rerank", json=BODY)
    except httpx.HTTPError as error:
        time.sleep(0.05)
        return error
