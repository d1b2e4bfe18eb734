"""What forward passes tell: how long a request waited and ran, and how fast the engine is."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter

from polyrank.engine import Forward

__all__ = ["Pace", "Ticket"]

_REMEMBERED = 256  # passes; more than run at once


class Ticket:
    """One request's way through the engine."""

    def __init__(self) -> None:
        self._submitted = perf_counter()
        self._began = math.inf
        self._ended = self._submitted

    @property
    def waited(self) -> float:
        """Seconds before its first pass."""
        return max(min(self._began, self._ended) - self._submitted, 0.0)

    @property
    def ran(self) -> float:
        """Seconds from its first pass to its last."""
        return max(self._ended - self._began, 0.0)

    def passed(self, forward: Forward) -> None:
        """A pass with pairs of this request is over."""
        self._began = min(self._began, forward.began)
        self._ended = max(self._ended, forward.ended)


class Pace:
    """Reports each pass once, whichever requests shared it, and remembers how fast they were."""

    def __init__(self, on_pass: Callable[[int, float], None]) -> None:
        self._on_pass = on_pass
        self._lock = threading.Lock()
        self._seen: deque[int] = deque(maxlen=_REMEMBERED)
        self._recent = (0.0, 0.0)  # tokens and seconds of recent passes, the older the less
        self._last_end = -math.inf

    def passed(self, forward: Forward) -> None:
        """A pass is over. Called by the engine's workers, once for each request in it."""
        with self._lock:
            if forward.number in self._seen:
                return
            self._seen.append(forward.number)
            self._on_pass(forward.tokens, forward.ended - forward.began)
            # Passes that run side by side share their time.
            own = forward.ended - max(forward.began, min(self._last_end, forward.ended))
            self._last_end = max(self._last_end, forward.ended)
            tokens, seconds = self._recent
            self._recent = (0.9 * tokens + forward.tokens, 0.9 * seconds + own)

    def seconds(self, tokens: int) -> int:
        """About how long so many tokens take, from 1 to 60 s."""
        recent_tokens, recent_seconds = self._recent
        pace = recent_tokens / recent_seconds if recent_seconds else math.inf
        return math.ceil(min(max(tokens / pace, 1), 60))
