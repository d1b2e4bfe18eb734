"""The model behind the server: loading it, admitting requests, awaiting the engine.

Knows no HTTP. Lives in one event loop; forward passes run in the engine's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from time import perf_counter

import numpy as np
import numpy.typing as npt

from polyrank.engine import Forward
from polyrank.errors import BackendError, EngineStoppedError, QueueFullError
from polyrank.models import find_model, fingerprint
from polyrank.reranker import Reranker
from polyrank.server.batches import Pace, Ticket
from polyrank.server.cache import Known, ScoreCache
from polyrank.server.encoder import Encoder
from polyrank.server.metrics import Metrics
from polyrank.server.problems import Problem
from polyrank.server.scored import About, Scored, State, Times
from polyrank.server.settings import ServerSettings
from polyrank.server.traces import open_traces
from polyrank.server.turnstile import Turnstile
from polyrank.values import Encoding

__all__ = ["Service"]

Logits = npt.NDArray[np.float32]

_VERSION = version("polyrank")
_HEARTBEAT_SECONDS = 0.5


class Service:
    """One model, and the requests that are under way with it."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.draining = False
        """Whether requests under way are the last ones."""
        self.under_way = 0
        """Requests that were admitted and are not answered yet."""
        self.failure: Exception | None = None
        """Why the model could not be loaded."""
        self.with_others: Callable[[str], str] = lambda text: text
        """From the metrics of this process to those of all that share its port."""
        self.started = int(time.time())
        self._reranker: Reranker | None = None
        self._fingerprint = ""
        self._cache = ScoreCache(0, ())
        self._turnstile = Turnstile()
        self._pace = Pace(self.metrics.batch)
        self.encoder = Encoder(settings.tokenizer_threads)
        self.traces = open_traces(settings.otlp_endpoint)
        """Where spans go; None: nowhere."""

    def load(self) -> None:
        """Load the model, and run it once, so that the first request finds it warm."""
        s = self.settings
        reranker = Reranker(
            s.model,
            revision=s.revision,
            backend=s.backend,
            device=s.device,
            dtype=s.dtype,
            max_length=s.max_length,
            offline=s.offline or None,
            max_query_tokens=s.max_query_tokens,
            max_batch_tokens=s.max_batch_tokens,
            threads=s.threads,
            max_queue_tokens=s.max_queue_tokens,
            on_overflow="windows" if s.on_overflow == "windows" else "truncate",
            calibration=s.calibration,
        )
        folder = find_model(s.model, revision=reranker.revision, offline=s.offline or None)
        self.use(reranker, fingerprint(folder.path))

    def use(self, reranker: Reranker, fingerprint: str) -> None:
        """Serve a model that is loaded; the service closes it."""
        reranker.logits([("a", "b")])
        self._fingerprint = fingerprint
        identity = (fingerprint, reranker.backend_name, reranker.max_length, reranker.window,
                    self.settings.max_query_tokens, reranker.on_overflow)  # fmt: skip
        self._cache = ScoreCache(self.settings.cache_pairs, identity)
        self.metrics.model(
            max_batch_tokens=reranker.max_batch_tokens,
            name=reranker.name,
            fingerprint=fingerprint,
            backend=reranker.backend_name,
        )
        self._reranker = reranker

    def close(self) -> None:
        """End the engine and the threads."""
        self.encoder.close()
        if self.traces is not None:
            self.traces.close()
        if self._reranker is not None:
            self._reranker.close()

    @property
    def state(self) -> State:
        """Whether requests are answered, and if not, why."""
        if self._reranker is None:
            return "loading"
        if self._reranker.health().state != "running":
            return "dead"
        return "draining" if self.draining else "ready"

    def about(self) -> About:
        """What the server says of itself now."""
        s, r = self.settings, self._reranker
        backend, device, dtype = r.backend_name.split() if r else ("", "", "")
        own = r.name if r else str(s.model or "")
        names = tuple(dict.fromkeys([*s.served_name, own]))
        return About(
            state=self.state,
            name=names[0],
            names=names,
            refuse_unknown=s.unknown_models == "refuse",
            revision=r.revision if r else None,
            fingerprint=self._fingerprint,
            backend=backend,
            device=device,
            dtype=dtype,
            max_length=r.max_length if r else 0,
            max_batch_tokens=r.max_batch_tokens if r else s.max_batch_tokens,
            max_requests=s.max_requests,
            max_documents=s.max_documents,
            tokenizer_threads=s.tokenizer_threads,
            version=_VERSION,
            started=self.started,
            metrics=lambda: self.with_others(self.metrics_text()),
        )

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count a request in. Raises Problem where none is admitted now."""
        state = self.state
        if state != "ready":
            raise Problem("unavailable", f"the server is {state}; try again later")
        if self.under_way >= self.settings.max_requests:
            raise self._overloaded("too many requests are under way")
        if self._queued_tokens() >= self.settings.max_queue_tokens:
            raise self._overloaded("the queue is full")
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1

    async def score(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        truncate: bool,
        left: bool,
        max_text_tokens: int | None,
        priority: int,
    ) -> Scored:
        """Score pairs; what `dialect.Call.score` says. Cancelling frees the queue."""
        assert self._reranker is not None, "a request is admitted first"
        reranker = self._reranker
        limit = self.settings.max_documents
        if len(pairs) > limit:
            message = f"expected at most {limit} documents, got {len(pairs)}"
            raise Problem("too_many", message, count=len(pairs), limit=limit)
        keys = self._cache.keys(pairs, max_text_tokens)
        known = [self._cache.get(key) for key in keys] or [None] * len(pairs)
        new = [i for i, k in enumerate(known) if k is None]
        start = perf_counter()
        encodings = await self.encoder.encode(reranker, [pairs[i] for i in new], max_text_tokens)
        tokenized = perf_counter() - start
        for i, e in zip(new, encodings, strict=True):
            known[i] = Known(np.nan, len(e), e.tokens_given, e.limit_cut, e.query_cut)
        found = [k for k in known if k is not None]
        self._check_lengths(found, reranker.max_length, truncate=truncate, left=left)
        ticket = Ticket()
        if encodings:
            logits = await self._run(reranker, encodings, ticket, priority)
            for i, logit in zip(new, logits, strict=True):
                found[i] = replace(found[i], logit=float(logit))
                if keys:
                    self._cache.put(keys[i], found[i])
        scored = Scored(
            logits=np.array([k.logit for k in found], np.float32),
            tokens=np.array([k.tokens for k in found], np.int64),
            cut=tuple(i for i, k in enumerate(found) if k.tokens < k.tokens_given),
            query_cut=max((k.query_cut for k in found), default=0),
            cached=len(pairs) - len(new),
            characters=sum(len(query) + len(text) for query, text in pairs),
            calibration=reranker.calibration,
            times=Times(began=start, tokenize=tokenized, queue=ticket.waited, forward=ticket.ran),
        )
        self.metrics.scored(scored)
        return scored

    def _check_lengths(
        self, found: Sequence[Known], limit: int, *, truncate: bool, left: bool
    ) -> None:
        longest = max((k.tokens_given for k in found if k.limit_cut), default=None)
        if longest is not None and not truncate:
            message = f"expected at most {limit} tokens per pair, got {longest}"
            raise Problem("too_long", message, count=longest, limit=limit)
        if left and any(k.tokens < k.tokens_given for k in found):
            raise Problem("too_long", "cutting texts at their start is not supported")
        total, most = sum(k.tokens for k in found), self.settings.max_request_tokens
        if total > most:
            message = f"expected at most {most} tokens in a request, got {total}"
            raise Problem("too_many_tokens", message, count=total, limit=most)

    async def _run(
        self, reranker: Reranker, encodings: Sequence[Encoding], ticket: Ticket, priority: int
    ) -> Sequence[float]:
        def passed(pairs: int, forward: Forward) -> None:
            ticket.passed(forward)
            self._pace.passed(forward)

        tokens = sum(len(e) for e in encodings)
        waiting = self._turnstile.waiting_tokens
        if waiting and waiting + tokens > self.settings.max_queue_tokens:
            raise self._overloaded("the queue is full")
        async with self._turnstile.turn(priority, tokens):
            try:
                future = reranker.submit(encodings, on_forward=passed)
                logits = await self._alive(asyncio.wrap_future(future))
            except QueueFullError as error:
                raise self._overloaded(str(error)) from error
            except EngineStoppedError as error:
                raise Problem("unavailable", "the engine is dead") from error
            except BackendError as error:
                raise Problem("backend", str(error)) from error
        return [float(x) for x in logits]

    async def _alive(self, logits: asyncio.Future[Logits]) -> Logits:
        """Wait for the engine, but not for a dead one."""
        try:
            while not logits.done():
                await asyncio.wait([logits], timeout=_HEARTBEAT_SECONDS)
                if not logits.done() and self.state == "dead":
                    raise EngineStoppedError("the engine died")
            return logits.result()
        finally:
            logits.cancel()

    def _overloaded(self, message: str) -> Problem:
        seconds = self._pace.seconds(self._queued_tokens())
        return Problem("overloaded", message, retry_after_seconds=seconds)

    def _queued_tokens(self) -> int:
        queued = self._reranker.health().queued_tokens if self._reranker else 0
        return queued + self._turnstile.waiting_tokens

    def metrics_text(self) -> str:
        """The metrics of this process, in Prometheus' text format."""
        metrics = self.metrics
        if self._reranker is not None:
            metrics.queue_pairs.set(self._reranker.health().queued_pairs)
        metrics.queue_tokens.set(self._queued_tokens())
        metrics.requests_under_way.set(self.under_way)
        metrics.ready.set(self.state == "ready")
        metrics.cache_pairs.set(len(self._cache))
        return metrics.text()
