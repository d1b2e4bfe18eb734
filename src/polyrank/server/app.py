"""Every path of the server put together: dialects, pages, the OpenAPI document, CORS."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from polyrank.server.dialect import Dialect, Page
from polyrank.server.dialects import find_dialects
from polyrank.server.door import Door, Offer
from polyrank.server.keys import Keys
from polyrank.server.openapi import openapi_document
from polyrank.server.service import Service
from polyrank.server.wire import request_id

__all__ = ["build_app"]


def build_app(service: Service, *, routes: Sequence[BaseRoute] = ()) -> Starlette:
    """The application. A service without a model loads it once the application starts.

    `routes`: further pages, which are looked at first.
    """
    settings = service.settings
    keys = Keys(settings.api_key, settings.api_key_file)
    dialects = find_dialects()
    offers, pages = _offers(dialects), _pages(dialects)
    document = openapi_document(offers, pages, keys_needed=keys.needed)

    async def openapi(request: Request) -> Response:
        return JSONResponse(document)

    doors = [
        Route(
            path,
            Door(path, service, keys, offers=offers.get(path, ()), page=pages.get(path)),
            methods=None,
        )
        for path in dict.fromkeys([*offers, *pages])
    ]
    app = Starlette(
        routes=[*routes, Route("/openapi.json", openapi), *doors],
        middleware=_cors(settings.cors_origin),
        exception_handlers={404: _not_found},
        lifespan=_lifespan(service),
    )
    # By default a slash at the end is redirected, before any key is asked for, to an address that
    # is the wrong one behind a proxy.
    app.router.redirect_slashes = False
    return app


def _offers(dialects: Iterable[Dialect]) -> dict[str, list[Offer]]:
    """The endpoints at each path: under the dialect's name, and at the root where it likes."""
    found: dict[str, list[Offer]] = {}
    for dialect in dialects:
        for endpoint in dialect.endpoints:
            paths = [f"/{dialect.name}{endpoint.path}"]
            if endpoint.at_root:
                paths.append(endpoint.path)
            for path in paths:
                found.setdefault(path, []).append((dialect, endpoint))
    for path, offers in found.items():
        takes_all = [d.name for d, e in offers if e.claims is None]
        assert len(takes_all) <= 1, f"{path} is taken by {' and '.join(takes_all)}"
    return found


def _pages(dialects: Iterable[Dialect]) -> dict[str, tuple[Dialect, Page]]:
    found: dict[str, tuple[Dialect, Page]] = {}
    for dialect in dialects:
        for page in dialect.pages:
            paths = [f"/{dialect.name}{page.path}"] + [page.path] * page.at_root
            for path in paths:
                assert path not in found, f"{path} is taken by {found[path][0].name}"
                found[path] = (dialect, page)
    return found


def _cors(origins: Sequence[str]) -> list[Middleware]:
    if not origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_private_network=True,  # who names an origin means it
            allow_headers=["*"],  # clients in browsers have headers of their own, and tracing too
            expose_headers=[
                "x-request-id",
                "retry-after",
                "server-timing",
                "x-truncated-pairs",
                "x-truncated-query-tokens",
                "x-ignored-parameters",
            ],
        )
    ]


def _lifespan(service: Service) -> Any:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if service.state == "loading":
            # A daemon: a server that is told to end does not wait for its model.
            threading.Thread(target=_load, args=(service,), daemon=True).start()
        try:
            yield
        except asyncio.CancelledError:  # it is to end at once, and what is under way is left
            return
        service.close()

    return lifespan


def _load(service: Service) -> None:
    try:
        service.load()
    except Exception as error:  # noqa: BLE001  the thread that runs the server raises it
        service.failure = error


async def _not_found(request: Request, error: Exception) -> Response:
    message = "nothing is served at this path; /openapi.json lists what is"
    own = request_id(request.headers)
    body = {
        "error": {"message": message, "type": "NotFoundError", "param": None, "code": 404},
        "message": message,
        "detail": message,
        "code": "RESOURCE_NOT_FOUND",
        "request_id": own,
    }
    return JSONResponse(body, status_code=404, headers={"x-request-id": own})
