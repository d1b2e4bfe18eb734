"""Connections: patience with slow clients that has an end, and life without file descriptors.

What uvicorn and asyncio leave open. Knows no request's meaning.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["PatientListener", "PatientProtocol"]

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_SECONDS = 0.01
_QUIET_SECONDS = 10.0
_log = logging.getLogger(__name__)


class PatientProtocol(H11Protocol):
    """HTTP whose patience has an end: uvicorn's has none for headers, nor for unread answers.

    `seconds`: for a client to send its headers, and to read any part of what waits for it.
    """

    seconds = 20.0
    _headers_due: asyncio.TimerHandle | None = None
    _reading_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._headers_due = self.loop.call_later(self.seconds, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget_headers()
        elif self.cycle is not None and self._between_requests():
            # What came was the end of a body whose answer had been sent before.
            self._forget_headers()
            if self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
        elif self._headers_due is None:  # headers have begun to come, or such a body
            self._headers_due = self.loop.call_later(self.seconds, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_headers()
        if self._reading_due is not None:
            self._reading_due.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reading()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:  # it has had its answer, before the end of its body
            self.transport.close()
        self._watch_reading()

    def _unsupported_upgrade_warning(self) -> None:
        """HTTP/1.1 goes on, without a word: Java's client offers HTTP/2 in every request."""

    def _watch_reading(self) -> None:
        """Look whether what is written gets read. Closing, too, would wait for that for ever."""
        if self._reading_due is None:
            self._expect_reading(before=None)

    def _expect_reading(self, before: int | None) -> None:
        unread = self.transport.get_write_buffer_size()
        self._reading_due = None
        if unread and before is not None and unread >= before:
            self.transport.abort()
        elif unread:
            self._reading_due = self.loop.call_later(self.seconds, self._expect_reading, unread)

    def _between_requests(self) -> bool:
        return self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

    def _forget_headers(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None


class PatientListener(socket.socket):
    """A listening socket; out of file descriptors, it lets new connections wait.

    asyncio of Python 3.10 to 3.13 then sets a timer for each connection that might wait, two
    thousand at a time, and each of them does so again.
    """

    _told = 0.0

    def accept(self) -> tuple[socket.socket, Any]:
        """A connection. Raises BlockingIOError where there is none, or no descriptor for one."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            now = time.monotonic()
            if now - self._told > _QUIET_SECONDS:
                self._told = now
                _log.warning("new connections wait: no file descriptors are left")
            # The event loop comes back at once for as long as somebody waits.
            time.sleep(_PAUSE_SECONDS)
            raise BlockingIOError(error.errno, "no file descriptors") from error
