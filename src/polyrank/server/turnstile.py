"""Who goes to the engine first: requests of a greater priority number wait for those of a smaller.

Within one number everybody goes at once: the engine shares its batches. Of one event loop; knows
no engine and no clock.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Turnstile"]


class Turnstile:
    """Lets requests by in the order of their priorities."""

    def __init__(self) -> None:
        self.waiting_tokens = 0
        """Tokens of all requests that wait here."""
        self._inside: Counter[int] = Counter()
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @asynccontextmanager
    async def turn(self, priority: int, tokens: int) -> AsyncIterator[None]:
        """Wait until nobody with a smaller number is inside, then be inside."""
        if self._first() < priority:
            await self._wait(priority, tokens)
        else:
            self._inside[priority] += 1
        try:
            yield
        finally:
            self._leave(priority)

    def _first(self) -> float:
        return min(self._inside, default=float("inf"))

    async def _wait(self, priority: int, tokens: int) -> None:
        called = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._numbers), called))
        self.waiting_tokens += tokens
        try:
            await called
        except asyncio.CancelledError:
            if called.done() and not called.cancelled():  # called and cancelled at once
                self._leave(priority)
            raise
        finally:
            self.waiting_tokens -= tokens

    def _leave(self, priority: int) -> None:
        self._inside[priority] -= 1
        if not self._inside[priority]:
            del self._inside[priority]
        while self._waiting and self._waiting[0][0] <= self._first():
            called = heapq.heappop(self._waiting)
            if not called[2].done():  # else cancelled meanwhile
                self._inside[called[0]] += 1
                called[2].set_result(None)
