"""Chunks of lines: their bounds, their order, and what is in memory at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from polyrank.cli.chunks import read_chunks, score_chunks
from polyrank.errors import InputError
from polyrank.values import Encoding, Pair


class Lengths:
    """Scores a pair by the length of its text, when asked for the result."""

    def __init__(self) -> None:
        self.futures: list[Future[npt.NDArray[np.float32]]] = []

    def encode(self, pairs: Iterable[Pair]) -> list[Encoding]:
        return [_encoding(document) for _, document in pairs]

    def submit(self, encodings: Sequence[Encoding]) -> Future[npt.NDArray[np.float32]]:
        future: Future[npt.NDArray[np.float32]] = Future()
        future.set_result(np.array([e.tokens_given for e in encodings], np.float32))
        self.futures.append(future)
        return future


def _encoding(document: Any) -> Encoding:
    n = len(document["text"])
    return Encoding(ids=np.zeros(n, np.int32), type_split=n, tokens_given=n)


def parse(line: bytes, number: int) -> dict[str, Any]:
    if line == b"bad":
        raise InputError(f"bad at {number}")
    return {"query": "q", "text": line.decode()}


def test_chunks_end_at_either_limit() -> None:
    lines = [b"1"] * 5 + [b"123456"] * 2 + [b"1"]
    chunks = list(read_chunks(lines, max_pairs=3, max_bytes=6))
    assert [(c.start, c.end) for c in chunks] == [(0, 3), (3, 6), (6, 7), (7, 8)]
    assert [line for c in chunks for line in c.lines] == lines


def test_scores_come_in_input_order() -> None:
    lines = [b"x" * (n % 7 + 1) for n in range(100)]
    parts = list(score_chunks(Lengths(), read_chunks(lines, max_pairs=8), parse))
    assert [x for part in parts for x in part.logits] == [len(line) for line in lines]
    assert [p["text"].encode() for part in parts for p in part.pairs] == lines


def test_at_most_two_chunks_are_in_memory() -> None:
    read = 0

    def lines() -> Iterator[bytes]:
        nonlocal read
        for _ in range(100_000):
            read += 1
            yield b"x"

    written = 0
    for part in score_chunks(Lengths(), read_chunks(lines(), max_pairs=100), parse):
        written += len(part.pairs)
        assert read - written <= 100
    assert written == 100_000


def test_a_bad_line_comes_after_the_scores_of_all_before_it() -> None:
    lines = [b"x"] * 10 + [b"bad"] + [b"x"] * 10
    scored = 0
    with pytest.raises(InputError, match="bad at 11"):  # noqa: PT012  counts on its way
        for part in score_chunks(Lengths(), read_chunks(lines, max_pairs=4), parse):
            scored += len(part.pairs)
    assert scored == 10


def test_a_bad_first_line_scores_nothing() -> None:
    with pytest.raises(InputError, match="bad at 1"):
        [list(part.pairs) for part in score_chunks(Lengths(), read_chunks([b"bad"]), parse)]


def test_leaving_early_cancels_what_waits() -> None:
    class Never(Lengths):
        def submit(self, encodings: Sequence[Encoding]) -> Future[npt.NDArray[np.float32]]:
            if self.futures:
                self.futures.append(Future())
                return self.futures[-1]
            return super().submit(encodings)

    reranker = Never()
    parts = score_chunks(reranker, read_chunks([b"x"] * 9, max_pairs=3), parse)
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    assert reranker.futures[-1].cancelled()
