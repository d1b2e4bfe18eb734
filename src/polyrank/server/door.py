"""What happens to a request, from its first header to the last byte of its answer.

One door is one path. It knows the order of the checks, and leaves to dialects what they say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from polyrank.server.dialect import Body, Dialect, Endpoint, Page, Reply, ignored_parameters
from polyrank.server.keys import Keys
from polyrank.server.problems import FieldError, Problem, invalid_fields, json_type
from polyrank.server.scored import About, Scored
from polyrank.server.service import Service
from polyrank.server.wire import (
    ClientLeftError,
    bearer,
    discard,
    encode_reply,
    finish,
    parse_json,
    read_body,
    request_id,
    score_headers,
    send_reply,
)

__all__ = ["Door", "Offer"]

Offer = tuple[Dialect, Endpoint]
T = TypeVar("T")

_LARGE = 1 << 16  # bytes: a larger body is parsed beside the event loop
_CLIENT_LEFT = 499  # for the log: nobody sees it
_log = logging.getLogger(__name__)


class _Call:
    """One request; what dialects see of it is `dialect.Call`."""

    def __init__(self, service: Service, headers: Headers, dialect: Dialect) -> None:
        self._service = service
        self.headers = headers
        self.dialect = dialect
        self.request_id = request_id(headers)
        self.started = perf_counter()
        self.scored: Scored | None = None
        self.ignored: list[str] = []

    @property
    def about(self) -> About:
        return self._service.about()

    async def score(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        truncate: bool = True,
        left: bool = False,
        max_text_tokens: int | None = None,
        priority: int = 0,
    ) -> Scored:
        if self._service.settings.log_text:
            _log.info("pairs", extra={"request_id": self.request_id, "pairs": list(pairs)})
        self.scored = await self._service.score(
            pairs,
            truncate=truncate,
            left=left,
            max_text_tokens=max_text_tokens,
            priority=priority,
        )
        return self.scored


class Door:
    """One path: the endpoints of all dialects that are served there, and the page, if any."""

    def __init__(
        self,
        path: str,
        service: Service,
        keys: Keys,
        *,
        offers: Sequence[Offer] = (),
        page: tuple[Dialect, Page] | None = None,
    ) -> None:
        self._path = path
        self._service = service
        self._keys = keys
        self._claiming = [(d, e) for d, e in offers if e.claims is not None]
        self._default = next(((d, e) for d, e in offers if e.claims is None), None)
        if self._default is None and self._claiming:
            self._default = self._claiming[-1]
        self._page = page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        home = self._default or self._page
        assert home is not None, "a door leads somewhere"
        call = _Call(self._service, Headers(scope=scope), home[0])
        problem: Problem | None = None
        try:
            reply = await self._reply(scope["method"], call, receive)
            body = encode_reply(reply)
        except ClientLeftError:
            self._record(call, scope, _CLIENT_LEFT, "client_left")
            return
        except Problem as found:
            problem = found
        except asyncio.CancelledError:
            if not self._service.draining:
                raise
            problem = Problem("unavailable", "the server ends")
        except Exception:  # noqa: BLE001  a client gets no traceback, whatever went wrong
            _log.exception("a request failed", extra={"request_id": call.request_id})
            problem = Problem("internal", "internal error")
        if problem is not None:
            if self._service.draining and problem.kind == "unavailable":
                await discard(receive)
            reply = call.dialect.error(problem, call.request_id)
            body = encode_reply(reply)
        await send_reply(reply, body, self._headers(call, problem), send)
        self._record(call, scope, reply.status, problem.kind if problem else None)

    async def _reply(self, method: str, call: _Call, receive: Receive) -> Reply:
        if method in ("GET", "HEAD") and self._page is not None:
            call.dialect, page = self._page
            if not page.public:
                self._check_key(call)
            return page.answer(call.about)
        if method != "POST" or self._default is None:
            raise Problem("method", f"{method[:20]} is not allowed here")
        self._check_key(call)
        with self._service.admitted():
            settings = self._service.settings
            body = await read_body(
                call.headers,
                receive,
                limit=settings.max_body_bytes,
                seconds=settings.receive_timeout_seconds,
            )
            return await finish(self._answer(call, body), receive, settings.request_timeout_seconds)

    def _check_key(self, call: _Call) -> None:
        if not self._keys.needed:
            return
        key = bearer(call.headers)
        if key is None:
            raise Problem("no_key", "expected an API key as `Authorization: Bearer KEY`")
        if not self._keys.good(key):
            raise Problem("bad_key", "the API key is not valid")

    async def _answer(self, call: _Call, body: bytes) -> Reply:
        large = len(body) > _LARGE
        data = await self._beside(partial(parse_json, body, call.headers), large)
        call.dialect, endpoint = self._choose(data)
        if call.dialect.needs_json_type and not _is_json(call.headers):
            raise Problem("media_type", "expected Content-Type: application/json")
        valid = await self._beside(partial(_validate, endpoint, data), large)
        call.ignored = ignored_parameters(valid)
        return await endpoint.answer(valid, call)

    def _choose(self, data: Any) -> Offer:
        assert self._default is not None, "only called where there is an endpoint"
        if isinstance(data, dict):
            for dialect, endpoint in self._claiming:
                if endpoint.claims is not None and endpoint.claims(data):
                    return dialect, endpoint
        return self._default

    async def _beside(self, work: Callable[[], T], large: bool) -> T:
        return await self._service.encoder.in_thread(work) if large else work()

    def _headers(self, call: _Call, problem: Problem | None) -> dict[str, str]:
        headers = {"x-request-id": call.request_id}
        if problem is None:
            if call.ignored:
                headers["x-ignored-parameters"] = ",".join(call.ignored)
            return headers | (score_headers(call.scored) if call.scored else {})
        if problem.retry_after_seconds is not None:
            headers["retry-after"] = str(problem.retry_after_seconds)
        if problem.kind in ("no_key", "bad_key"):
            headers["www-authenticate"] = "Bearer"
        if problem.kind == "method":
            page, post = self._page is not None, self._default is not None
            headers["allow"] = ", ".join(["GET, HEAD"] * page + ["POST"] * post)
        if self._service.draining or problem.kind in ("too_large", "too_slow"):
            headers["connection"] = "close"
        return headers

    def _record(self, call: _Call, scope: Scope, status: int, kind: str | None) -> None:
        seconds = perf_counter() - call.started
        if scope["method"] == "POST":  # probes would only blur the numbers
            self._service.metrics.answered(call.dialect.name, self._path, status, kind, seconds)
        scored, done = call.scored, {}
        if scored is not None:
            done = {
                "pairs": len(scored.logits),
                "tokens": scored.total_tokens,
                "truncated": scored.truncated,
                "cached": scored.cached,
                "tokenize_seconds": round(scored.times.tokenize, 6),
                "queue_seconds": round(scored.times.queue, 6),
                "forward_seconds": round(scored.times.forward, 6),
            }
        row = {
            "request_id": call.request_id,
            "client": (scope.get("client") or ("",))[0],
            "method": scope["method"][:20],
            "path": self._path,
            "dialect": call.dialect.name,
            "status": status,
            "problem": kind,
            "seconds": round(seconds, 6),
            **done,
        }
        _log.log(logging.INFO if scope["method"] == "POST" else logging.DEBUG, "request", extra=row)
        if self._service.traces is not None and scope["method"] == "POST":
            times = scored.times if scored is not None else None
            self._service.traces.answered(call.headers, row, began=call.started, times=times)


def _is_json(headers: Headers) -> bool:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _validate(endpoint: Endpoint, data: Any) -> Body:
    if not isinstance(data, dict):
        twice = "; was the body encoded twice?" if isinstance(data, str) else ""
        message = f"expected a JSON object, got {json_type(data)}{twice}"
        at = FieldError(path=(), message=message, type="dict_type")
        raise Problem("invalid", message, fields=[at])
    try:
        return endpoint.body.model_validate(data)
    except ValidationError as error:
        raise invalid_fields(error, data) from None
