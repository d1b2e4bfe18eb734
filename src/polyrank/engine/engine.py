"""One worker thread that joins the scheduler and a backend. Knows no text and no HTTP."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from polyrank.engine.scheduler import Scheduler
from polyrank.errors import BackendError, EngineStoppedError
from polyrank.values import Backend, Encoding, pack

__all__ = ["Engine", "Health"]

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What the engine says of itself."""

    state: Literal["stopped", "running", "failed"]
    queued_pairs: int
    queued_tokens: int


class _Request:
    """What is known of one submit until its last pair is done.

    Equal pairs run once: cheaper, and equal to the last bit, so that ties are ties.
    """

    def __init__(self, encodings: Sequence[Encoding], on_progress: Callable[[int], None]) -> None:
        first: dict[tuple[bytes, int], int] = {}
        unique = [first.setdefault((e.ids.tobytes(), e.type_split), len(first)) for e in encodings]
        self.unique = np.array(unique, np.intp)
        """[N] which of the distinct pairs each pair is"""
        places = np.unique(self.unique, return_index=True)[1]
        self.encodings = [encodings[i] for i in places]
        """The distinct pairs"""
        self.copies = np.bincount(self.unique)
        """How many pairs each distinct pair stands for"""
        self.on_progress = on_progress
        self.logits = np.full(len(self.encodings), np.nan, np.float32)
        self.left = len(self.encodings)
        self.future: Future[Logits] = Future()


class Engine:
    """Runs the pairs of all callers through one backend. Safe to use from many threads."""

    def __init__(
        self, backend: Backend, *, max_batch_tokens: int, max_queue_tokens: int | None = None
    ) -> None:
        self._backend = backend
        self._scheduler = Scheduler(
            max_batch_tokens=max_batch_tokens, max_queue_tokens=max_queue_tokens
        )
        self._requests: dict[int, _Request] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._stopping = False
        self._ended = False
        self._worker: threading.Thread | None = None

    def start(self) -> Engine:
        """Start the worker. An engine starts once."""
        assert self._worker is None, "an engine starts once"
        self._worker = threading.Thread(target=self._run, name="polyrank-engine", daemon=True)
        self._worker.start()
        return self

    def stop(self) -> None:
        """Finish the batch that runs, fail what still waits, end the worker. Repeating is fine."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        worker = self._worker
        if worker is not None and worker is not threading.current_thread():
            worker.join()

    def submit(
        self,
        encodings: Sequence[Encoding],
        *,
        on_progress: Callable[[int], None] = lambda pairs: None,
    ) -> Future[Logits]:
        """Queue pairs as one request; the future gives [N] raw logits in input order.

        `on_progress` is called from the worker with the number of pairs just done. Cancelling
        the future takes its waiting pairs from the queue. Raises QueueFullError (nothing was
        admitted) and EngineStoppedError.
        """
        request = _Request(encodings, on_progress)
        if not encodings:
            request.future.set_result(np.empty(0, np.float32))
            return request.future
        with self._changed:
            if self._stopping or not self._alive():
                raise EngineStoppedError(
                    "expected a running engine, but it was closed, its worker ended, or this "
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
                state = "stopped" if self._stopping or self._worker is None else "failed"
            return Health(
                state=state,
                queued_pairs=self._scheduler.queued_pairs,
                queued_tokens=self._scheduler.queued_tokens,
            )

    def _alive(self) -> bool:
        return self._worker is not None and self._worker.is_alive() and not self._ended

    def _forget(self, number: int) -> None:
        with self._changed:
            self._scheduler.cancel(number)
            self._requests.pop(number, None)

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._stopping or self._scheduler.queued_pairs > 0
                    )
                    if self._stopping:
                        return
                    jobs = self._scheduler.next_batch()
                    work = [(self._requests[number], index) for number, index in jobs]
                self._forward(work)
                del work  # so that no caller's texts are held while the worker waits
        finally:
            with self._changed:
                self._ended = True  # whoever comes from here on is refused, not forgotten
                left = list(self._requests.values())
            for request in left:
                _fail(request, EngineStoppedError("the engine stopped before this was scored"))

    def _forward(self, work: Sequence[tuple[_Request, int]]) -> None:
        requests = list(dict.fromkeys(request for request, _ in work))
        try:
            logits = self._backend.forward(pack([r.encodings[i] for r, i in work]))
            if np.isnan(logits).any():
                raise BackendError(
                    f"{self._backend.name} gave NaN for {int(np.isnan(logits).sum())} of "
                    f"{len(work)} pairs; the weights are broken, or the dtype is too narrow "
                    'for them: try dtype="fp32"'
                )
        except Exception as error:  # noqa: BLE001  it is handed to everyone who waits for it
            for request in requests:
                _fail(request, error)
            return
        done: dict[_Request, list[int]] = {request: [] for request in requests}
        for (request, index), logit in zip(work, logits, strict=True):
            request.logits[index] = logit
            done[request].append(index)
        for request, indices in done.items():
            request.left -= len(indices)
            request.on_progress(int(request.copies[indices].sum()))
            if request.left == 0:
                _finish(request)


def _finish(request: _Request) -> None:
    with suppress(InvalidStateError):  # cancelled meanwhile: nobody waits
        request.future.set_result(request.logits[request.unique])


def _fail(request: _Request, error: Exception) -> None:
    with suppress(InvalidStateError):  # cancelled meanwhile: nobody waits
        request.future.set_exception(error)
