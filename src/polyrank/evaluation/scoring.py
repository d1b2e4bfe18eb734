"""A run reordered by a scorer: cached pairs first, the rest asked for, query by query."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyrank.errors import BackendError
from polyrank.evaluation.cache import ROW, ScoreCache, hash_pair
from polyrank.evaluation.values import Collection, Judge, Judged
from polyrank.values import Pair

__all__ = ["Reranked", "rerank_run"]

_CHUNK = 128  # pairs of one call; what Ctrl-C may lose


@dataclass(frozen=True, kw_only=True, slots=True)
class Reranked:
    """A reordered run and what it took. Arrays are [Q], queries in the run's order."""

    run: Mapping[str, Mapping[str, float]]
    """Documents without a text come last, in the order they had."""
    seconds: npt.NDArray[np.float64]
    """Time in the scorer, also if it was spent in an earlier run."""
    tokens: npt.NDArray[np.int64] | None
    """Tokens read; None: the scorer does not tell."""
    pairs: int
    truncated: int | None
    cached: int
    """Pairs whose scores were on disk."""


def rerank_run(
    collection: Collection,
    order: Mapping[str, Sequence[str]],
    judge: Judge,
    cache: ScoreCache,
    *,
    on_progress: Callable[[int], None] = lambda pairs: None,
) -> Reranked:
    """Score the documents of every query, given best first, and reorder them.

    Raises BackendError for scores that are not finite or too few. Interrupted, it leaves in
    `cache` what was scored.
    """
    run: dict[str, dict[str, float]] = {}
    parts = []
    before = len(cache)
    for query, documents in order.items():
        known = [d for d in documents if d in collection.documents]
        pairs = [(collection.queries[query], collection.documents[d]) for d in known]
        rows = _rows(pairs, known, query, judge, cache, on_progress)
        parts.append(rows)
        run[query] = _reordered(documents, dict(zip(known, rows["score"].tolist(), strict=True)))
    told = all((rows["tokens"] >= 0).all() for rows in parts)
    pairs_all = sum(map(len, parts))
    return Reranked(
        run=run,
        seconds=np.array([rows["seconds"].sum(dtype=np.float64) for rows in parts]),
        tokens=np.array([rows["tokens"].sum(dtype=np.int64) for rows in parts]) if told else None,
        pairs=pairs_all,
        truncated=sum(int((r["given"] > r["tokens"]).sum()) for r in parts) if told else None,
        cached=max(0, pairs_all - (len(cache) - before)),
    )


def _rows(
    pairs: Sequence[Pair],
    ids: Sequence[str],
    query: str,
    judge: Judge,
    cache: ScoreCache,
    on_progress: Callable[[int], None],
) -> npt.NDArray[np.void]:
    if not pairs:
        return np.empty(0, ROW)
    hashes = [hash_pair(pair) for pair in pairs]
    wanted = [n for n, row in enumerate(cache.find(hashes)) if row < 0]
    on_progress(len(pairs) - len(wanted))
    for start in range(0, len(wanted), _CHUNK):
        chunk = wanted[start : start + _CHUNK]
        clock = time.perf_counter()
        judged = judge.judge([pairs[n] for n in chunk])
        seconds = time.perf_counter() - clock
        _check(judged, [ids[n] for n in chunk], query, judge.name)
        cache.add([hashes[n] for n in chunk], judged, seconds)
        on_progress(len(chunk))
    return cache.rows(cache.find(hashes))


def _check(judged: Judged, ids: Sequence[str], query: str, name: str) -> None:
    if judged.scores.shape != (len(ids),):
        raise BackendError(
            f"expected {len(ids)} scores from {name} for query {query!r}, got an array of shape "
            f"{judged.scores.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(judged.scores))
    if len(bad):
        raise BackendError(
            f"expected finite scores from {name}, got {judged.scores[bad[0]]} for query {query!r} "
            f"and document {ids[bad[0]]!r}, and {len(bad)} such scores of {len(ids)} in this call; "
            "nothing of this call is kept"
        )


def _reordered(documents: Sequence[str], scores: dict[str, float]) -> dict[str, float]:
    last = min(scores.values(), default=0.0)
    for n, document in enumerate((d for d in documents if d not in scores), start=1):
        # A step that fp32 cannot lose, so that these stay below and in order.
        scores[document] = last - n * max(1.0, abs(last) * 1e-3)
    return scores
