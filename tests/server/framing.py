"""Requests as bytes on a socket, framed rightly or wrongly, and the first answer to them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from random import Random

from server.malformed import Body, check_answer

__all__ = ["FRAMINGS", "Wire"]

BROKEN_HTTP = b"Invalid HTTP request received."
"""What is said where no request can be made out, and so no dialect either."""


class Wire:
    """One client, whose connection is opened again where a request leaves it unusable."""

    def __init__(self, address: tuple[str, int], seconds: float = 60) -> None:
        self._address, self._seconds = address, seconds
        self._socket: socket.socket | None = None

    def send(self, path: str, body: Body, framing: str, source: Random) -> int | None:
        """The status of the answer, whose form is checked; None where there need not be one."""
        connection = self._socket or socket.create_connection(self._address, self._seconds)
        self._socket = None
        head = [f"POST {path} HTTP/1.1", "host: x"]
        if body.content_type is not None:
            head.append(f"content-type: {body.content_type}")
        lines, data = FRAMINGS[framing](body.data, source)
        sent = "\r\n".join([*head, *lines, "", ""]).encode("latin-1") + data
        try:
            connection.sendall(sent)
            if framing == "left":
                connection.close()
                return None
            answer = HTTPResponse(connection, method="POST")
            answer.begin()
            received = answer.read()
        except (OSError, HTTPException) as error:
            connection.close()
            if framing in _CUT_OFF:
                return None
            raise AssertionError(f"no answer to {framing} {sent[:500]!r}: {error!r}") from error
        kind = answer.headers["content-type"]
        if framing not in _BROKEN or received != BROKEN_HTTP or answer.status != 400:
            check_answer(path, answer.status, kind, received)
        if framing in _WHOLE and not answer.will_close:
            self._socket = connection
        else:
            connection.close()
        return answer.status

    def close(self) -> None:
        """End the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _chunks(data: bytes, source: Random) -> bytes:
    framed = b""
    while data:
        size = source.randint(1, len(data))
        framed += b"%x\r\n%b\r\n" % (size, data[:size])
        data = data[size:]
    return framed


def _broken_chunks(data: bytes, source: Random) -> bytes:
    odd = source.choice(
        [b"zz\r\n", b"-1\r\n", b"f" * 40 + b"\r\n", b"\r\n\r\n", b"5\r\nw1", b"\xff"]
    )
    framed = _chunks(data, source)
    return framed[: source.randrange(len(framed) + 1)] + odd + b"\r\n0\r\n\r\n"


def _length(data: bytes, source: Random) -> list[str]:
    return [f"content-length: {len(data)}"]


_CHUNKED = ["transfer-encoding: chunked"]
FRAMINGS: dict[str, Callable[[bytes, Random], tuple[list[str], bytes]]] = {
    "length": lambda d, s: (_length(d, s), d),
    "chunked": lambda d, s: (_CHUNKED, _chunks(d, s) + b"0\r\n\r\n"),
    "expect": lambda d, s: ([*_length(d, s), "expect: 100-continue"], d),
    "short": lambda d, s: ([f"content-length: {s.randint(0, len(d))}"], d),
    "long": lambda d, s: ([f"content-length: {len(d) + s.choice([1, 1000, 10**15])}"], d),
    "none": lambda d, s: ([], d),
    "odd_length": lambda d, s: (
        [f"content-length: {s.choice(['-1', 'x', '0x5', '', '1, 2', '9' * 50, '+1'])}"], d,
    ),
    "two_lengths": lambda d, s: ([*_length(d, s), f"content-length: {len(d) + 1}"], d),
    "both": lambda d, s: ([*_length(d, s), *_CHUNKED], _chunks(d, s) + b"0\r\n\r\n"),
    "odd_coding": lambda d, s: (["transfer-encoding: gzip"], d),
    "broken_chunks": lambda d, s: (_CHUNKED, _broken_chunks(d, s)),
    "left": lambda d, s: (_length(d, s), d[: s.randint(0, len(d))]),
}  # fmt: skip
"""Header lines and bytes after them, from a body."""
_WHOLE = ("length", "chunked", "expect")
_BROKEN = ("odd_length", "two_lengths", "both", "odd_coding", "broken_chunks", "none", "short")
_CUT_OFF = (*_BROKEN, "long")
"""Framings after which the server may close with bytes unread, so that the answer is lost."""
