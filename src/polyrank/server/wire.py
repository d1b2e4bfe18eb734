"""Bytes in, bytes out: bodies within bounds of size and time, JSON, headers. Knows no dialect."""

from __future__ import annotations

import asyncio
import codecs
import json
import re
import uuid
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar

from pydantic_core import from_json
from starlette.datastructures import Headers
from starlette.types import Receive, Send

from polyrank.server.dialect import Reply
from polyrank.server.problems import Problem
from polyrank.server.scored import Scored

__all__ = [
    "ClientLeftError",
    "bearer",
    "discard",
    "encode_reply",
    "finish",
    "parse_json",
    "read_body",
    "request_id",
    "score_headers",
    "send_reply",
]

T = TypeVar("T")

_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_LINGER_SECONDS = 1.0
_MOST_LISTED = 200  # cut pairs in a header; proxies refuse long ones


class ClientLeftError(Exception):
    """Nobody waits for the answer."""


def request_id(headers: Headers) -> str:
    """The client's own id where it is printable ASCII of 128 characters at most, or a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())


def bearer(headers: Headers) -> str | None:
    """The key of `Authorization: Bearer KEY`."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() or None if scheme.lower() == "bearer" else None


async def read_body(headers: Headers, receive: Receive, *, limit: int, seconds: float) -> bytes:
    """The body. Raises Problem where it is over `limit` bytes or takes longer than `seconds`."""
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limit:
        if "expect" not in headers:  # else the client asks before it sends
            await discard(receive)
        raise _too_large(limit)
    body = bytearray()
    until = monotonic() + seconds
    while True:
        try:
            message = await asyncio.wait_for(receive(), max(0.001, until - monotonic()))
        except asyncio.TimeoutError:
            raise Problem("too_slow", f"the body did not arrive in {seconds:g} s") from None
        if message["type"] == "http.disconnect":
            raise ClientLeftError
        body += message.get("body", b"")
        if len(body) > limit:
            await discard(receive)
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body)


async def discard(receive: Receive) -> None:
    """Take what a client still sends, for a moment: one that is cut off reads no answer."""

    async def rest() -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                return

    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(rest(), _LINGER_SECONDS)


def _too_large(limit: int) -> Problem:
    return Problem("too_large", f"expected a body of at most {limit} bytes", limit=limit)


def parse_json(body: bytes, headers: Headers) -> Any:
    """A body as JSON: strict UTF-8, finite numbers, no lone surrogates, 200 levels at most."""
    try:
        return from_json(body.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
    except ValueError as error:
        raise Problem("malformed", _cause(body, headers) or str(error)) from None


def _cause(body: bytes, headers: Headers) -> str:
    """Why a body is no JSON, where that is plain to see; "" where it is not."""
    coding = headers.get("content-encoding", "identity").strip().lower()
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if coding != "identity":
        return f"expected a body as it is, got Content-Encoding {coding[:50]}"
    if kind.startswith(("multipart/", "application/x-www-form-urlencoded")):
        return f"expected JSON, got {kind[:50]}"
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        return f"expected UTF-8, got byte {body[error.start]:#04x} at {error.start}"
    if "\0" in text:
        return "expected UTF-8, got a zero byte, as UTF-16 has them"
    return ""


async def finish(work: Awaitable[T], receive: Receive, seconds: float) -> T:
    """Do the work, unless the client leaves (ClientLeftError) or time is up (Problem)."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    both: set[asyncio.Future[Any]] = {task, gone}
    try:
        await asyncio.wait(both, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise ClientLeftError
        raise Problem("timeout", f"the request was not scored in {seconds:g} s")
    finally:
        for unfinished in both:
            unfinished.cancel()
        await asyncio.gather(*both, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def score_headers(scored: Scored) -> dict[str, str]:
    """What no dialect's body has room for: where the time went, and which pairs were cut."""
    times = scored.times
    parts = {"tokenize": times.tokenize, "queue": times.queue, "forward": times.forward}
    headers = {
        "server-timing": ", ".join(f"{part};dur={1000 * s:.3f}" for part, s in parts.items())
    }
    if scored.cut:
        headers["x-truncated-pairs"] = ",".join(map(str, scored.cut[:_MOST_LISTED]))
    if scored.query_cut:
        headers["x-truncated-query-tokens"] = str(scored.query_cut)
    return headers


def encode_reply(reply: Reply) -> bytes:
    """The answer's body. Raises ValueError where a number is not finite."""
    if reply.media_type != "application/json":
        return str(reply.content).encode()
    return json.dumps(
        reply.content, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    ).encode()


async def send_reply(reply: Reply, body: bytes, headers: Mapping[str, str], send: Send) -> None:
    """Send an answer whose body is encoded."""
    fields = {
        "content-type": reply.media_type,
        "content-length": str(len(body)),
        **reply.headers,
        **headers,
    }
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
