"""The server as a process: its socket, uvicorn, signals, and the end."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from types import FrameType
from typing import NoReturn

import uvicorn

from polyrank.errors import InputError, PolyrankError
from polyrank.server.app import build_app
from polyrank.server.connections import PatientListener, PatientProtocol
from polyrank.server.logs import start_logging
from polyrank.server.page import page_routes
from polyrank.server.service import Service
from polyrank.server.settings import ServerSettings
from polyrank.server.workers import Place, supervise

__all__ = ["serve"]

_METRICS_TICKS = 10  # of a tenth of a second
_log = logging.getLogger(__name__)


def serve(settings: ServerSettings, *, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; `say` gets a line once requests are answered.

    Raises what loading the model raised, InputError where nothing can listen at the address,
    EngineStoppedError where no worker can start, and KeyboardInterrupt after Ctrl-C. While the
    model loads, a signal ends the process.
    """
    listener = _listen(settings)
    start_logging(settings.log_level)
    host, port = listener.getsockname()[:2]
    where = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if not (settings.api_key or settings.api_key_file) and host not in ("127.0.0.1", "::1"):
        _log.warning("no API key is set: whoever reaches this address is served")
    if settings.workers > 1:
        supervise(settings, listener, _work, say=lambda what: say(f"{what} at {where}"))
        return
    service = Service(settings)
    server = _Server(service, lambda: say(f"{_what(service)} at {where}"))
    _run(server, listener, settings)
    if service.failure is not None:
        raise service.failure
    if service.state == "loading":
        _leave(130 if server.interrupted else 0)
    if server.interrupted:
        raise KeyboardInterrupt


def _leave(code: int) -> NoReturn:
    """End the process while a thread still loads the model.

    That thread is in native code; Python's own end would leave it nothing to come back to, and
    abort the process.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # its reader left
            stream.flush()
    os._exit(code)


def _work(settings: ServerSettings, listener: socket.socket, place: Place) -> None:
    """Be one of several workers: load the model, then serve until told to end."""
    start_logging(settings.log_level)
    try:
        service = Service(settings)
        service.with_others = place.metrics.text
        service.load()
    except (PolyrankError, OSError) as error:
        place.failed(str(error))
        sys.exit(1)
    server = _Server(service, lambda: place.ready(_what(service)), place)
    try:
        _run(server, listener, settings)
    except InputError as error:
        place.failed(str(error))
        sys.exit(1)


def _run(server: uvicorn.Server, listener: socket.socket, settings: ServerSettings) -> None:
    try:
        server.run(sockets=[PatientListener(fileno=listener.detach())])
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise _taken(settings, error) from error  # by a server that loaded as long as this one


def _config(service: Service) -> uvicorn.Config:
    settings = service.settings
    protocol = type("Protocol", (PatientProtocol,), {"seconds": settings.receive_timeout_seconds})
    return uvicorn.Config(
        build_app(service, routes=page_routes() if settings.page else ()),
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
        elif port:  # bind alone does not find another server: the address may be used again
            with socket.socket(family, kind, proto) as probe:
                if sys.platform != "win32":
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen()
        listener.bind(address)
    except (OSError, OverflowError) as error:
        raise _taken(settings, error) from error
    return listener


def _taken(settings: ServerSettings, error: Exception) -> InputError:
    return InputError(
        f"expected to listen at {settings.host} port {settings.port}: {error}; is another server "
        "there? --port 0 takes a free one"
    )


class _Server(uvicorn.Server):
    """Uvicorn that goes on listening while it drains, so that new requests hear 503."""

    def __init__(
        self, service: Service, ready: Callable[[], None], place: Place | None = None
    ) -> None:
        super().__init__(_config(service))
        self.interrupted = False
        self._service = service
        self._place = place
        self._ready: Callable[[], None] | None = ready
        self._draining_since = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._place is not None:  # one of several: the parent decides when it is enough
            if sig != signal.SIGINT:
                self._drain()
            return
        self.interrupted = self.interrupted or sig == signal.SIGINT
        if self._service.draining or self._service.state == "loading":
            self.should_exit = self.force_exit = True
        else:
            self._drain()

    def _drain(self) -> None:
        if not self._service.draining:
            self._service.draining = True
            self._draining_since = monotonic()

    def _obey(self, place: Place) -> None:
        """Follow the parent's orders. An engine that died is for it to replace."""
        order = place.order()
        if order is not None:
            self._drain()
        if order == "end":
            self.should_exit = self.force_exit = True
        elif self._service.state == "dead":
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        service, settings = self._service, self._service.settings
        if service.failure is not None:
            return True
        if self._place is not None:
            self._obey(self._place)
            if counter % _METRICS_TICKS == 0:
                self._place.alive()
                self._place.metrics.write(service.metrics_text())
        if self._ready is not None and service.state == "ready":
            self._ready()
            self._ready = None
        if service.draining:
            waited = monotonic() - self._draining_since
            idle = waited >= settings.drain_delay_seconds and not service.under_way
            if idle or waited >= settings.drain_delay_seconds + settings.drain_timeout_seconds:
                self.should_exit = True
        return await super().on_tick(counter)
