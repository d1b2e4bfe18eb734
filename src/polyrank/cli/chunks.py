"""A stream of lines in chunks, scored in order. Knows no file format and prints nothing.

Chunks depend on the input alone, and one chunk is scored at a time: batches of other pairs move
the last bits of a logit, so this is what makes a resumed output equal to an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from polyrank.errors import InputError
from polyrank.values import Encoding, Pair

__all__ = ["Chunk", "Cuts", "Scored", "read_chunks", "score_chunks"]

_MAX_PAIRS = 2048
_MAX_BYTES = 16 << 20

Fields = dict[str, Any]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """Lines that are read, and scored, together."""

    start: int
    """Lines of the input before the first of these."""
    lines: list[bytes]

    @property
    def end(self) -> int:
        """Lines of the input up to the last of these."""
        return self.start + len(self.lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """A chunk's pairs, up to its first bad line."""

    chunk: Chunk
    pairs: list[Fields]
    encodings: Sequence[Encoding]
    logits: Logits


@dataclass(slots=True)
class Cuts:
    """What was cut of the pairs so far."""

    pairs: int = 0
    """All of them."""
    cut: int = 0
    """Those that were cut."""
    query_cut: int = 0
    """The most tokens that a query lost."""

    def add(self, encodings: Sequence[Encoding]) -> None:
        """Count more pairs."""
        self.pairs += len(encodings)
        self.cut += sum(e.truncated for e in encodings)
        self.query_cut = max([self.query_cut, *(e.query_cut for e in encodings)])


class _Reranker(Protocol):
    def encode(self, pairs: Iterable[Pair]) -> list[Encoding]: ...
    def submit(self, encodings: Sequence[Encoding]) -> Future[Logits]: ...


def read_chunks(
    lines: Iterable[bytes], *, max_pairs: int = _MAX_PAIRS, max_bytes: int = _MAX_BYTES
) -> Iterator[Chunk]:
    """Lines in chunks of `max_pairs`; sooner, once a chunk has `max_bytes`."""
    start, taken, size = 0, [], 0
    for line in lines:
        taken.append(line)
        size += len(line)
        if len(taken) == max_pairs or size >= max_bytes:
            yield Chunk(start=start, lines=taken)
            start, taken, size = start + len(taken), [], 0
    if taken:
        yield Chunk(start=start, lines=taken)


def score_chunks(
    reranker: _Reranker, chunks: Iterable[Chunk], parse: Callable[[bytes, int], Fields]
) -> Iterator[Scored]:
    """Score chunks in order; the next one is read and tokenised while one is being scored.

    `parse` makes the fields of a pair from a line and its number, from 1. Where it raises
    InputError, the pairs before that line are given first, then the error is raised.
    """
    waiting: Callable[[], Scored] | None = None
    future: Future[Logits] | None = None
    try:
        for chunk in chunks:
            pairs, error = _parse(chunk, parse)
            encodings = reranker.encode([(p["query"], p) for p in pairs])
            done = waiting() if waiting else None
            future = reranker.submit(encodings)
            waiting = _waiting(chunk, pairs, encodings, future)
            if done:
                yield done
            if error:
                yield waiting()
                raise error
        if waiting:
            yield waiting()
    finally:
        if future:
            future.cancel()  # without effect unless we were interrupted


def _waiting(
    chunk: Chunk, pairs: list[Fields], encodings: Sequence[Encoding], future: Future[Logits]
) -> Callable[[], Scored]:
    return lambda: Scored(chunk=chunk, pairs=pairs, encodings=encodings, logits=future.result())


def _parse(
    chunk: Chunk, parse: Callable[[bytes, int], Fields]
) -> tuple[list[Fields], InputError | None]:
    pairs: list[Fields] = []
    try:
        for number, line in enumerate(chunk.lines, start=chunk.start + 1):
            pairs.append(parse(line, number))
    except InputError as error:
        return pairs, error
    return pairs, None
