"""Which pairs go into the next forward pass. No thread, no clock, no tensor."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from polyrank.errors import QueueFullError

__all__ = ["Scheduler"]

Job = tuple[int, int]
"""(request, index of the pair in it)"""


class Scheduler:
    """A queue of requests, each a list of pairs known by their lengths in tokens.

    A request is admitted whole or not at all. Batches go in turns to the requests with the least
    left and to the oldest: a small one overtakes large ones, and whatever comes after it, a request
    that has become the oldest has half of the machine. Within a request the longest pairs come
    first, which keeps the lengths in a batch alike.
    """

    def __init__(self, *, max_batch_tokens: int, max_queue_tokens: int | None = None) -> None:
        self.max_batch_tokens = max_batch_tokens
        self.max_queue_tokens = max_queue_tokens
        """Tokens that may wait; None: no limit. An empty queue admits a request of any size."""
        self.queued_tokens = 0
        self.queued_pairs = 0
        self._waiting: dict[int, deque[tuple[int, int]]] = {}
        """request -> (length, index)..., the oldest first"""
        self._left: dict[int, int] = {}
        """request -> tokens that wait"""
        self._oldest_first = False

    def admit(self, request: int, lengths: Sequence[int]) -> None:
        """Queue all pairs of a new request. Raises QueueFullError, and then queues none."""
        tokens = sum(lengths)
        limit = self.max_queue_tokens
        if limit is not None and self.queued_tokens and self.queued_tokens + tokens > limit:
            raise QueueFullError(
                f"expected at most {limit} tokens in the queue, got {tokens} more on top of "
                f"{self.queued_tokens}; try again later"
            )
        order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
        if order:
            self._waiting[request] = deque((lengths[i], i) for i in order)
            self._left[request] = tokens
        self.queued_tokens += tokens
        self.queued_pairs += len(lengths)

    def next_batch(self, max_tokens: int | None = None) -> list[Job]:
        """Take the next batch's pairs from the queue; empty when nothing waits.

        `max_tokens` stands for the budget where less is wanted.
        """
        batch: list[Job] = []
        room = max_tokens or self.max_batch_tokens
        order = list(self._waiting)
        if not self._oldest_first:
            order.sort(key=self._left.__getitem__)
        for request in order:
            # The first always gets a pair through, however long; so nobody starves.
            room -= self._take(request, room, batch, at_least_one=not batch)
        self._oldest_first = not self._oldest_first
        for request in [r for r in order if not self._waiting[r]]:
            del self._waiting[request], self._left[request]
        return batch

    def cancel(self, request: int) -> None:
        """Drop what still waits of a request; unknown and finished ones are no error."""
        self.queued_pairs -= len(self._waiting.pop(request, ()))
        self.queued_tokens -= self._left.pop(request, 0)

    def _take(
        self, request: int, budget: int, batch: list[Job], *, at_least_one: bool = False
    ) -> int:
        """Move pairs that fit the budget from a request into the batch; tokens moved."""
        pairs = self._waiting[request]
        taken = 0
        while pairs and (taken + pairs[0][0] <= budget or (at_least_one and not taken)):
            length, index = pairs.popleft()
            taken += length
            batch.append((request, index))
            self.queued_pairs -= 1
        self.queued_tokens -= taken
        self._left[request] -= taken
        return taken
