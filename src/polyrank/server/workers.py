"""Several processes behind one socket: starting them, restarting, ending. Loads no model.

The parent opens the socket and accepts nothing; a worker loads its model before it accepts. They
talk over a pipe, not by signals, which a terminal or a service manager sends to all of them too.
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any, Literal

from polyrank.cpus import available_cpus
from polyrank.errors import EngineStoppedError
from polyrank.server.metrics_files import MetricsFiles
from polyrank.server.settings import ServerSettings

__all__ = ["Place", "Work", "supervise"]

Order = Literal["drain", "end"]

_TICK_SECONDS = 0.1
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_STEADY_SECONDS = 60.0  # a process that ran for so long is started again after the first pause
_GRACE_SECONDS = 10.0  # for processes that should have ended
_SILENCE_SECONDS = 30.0  # of a process whose event loop hangs
_PAUSED_SECONDS = 5.0  # a tick that takes longer was one in which everything stood still
_log = logging.getLogger(__name__)


class Place:
    """What a worker has of its parent: a pipe, and a file for its metrics."""

    def __init__(self, connection: Connection, metrics: MetricsFiles) -> None:
        self.metrics = metrics
        self._connection = connection
        self._order: Order | None = None

    def ready(self, what: str) -> None:
        """Tell the parent that requests are answered."""
        self._tell("ready", what)

    def failed(self, why: str) -> None:
        """Tell the parent why this process ends."""
        self._tell("failed", why)

    def alive(self) -> None:
        """Tell the parent that the event loop turns; to be called each second or so."""
        self._tell("alive", "")

    def order(self) -> Order | None:
        """The parent's last order. Where the parent is gone, it is to drain."""
        try:
            while self._connection.poll():
                self._order = self._connection.recv()
        except (EOFError, OSError):
            self._order = self._order or "drain"
        return self._order

    def _tell(self, *words: str) -> None:
        with suppress(OSError):  # the parent is gone
            self._connection.send(words)


Work = Callable[[ServerSettings, socket.socket, Place], None]
"""What a worker's process does, from loading the model to its end."""


def supervise(
    settings: ServerSettings, listener: socket.socket, work: Work, *, say: Callable[[str], None]
) -> None:
    """Keep `settings.workers` processes at work until SIGTERM or Ctrl-C.

    `say` is told what is served, once all of them answer. Raises EngineStoppedError where one
    cannot start and no other answers, and KeyboardInterrupt after Ctrl-C.
    """
    threads = settings.threads or max(1, available_cpus() // settings.workers)
    with tempfile.TemporaryDirectory(prefix="polyrank-") as folder:
        crew = _Crew(replace(settings, threads=threads), listener, work, Path(folder))
        with crew.signals():
            crew.run(say)
    if crew.interrupted:
        raise KeyboardInterrupt


class _Worker:
    """One place in the crew, and the process that has it now."""

    def __init__(self, work: Work, *given: Any, metrics: MetricsFiles) -> None:
        self.ready = False
        self.said = ""
        """What is served, or why not."""
        self.told: Order | None = None
        self.due = 0.0
        """When to start a process, where there is none."""
        self.number = metrics.worker
        self._work, self._given, self._metrics = work, given, metrics
        self._pause = _FIRST_PAUSE_SECONDS
        self._started = self._heard = 0.0
        self._process: Any = None
        self._connection: Any = None

    @property
    def there(self) -> bool:
        """Whether it has a process, be it one that has ended and was not cleared away."""
        return self._process is not None

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self.there and not self._process.is_alive()

    @property
    def hangs(self) -> bool:
        """Whether its process answers requests, or should, and has long said nothing."""
        return self.ready and monotonic() - self._heard > _SILENCE_SECONDS

    @property
    def events(self) -> list[Any]:
        """What to wait for: its words, and its end."""
        return [self._process.sentinel, self._connection] if self.there else []

    def start(self) -> None:
        """Start a process; it says when it is ready."""
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=_begin, args=(self._work, *self._given, theirs, self._metrics), daemon=True
        )
        self.ready, self.said, self.told = False, "it was killed", None
        self._started = monotonic()
        self._process.start()
        theirs.close()
        pid = self._process.pid
        _log.info("a worker starts", extra={"worker": self.number, "pid": pid})

    def hear(self) -> None:
        """Take note of what its process says."""
        with suppress(EOFError, OSError):
            while self._connection.poll():
                word, said = self._connection.recv()
                self._heard = monotonic()
                if word != "alive":
                    self.ready, self.said = word == "ready", said

    def excuse(self) -> None:
        """Begin to wait for its words anew: we ourselves stood still, and it perhaps with us."""
        self._heard = monotonic()

    def tell(self, order: Order) -> None:
        """Pass an order on, once."""
        if self.told != order:
            self.told = order
            with suppress(OSError):
                self._connection.send(order)

    def kill(self) -> None:
        """End its process, whatever that does now."""
        self._process.kill()
        self._process.join()

    def clear(self) -> None:
        """Forget a process that has ended, and set when the next one starts."""
        self._process.join()
        steady = monotonic() - self._started >= _STEADY_SECONDS
        self._pause = _FIRST_PAUSE_SECONDS if steady else self._pause
        self.due = monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        facts = {"worker": self.number, "pid": self._process.pid,
                 "exit_code": self._process.exitcode}  # fmt: skip
        _log.log(logging.INFO if self.told else logging.ERROR, "a worker ended", extra=facts)
        self._connection.close()
        self._metrics.forget()
        self._process, self.ready = None, False


class _Crew:
    """All workers, and when they are to start and to end."""

    def __init__(
        self, settings: ServerSettings, listener: socket.socket, work: Work, folder: Path
    ) -> None:
        self.interrupted = False
        self._patience = settings.drain_delay_seconds + settings.drain_timeout_seconds
        self._workers = [
            _Worker(work, settings, listener, metrics=MetricsFiles(folder, n))
            for n in range(settings.workers)
        ]
        self._order: Order | None = None
        self._until = 0.0

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Make orders of SIGTERM and Ctrl-C."""
        before = {s: signal.signal(s, self._signalled) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def run(self, say: Callable[[str], None]) -> None:
        """Start the workers and look after them, until the last one has ended by order."""
        told = False
        try:
            while self._order is None or any(w.there for w in self._workers):
                for worker in self._workers:
                    self._look_after(worker)
                if not told and all(w.ready for w in self._workers):
                    told = True
                    say(self._workers[0].said)
                ticked = monotonic()
                wait([event for w in self._workers for event in w.events], _TICK_SECONDS)
                if monotonic() - ticked > _TICK_SECONDS + _PAUSED_SECONDS:
                    for worker in self._workers:
                        worker.excuse()
        finally:
            for worker in self._workers:
                if worker.there:
                    worker.kill()

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = self.interrupted or number == signal.SIGINT
        first = self._order is None
        self._order = "drain" if first else "end"
        self._until = monotonic() + _GRACE_SECONDS + (self._patience if first else 0.0)

    def _look_after(self, worker: _Worker) -> None:
        if not worker.there:
            if self._order is None and monotonic() >= worker.due:
                worker.start()
            return
        ended = worker.ended
        worker.hear()  # after that: what it said before its end is not lost
        if ended:
            served = worker.ready
            worker.clear()
            if self._order is None and not served and not any(w.ready for w in self._workers):
                raise EngineStoppedError(f"a worker could not start: {worker.said}")
        elif worker.hangs:
            _log.error("a worker hangs", extra={"worker": worker.number})
            worker.kill()
        elif self._order is not None:
            if not worker.ready or monotonic() > self._until:
                worker.kill()
            worker.tell(self._order)


def _begin(
    work: Work,
    settings: ServerSettings,
    listener: socket.socket,
    connection: Connection,
    metrics: MetricsFiles,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the parent decides
    work(settings, listener, Place(connection, metrics))
