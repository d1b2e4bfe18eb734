"""Worker threads that join the scheduler and a backend. Knows no text and no HTTP."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import numpy as np
import numpy.typing as npt

from polyrank.engine.scheduler import Scheduler
from polyrank.errors import BackendError, EngineStoppedError
from polyrank.values import Backend, Encoding, pack, parts_of

__all__ = ["Engine", "Forward", "Health", "OnForward"]

Logits = npt.NDArray[np.float32]

_SMALLEST_PART = 4  # of a pass that runs beside others, of the budget
_log = logging.getLogger("polyrank")


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What the engine says of itself."""

    state: Literal["stopped", "running", "failed"]
    queued_pairs: int
    queued_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Forward:
    """A forward pass that is over."""

    number: int
    """Counts from 0; the requests that shared the pass are told of the same one."""
    tokens: int
    """Of all requests in it."""
    began: float
    """On the clock of `time.perf_counter`, in seconds."""
    ended: float


OnForward = Callable[[int, Forward], None]
"""Told how many pairs of a request a forward pass did, and of the pass."""


class _Request:
    """What is known of one submit until its last pair is done.

    Equal pairs run once: cheaper, and equal to the last bit, so that ties are ties.
    """

    def __init__(self, encodings: Sequence[Encoding], on_forward: OnForward) -> None:
        parts, self.starts = parts_of(encodings)
        """[N] where each pair's parts begin; most pairs have one"""
        first: dict[tuple[bytes, int], int] = {}
        unique = [first.setdefault((e.ids.tobytes(), e.type_split), len(first)) for e in parts]
        self.unique = np.array(unique, np.intp)
        """[parts] which of the distinct ones each part is"""
        places = np.unique(self.unique, return_index=True)[1]
        self.encodings = [parts[i] for i in places]
        """The distinct parts"""
        self.copies = np.bincount(self.unique[self.starts], minlength=len(self.encodings))
        """How many pairs begin with each distinct part"""
        self.on_forward = on_forward
        self.logits = np.full(len(self.encodings), np.nan, np.float32)
        self.left = len(self.encodings)
        self.future: Future[Logits] = Future()

    def result(self) -> Logits:
        """[N] the pairs' logits, once all parts are done."""
        return np.maximum.reduceat(self.logits[self.unique], self.starts)


_Job = tuple[_Request, int]
"""A request, and which of its distinct parts."""


class Engine:
    """Runs the pairs of all callers through one backend. Safe to use from many threads.

    Where the backend can run several passes side by side, each on a thread of its own, and the
    queue holds enough for all of them, that is what happens: it is faster than one after another
    on all threads. A pass that nothing else is there to run beside, and one of a pair longer than
    the budget, runs alone.
    """

    def __init__(
        self, backend: Backend, *, max_batch_tokens: int, max_queue_tokens: int | None = None
    ) -> None:
        self._backend = backend
        self._budget = max_batch_tokens
        self._scheduler = Scheduler(
            max_batch_tokens=max_batch_tokens, max_queue_tokens=max_queue_tokens
        )
        self._requests: dict[int, _Request] = {}
        self._numbers = itertools.count()
        self._passes = itertools.count()
        self._changed = threading.Condition()
        self._stopping = False
        self._ended = False
        self._running = 0  # forward passes
        self._alone = False  # whether a pass runs, or waits to run, that takes all threads
        self._workers: list[threading.Thread] = []
        self._working = 0  # workers that have not ended
        _engines.add(self)

    def start(self) -> Engine:
        """Start the workers. An engine starts once."""
        assert not self._workers, "an engine starts once"
        self._working = self._backend.parallel
        for n in range(self._backend.parallel):
            name = f"polyrank-engine-{n}"
            self._workers.append(threading.Thread(target=self._work, name=name, daemon=True))
        for worker in self._workers:
            worker.start()
        return self

    def stop(self) -> None:
        """Finish what runs, fail what still waits, end the workers. Repeating is fine."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for worker in self._workers:
            if worker is not threading.current_thread():
                worker.join()

    def submit(
        self,
        encodings: Sequence[Encoding],
        *,
        on_forward: OnForward = lambda pairs, forward: None,
    ) -> Future[Logits]:
        """Queue pairs as one request; the future gives [N] raw logits in input order.

        `on_forward` is called by a worker, one call at a time, after each pass that held some of
        them. Cancelling the future takes its waiting pairs from the queue. Raises QueueFullError
        (nothing was admitted) and EngineStoppedError.
        """
        if not encodings:
            nothing: Future[Logits] = Future()
            nothing.set_result(np.empty(0, np.float32))
            return nothing
        request = _Request(encodings, on_forward)
        with self._changed:
            if self._stopping or not self._alive():
                raise EngineStoppedError(
                    "expected a running engine, but it was closed, a worker of it ended, or this "
                    "process was forked after it started; make a new Reranker"
                )
            number = next(self._numbers)
            self._scheduler.admit(number, [len(e) for e in request.encodings])
            self._requests[number] = request
            self._changed.notify_all()
        request.future.add_done_callback(lambda future: self._forget(number))
        return request.future

    def health(self) -> Health:
        """State and queue, as they are now."""
        with self._changed:
            if self._alive():
                state: Literal["stopped", "running", "failed"] = "running"
            else:
                state = "stopped" if self._stopping or not self._workers else "failed"
            return Health(
                state=state,
                queued_pairs=self._scheduler.queued_pairs,
                queued_tokens=self._scheduler.queued_tokens,
            )

    def end_in_child(self) -> None:
        """Refuse all in a forked process: it has no workers, and a lock that any thread of its
        parent may have held."""
        self._changed = threading.Condition()
        self._ended = True

    def _alive(self) -> bool:
        # Not by asking the threads: an interrupt meanwhile makes Python 3.11 take them for dead.
        return bool(self._workers) and not self._ended

    def _forget(self, number: int) -> None:
        with self._changed:
            self._scheduler.cancel(number)
            self._requests.pop(number, None)

    def _work(self) -> None:
        try:
            while work := self._take():
                self._forward(*work)
                del work  # so that no caller's texts are held while the worker waits
        finally:
            with self._changed:
                self._ended = True  # whoever comes from here on is refused, not forgotten
                self._working -= 1
                left = list(self._requests.values()) if self._working == 0 else []
                self._changed.notify_all()
            for request in left:
                _fail(request, EngineStoppedError("the engine stopped before this was scored"))

    def _take(self) -> tuple[list[_Job], bool] | None:
        """The next pass's pairs, and whether it runs alone; None at the end."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._stopping
                    or self._ended
                    or (self._scheduler.queued_pairs > 0 and not self._alone)
                )
            )
            if self._stopping or self._ended:
                return None
            workers = len(self._workers)
            share = self._scheduler.queued_tokens // workers
            few = share < self._budget and not self._running
            # Towards the end passes get smaller, so that all workers end at the same time.
            small = max(share, self._budget // _SMALLEST_PART)
            jobs = self._scheduler.next_batch(self._budget if few else min(small, self._budget))
            work = [(self._requests[number], index) for number, index in jobs]
            alone = workers == 1 or few or _tokens(work) > self._budget
            if alone:
                self._alone = True
                self._changed.wait_for(lambda: self._running == 0)
            self._running += 1
            return work, alone

    def _forward(self, work: Sequence[_Job], alone: bool) -> None:
        began = perf_counter()
        try:
            logits, errors = self._logits(work, alone)
        finally:
            with self._changed:
                self._running -= 1
                self._alone = self._alone and not alone
                self._changed.notify_all()
        for request, error in errors.items():
            _fail(request, error)
        forward = Forward(
            number=next(self._passes), tokens=_tokens(work), began=began, ended=perf_counter()
        )
        done: dict[_Request, list[int]] = {}
        with self._changed:  # a request's pairs may be in several passes at once
            for (request, index), logit in zip(work, logits, strict=True):
                if request not in errors:
                    request.logits[index] = logit
                    done.setdefault(request, []).append(index)
            for request, indices in done.items():
                request.left -= len(indices)
                try:
                    request.on_forward(int(request.copies[indices].sum()), forward)
                except Exception:  # noqa: BLE001  one caller's, no matter of the others
                    _log.exception("polyrank: on_forward failed")
        for request in done:
            if request.left == 0:
                _finish(request)

    def _logits(
        self, work: Sequence[_Job], all_threads: bool
    ) -> tuple[Logits, dict[_Request, Exception]]:
        """The work's logits, and the requests that have none for a pair of theirs, with the reason.

        A pass that fails runs again, each request by itself: one that breaks the network breaks
        no other.
        """
        try:
            logits = self._backend.forward(
                pack([r.encodings[i] for r, i in work]), all_threads=all_threads
            )
        except Exception as error:  # noqa: BLE001  it is handed to everyone who waits for it
            logits = np.full(len(work), np.nan, np.float32)
            parts = _by_request(work)
            if len(parts) == 1:
                return logits, dict.fromkeys(parts, error)
            errors: dict[_Request, Exception] = {}
            for places in parts.values():
                logits[places], failed = self._logits([work[p] for p in places], all_threads)
                errors |= failed
            return logits, errors
        missing = [job for job, logit in zip(work, logits, strict=True) if np.isnan(logit)]
        return logits, {
            request: BackendError(
                f"{self._backend.name} gave NaN for {len(places)} of "
                f"{sum(r is request for r, _ in work)} pairs; the weights are broken, or the "
                'dtype is too narrow for them: try dtype="fp32"'
            )
            for request, places in _by_request(missing).items()
        }


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _end_in_child() -> None:
    for engine in list(_engines):
        engine.end_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_in_child)


def _by_request(work: Sequence[_Job]) -> dict[_Request, list[int]]:
    """Where in the work each request's pairs are."""
    places: dict[_Request, list[int]] = {}
    for place, (request, _) in enumerate(work):
        places.setdefault(request, []).append(place)
    return places


def _tokens(work: Sequence[_Job]) -> int:
    return sum(len(request.encodings[index]) for request, index in work)


def _finish(request: _Request) -> None:
    with suppress(InvalidStateError):  # cancelled meanwhile: nobody waits
        request.future.set_result(request.result())


def _fail(request: _Request, error: Exception) -> None:
    with suppress(InvalidStateError):  # cancelled meanwhile: nobody waits
        request.future.set_exception(error)
