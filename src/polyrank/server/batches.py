"""When batches began and ended, from what the engine tells: so many pairs of a request are done.

The engine's one worker calls, after each batch, once for every request in it. A batch begins when
the one before it ends, or when its first request comes, whichever is later.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from itertools import accumulate
from time import perf_counter

__all__ = ["BatchClock", "Ticket"]

_ONE_BATCH = 0.0005  # seconds: calls that follow each other as fast are of one batch


class Ticket:
    """One request's way through the engine."""

    def __init__(self, lengths: Sequence[int]) -> None:
        # The engine takes a request's longest pairs first.
        self._done = [0, *accumulate(sorted(lengths, reverse=True))]
        self._pairs = 0
        self.submitted = perf_counter()
        self.began: float | None = None
        """When its first batch began."""
        self.ended = self.submitted

    @property
    def waited(self) -> float:
        """Seconds before its first batch."""
        return (self.began or self.ended) - self.submitted

    @property
    def ran(self) -> float:
        """Seconds from its first batch to its last."""
        return self.ended - (self.began or self.ended)

    def pass_pairs(self, pairs: int) -> int:
        """Count pairs as done; their tokens."""
        before = self._pairs
        self._pairs += pairs
        return self._done[self._pairs] - self._done[before]


class BatchClock:
    """Tells waiting from running, and reports each batch's tokens and seconds."""

    def __init__(self, on_batch: Callable[[int, float], None]) -> None:
        self._on_batch = on_batch
        self._lock = threading.Lock()
        self._seen: set[Ticket] = set()
        self._tokens = 0
        self._recent = (0.0, 0.0)  # tokens and seconds of recent batches, the older the less
        self._began = self._last = perf_counter()

    def passed(self, ticket: Ticket, pairs: int) -> None:
        """A batch with pairs of this request is done. Called by the engine's worker."""
        now = perf_counter()
        with self._lock:
            if ticket in self._seen or now - self._last > _ONE_BATCH:
                self._close()
                self._began = max(self._last, ticket.submitted)
            ticket.began = ticket.began or max(self._began, ticket.submitted)
            ticket.ended = self._last = now
            self._tokens += ticket.pass_pairs(pairs)
            self._seen.add(ticket)

    def settle(self) -> None:
        """Report a batch that is over, though no other followed it."""
        with self._lock:
            if perf_counter() - self._last > _ONE_BATCH:
                self._close()

    def seconds(self, tokens: int) -> int:
        """About how long so many tokens take, from 1 to 60 s."""
        recent_tokens, recent_seconds = self._recent
        pace = recent_tokens / recent_seconds if recent_seconds else float("inf")
        return math.ceil(min(max(tokens / pace, 1), 60))

    def _close(self) -> None:
        if self._seen:
            seconds = self._last - self._began
            self._on_batch(self._tokens, seconds)
            tokens_before, seconds_before = self._recent
            self._recent = (0.9 * tokens_before + self._tokens, 0.9 * seconds_before + seconds)
        self._seen, self._tokens = set(), 0
