"""Pairs to encodings, in a few threads beside the event loop and a piece at a time, so that a
cancelled or a large request holds a thread no longer than any other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from polyrank.errors import InputError
from polyrank.reranker import Reranker
from polyrank.server.problems import Problem
from polyrank.values import Encoding

__all__ = ["Encoder", "pieces"]

Pairs = Sequence[tuple[str, str]]
T = TypeVar("T")

_PIECE_PAIRS = 128
_PIECE_CHARACTERS = 1 << 18


class Encoder:
    """The threads."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "polyrank-server")

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown(cancel_futures=True)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run something that takes its time beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def encode(
        self, reranker: Reranker, pairs: Pairs, max_text_tokens: int | None
    ) -> list[Encoding]:
        """Encode pairs, texts cut to `max_text_tokens`. Raises Problem for what is no text."""
        encodings: list[Encoding] = []
        for piece in pieces(pairs):
            work = partial(reranker.encode, piece, max_text_tokens=max_text_tokens)
            try:
                encodings += await self.in_thread(work)
            except InputError as error:
                raise Problem("invalid", str(error)) from error
        return encodings


def pieces(pairs: Pairs) -> Iterator[Pairs]:
    """Pairs in runs of bounded number and, but for single long ones, of bounded length."""
    start = characters = 0
    for i, (query, text) in enumerate(pairs):
        characters += len(query) + len(text)
        if i > start and (i - start == _PIECE_PAIRS or characters > _PIECE_CHARACTERS):
            yield pairs[start:i]
            start, characters = i, len(query) + len(text)
    if start < len(pairs):
        yield pairs[start:]
