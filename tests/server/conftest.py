"""A server without a socket: requests go to the application, in an event loop of another thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from polyrank import Reranker
from polyrank.server import ServerSettings
from polyrank.server.app import build_app
from polyrank.server.service import Service
from server.process import Server

QUERY = "w10 w11 w12"
DOCUMENTS = ["w20 w21", "w10 w12 w30 w31", "w40", "w11 w10 w12"]


class Client:
    """Requests, and the service that they reach."""

    def __init__(self, portal: BlockingPortal, service: Service) -> None:
        self.service = service
        self._portal = portal
        self._http = httpx.AsyncClient(
            transport=httpx.ASGITransport(build_app(service)), base_url="http://server"
        )

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            return await self._http.request(method, path, **options)

        return self._portal.call(send)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        if isinstance(body, bytes):
            return self.request("POST", path, content=body, **options)
        return self.request("POST", path, json=body, **options)

    def start(self, path: str, body: Any) -> Any:
        """Send a request and do not wait; the future has the response."""

        async def send() -> httpx.Response:
            return await self._http.post(path, json=body)

        return self._portal.start_task_soon(send)


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    """An event loop in a thread of its own."""
    with start_blocking_portal() as running:
        yield running


@pytest.fixture(scope="module")
def serving(portal: BlockingPortal) -> Iterator[Callable[..., Client]]:
    """Make a client of a server with a model and settings."""
    services = []

    def serve(reranker: Reranker, **settings: Any) -> Client:
        service = Service(ServerSettings(**settings))
        service.use(reranker, "fingerprint")
        services.append(service)
        return Client(portal, service)

    yield serve
    for service in services:
        service.encoder.close()


@pytest.fixture(scope="module")
def client(serving: Callable[..., Client], reranker: Reranker) -> Client:
    """A server with default settings."""
    return serving(reranker)


@pytest.fixture(scope="session")
def scores(reranker: Reranker) -> list[float]:
    """What the model says of DOCUMENTS, computed offline."""
    return [float(s) for s in reranker.score([(QUERY, d) for d in DOCUMENTS])]


def best_first(values: list[float]) -> list[int]:
    return sorted(range(len(values)), key=lambda i: -values[i])


@pytest.fixture
def started(tiny_model: Path) -> Iterator[Callable[..., Server]]:
    """Start servers, each a process."""
    servers: list[Server] = []

    def start(*flags: str, **options: Any) -> Server:
        servers.append(Server(tiny_model, *flags, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.end()
