"""The server as a process: its socket, uvicorn, slow clients, signals, and the end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from time import monotonic
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from polyrank.errors import InputError
from polyrank.server.app import build_app
from polyrank.server.logs import start_logging
from polyrank.server.service import Service
from polyrank.server.settings import ServerSettings

__all__ = ["serve"]

_log = logging.getLogger(__name__)


def serve(settings: ServerSettings, *, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; `say` gets a line once requests are answered.

    Raises what loading the model raised, InputError where nothing can listen at the address, and
    KeyboardInterrupt after Ctrl-C.
    """
    listener = _listen(settings)
    start_logging(settings.log_level)
    service = Service(settings)
    host, port = listener.getsockname()[:2]
    where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if not (settings.api_key or settings.api_key_file) and host not in ("127.0.0.1", "::1"):
        _log.warning("no API key is set: whoever reaches this address is served")
    protocol = type("Protocol", (_PatientProtocol,), {"seconds": settings.receive_timeout_seconds})
    config = uvicorn.Config(
        build_app(service),
        http=protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=max(1, round(settings.idle_timeout_seconds)),
        timeout_graceful_shutdown=2,
    )
    server = _Server(config, service, lambda: say(f"{_what(service)} at {where}"))
    server.run(sockets=[listener])
    if service.failure is not None:
        raise service.failure
    if server.interrupted:
        raise KeyboardInterrupt


def _what(service: Service) -> str:
    about = service.about()
    return f"serving {about.name} ({about.backend} {about.device} {about.dtype})"


def _listen(settings: ServerSettings) -> socket.socket:
    host, port = settings.host, settings.port
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.reuse_port:
            if not hasattr(socket, "SO_REUSEPORT"):
                raise InputError("expected no reuse_port: this system cannot share a port")
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"expected to listen at {host} port {port}: {error}; is another server there? "
            "--port 0 takes a free one"
        ) from error
    return listener


class _PatientProtocol(H11Protocol):
    """HTTP whose patience has an end: uvicorn's has none for headers, nor for unread answers."""

    seconds = 20.0
    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._headers_due = self.loop.call_later(self.seconds, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:  # headers have begun to come
            if self._headers_due is None:
                self._headers_due = self.loop.call_later(
                    self.seconds, self.timeout_keep_alive_handler
                )
        else:
            self._forget_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_headers()
        super().connection_lost(exc)

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        # Closing waits for what is written to be read; not for ever.
        self.loop.call_later(self.seconds, self.transport.abort)

    def _forget_headers(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None


class _Server(uvicorn.Server):
    """Uvicorn that goes on listening while it drains, so that new requests hear 503."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.interrupted = False
        self._service = service
        self._ready: Callable[[], None] | None = ready
        self._draining_since = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.interrupted = self.interrupted or sig == signal.SIGINT
        if self._service.draining or self._service.state == "loading":
            self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        self._draining_since = monotonic()

    async def on_tick(self, counter: int) -> bool:
        service, settings = self._service, self._service.settings
        if service.failure is not None:
            return True
        if self._ready is not None and service.state == "ready":
            self._ready()
            self._ready = None
        if service.draining:
            waited = monotonic() - self._draining_since
            idle = waited >= settings.drain_delay_seconds and not service.under_way
            if idle or waited >= settings.drain_delay_seconds + settings.drain_timeout_seconds:
                self.should_exit = True
        return await super().on_tick(counter)
