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
_CHARACTERS_PER_TOKEN = 32  # more than texts have in any language


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
        """Encode pairs, texts cut to `max_text_tokens`. Raises Problem for what is no text.

        Of a very long text only the beginning is read, where that is cut already: the rest would
        change nothing but how many tokens were given, and takes seconds. Windows read all of it.
        """
        most = _CHARACTERS_PER_TOKEN * reranker.max_length
        long = any(len(query) > most or len(text) > most for query, text in pairs)
        if not long or reranker.on_overflow == "windows":
            return await self._encode(reranker, pairs, max_text_tokens)
        # Once for each text: a query that all pairs share would be copied for each of them.
        start = {text: text[:most] for pair in pairs for text in pair}
        beginnings = [(start[query], start[text]) for query, text in pairs]
        encodings = await self._encode(reranker, beginnings, max_text_tokens)
        uncut = [
            i
            for i, ((query, text), e) in enumerate(zip(pairs, encodings, strict=True))
            if (len(query) > most and not e.query_cut) or (len(text) > most and not e.text_cut)
        ]
        whole = await self._encode(reranker, [pairs[i] for i in uncut], max_text_tokens)
        for i, encoding in zip(uncut, whole, strict=True):
            encodings[i] = encoding
        return encodings

    async def _encode(
        self, reranker: Reranker, pairs: Pairs, max_text_tokens: int | None
    ) -> list[Encoding]:
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
