"""Scores that were computed before, the most recently used of them. No model, no clock."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Known", "ScoreCache"]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a pair."""

    logit: float
    tokens: int
    tokens_given: int
    limit_cut: int = 0
    """Tokens that the model's limit took, beside what the client had cut."""
    query_cut: int = 0
    """Tokens that the query lost."""


class ScoreCache:
    """At most `pairs` scores; the least recently used go first.

    A key is a hash of model, limits and texts, so no text is kept. `identity` is whatever else
    decides a score: the model's fingerprint, its dtype, its limits.
    """

    def __init__(self, pairs: int, identity: Sequence[object]) -> None:
        self._pairs = pairs
        self._identity = hashlib.blake2b(repr(tuple(identity)).encode(), digest_size=20).digest()
        self._known: OrderedDict[bytes, Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def keys(self, pairs: Sequence[tuple[str, str]], max_text_tokens: int | None) -> list[bytes]:
        """A key for each pair; of no use, and so empty, where nothing is kept."""
        if not self._pairs:
            return []
        start = hashlib.blake2b(self._identity, digest_size=20)
        start.update(str(max_text_tokens).encode())
        keys = []
        for query, text in pairs:
            key = start.copy()
            # The length in front tells where the query ends.
            given = query.encode()
            key.update(b"%d:" % len(given))
            key.update(given)
            key.update(text.encode())
            keys.append(key.digest())
        return keys

    def get(self, key: bytes) -> Known | None:
        """What is known of a key, which becomes the most recently used."""
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
        return known

    def put(self, key: bytes, known: Known) -> None:
        """Keep a score, and forget the oldest ones that there is no room for."""
        self._known[key] = known
        self._known.move_to_end(key)
        while len(self._known) > self._pairs:
            self._known.popitem(last=False)
