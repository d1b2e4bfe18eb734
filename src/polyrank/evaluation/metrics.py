"""nDCG, MAP, MRR, recall, precision and success by the rules of trec_eval. NumPy only, no files.

The rules: scores are compared in fp32, and equal ones rank the greater document id first; the
gain of nDCG is the grade itself (Jarvelin & Kekalainen 2002), discounted by log2(rank + 1), and the
ideal ranking knows every judged document; grades below 1 have no gain; unjudged is not relevant;
P@k divides by k however few documents there are. Binary metrics take grades from `level` on as
relevant.
"""
# Q queries, D ranks, R relevant documents

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from polyrank.errors import InputError
from polyrank.evaluation.values import Qrels, Run

__all__ = ["DEFAULT_METRICS", "Metric", "evaluate_run", "parse_metric", "rank_documents"]

DEFAULT_METRICS = ("ndcg@10", "map", "mrr@10", "recall@20", "recall@100", "p@10", "success@1")
_NAMES = ("ndcg", "map", "mrr", "recall", "p", "success")
_NEED_K = ("recall", "p", "success")
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric and its cut; `str()` gives the name that `parse_metric` reads."""

    name: str
    k: int | None

    def __str__(self) -> str:
        return self.name if self.k is None else f"{self.name}@{self.k}"


def parse_metric(text: str) -> Metric:
    """`ndcg@10`, `map`, `mrr`, `mrr@10`, `recall@20`, `p@5`, `success@1`: any case, any cut
    of up to nine digits."""
    found = re.fullmatch(r"([a-z]+)(?:@([1-9]\d{0,8}))?", text.strip().lower())
    name, k = found.groups() if found else (None, None)
    if name not in _NAMES or (k is None and name in _NEED_K):
        raise InputError(
            f"expected a metric like {', '.join(DEFAULT_METRICS)}, got {text!r}; recall, p and "
            "success need a cut, of at most nine digits"
        )
    return Metric(name, int(k) if k else None)


def rank_documents(scores: Mapping[str, float]) -> list[str]:
    """Document ids, best first; equal fp32 scores put the greater id first, as trec_eval does."""
    ids = sorted(scores, reverse=True)
    values = np.fromiter((scores[i] for i in ids), np.float32, len(ids))
    return [ids[n] for n in np.argsort(-values, kind="stable")]


def evaluate_run(
    run: Run,
    qrels: Qrels,
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    level: int = 1,
    missing: Literal["zero", "skip"] = "zero",
) -> tuple[list[str], dict[str, Floats]]:
    """Evaluate a run: query ids in the order of `qrels`, and [Q] values of every metric.

    Queries without judgements are left out. `missing`: a judged query that the run lacks counts
    as 0 (`trec_eval -c`), or is left out ("skip", trec_eval's default).
    `level`: least grade that is relevant to metrics other than nDCG.
    """
    if level < 1:
        raise InputError(f"expected a relevance level of at least 1, got {level}")
    queries = [q for q in qrels if missing == "zero" or run.get(q)]
    if not queries:
        raise InputError("expected a run with at least one judged query, got none in common")
    parsed = [parse_metric(m) for m in metrics]
    gains_QD, ideal_QR = _grades(run, qrels, queries)
    relevant_Q = (ideal_QR >= level).sum(axis=1)
    hits_QD = gains_QD >= level
    values = {}
    for m in parsed:
        if m.name == "ndcg":
            values[str(m)] = _ratio(_dcg(gains_QD, m.k), _dcg(ideal_QR, m.k))
        else:
            values[str(m)] = _binary(m, hits_QD, relevant_Q)
    return queries, values


def _grades(run: Run, qrels: Qrels, queries: Iterable[str]) -> tuple[Ints, Ints]:
    """[Q, D] grades in the run's order and [Q, R] in the ideal one; 0 fills up."""
    ranked, ideal = [], []
    for query in queries:
        judged = qrels[query]
        ranked.append([judged.get(d, 0) for d in rank_documents(run.get(query, {}))])
        ideal.append(sorted((g for g in judged.values() if g > 0), reverse=True))
    return _padded(ranked), _padded(ideal)


def _padded(rows: Sequence[Sequence[int]]) -> Ints:
    table = np.zeros((len(rows), max(1, *map(len, rows)) if rows else 1), np.int32)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


def _dcg(grades_QD: Ints, k: int | None) -> Floats:
    gains = np.maximum(grades_QD[:, :k], 0)
    discounts = np.log2(np.arange(2, gains.shape[1] + 2))
    total: Floats = (gains / discounts).sum(axis=1)
    return total


def _binary(
    metric: Metric, hits_QD: npt.NDArray[np.bool_], relevant_Q: npt.NDArray[np.int64]
) -> Floats:
    hits = hits_QD[:, : metric.k]
    ranks = np.arange(1, hits.shape[1] + 1)
    if metric.name == "map":
        return _ratio((hits.cumsum(axis=1) / ranks * hits).sum(axis=1), relevant_Q)
    if metric.name == "recall":
        return _ratio(hits.sum(axis=1), relevant_Q)
    if metric.name == "mrr":
        return _ratio(hits.max(axis=1), hits.argmax(axis=1) + 1)
    if metric.name == "success":
        return _ratio(hits.max(axis=1), np.ones(len(hits)))
    return _ratio(hits.sum(axis=1), np.full(len(hits), metric.k or 1))


def _ratio(part: npt.NDArray[Any], whole: npt.NDArray[Any]) -> Floats:
    """part / whole; 0 where there is nothing to find."""
    result: Floats = np.zeros(len(whole))
    np.divide(part, whole, out=result, where=whole > 0)
    return result
