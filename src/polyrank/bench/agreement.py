"""How far two lists of logits agree on the order of documents. Numbers only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from polyrank.bench.values import Agreement

__all__ = ["agreement_of", "kendall_tau", "top_overlap"]

Numbers = npt.ArrayLike
_TOP = 10


def agreement_of(reference: Numbers, other: Numbers, queries: Sequence[Sequence[int]]) -> Agreement:
    """Compare logits with the reference's. `queries`: places of each query's documents."""
    a, b = np.asarray(reference, np.float64), np.asarray(other, np.float64)
    taus = [kendall_tau(a[list(q)], b[list(q)]) for q in queries]
    overlaps = [top_overlap(a[list(q)], b[list(q)], _TOP) for q in queries if len(q) > _TOP]
    return Agreement(
        tau=_mean([t for t in taus if t is not None]),
        top_10_overlap=_mean(overlaps),
        largest_difference=float(np.abs(a - b).max()),
    )


def kendall_tau(reference: Numbers, other: Numbers) -> float | None:
    """Kendall's tau-b (1945), -1 to 1; None where either list holds one value only.

    (concordant - discordant) / sqrt(pairs untied in one * pairs untied in the other).
    """
    a, b = np.asarray(reference), np.asarray(other)
    balance = untied_a = untied_b = 0
    for i in range(len(a) - 1):
        sign_a, sign_b = np.sign(a[i + 1 :] - a[i]), np.sign(b[i + 1 :] - b[i])
        balance += int(sign_a @ sign_b)
        untied_a += int(np.count_nonzero(sign_a))
        untied_b += int(np.count_nonzero(sign_b))
    if not untied_a or not untied_b:
        return None
    return balance / math.sqrt(untied_a * untied_b)


def top_overlap(reference: Numbers, other: Numbers, k: int) -> float:
    """Share of the k best by one list that are among the k best by the other; ties keep order."""
    best = [set(np.argsort(-np.asarray(x), kind="stable")[:k].tolist()) for x in (reference, other)]
    return len(best[0] & best[1]) / len(best[0])


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
