"""Two systems over the same queries: is the difference real, and where is it. Numbers only."""
# Q queries, B rounds

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Comparison", "Interval", "bootstrap", "compare", "randomisation_test"]

Floats = npt.NDArray[np.float64]
_ROUNDS = 10_000
_BLOCK = 1 << 22  # cells drawn at once: 32 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % confidence interval."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """`after` against `before` in one metric; differences are after - before."""

    before: str
    after: str
    metric: str
    difference: float
    """Of the means over queries."""
    interval: Interval
    p_value: float
    """Two-sided, of the paired randomisation test; not corrected for the number of comparisons."""
    wins: int
    ties: int
    losses: int


def compare(
    before_Q: Floats, after_Q: Floats, *, before: str, after: str, metric: str, seed: int
) -> Comparison:
    """Compare per-query values of two systems; values within 1e-9 of each other are ties."""
    difference_Q = after_Q - before_Q
    wins, losses = int((difference_Q > 1e-9).sum()), int((difference_Q < -1e-9).sum())
    return Comparison(
        before=before,
        after=after,
        metric=metric,
        difference=float(difference_Q.mean()),
        interval=bootstrap(difference_Q, seed=seed),
        p_value=randomisation_test(difference_Q, seed=seed),
        wins=wins,
        ties=len(difference_Q) - wins - losses,
        losses=losses,
    )


def randomisation_test(difference_Q: Floats, *, rounds: int = _ROUNDS, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference under random signs (Smucker et al. 2007).

    The observed signs count as one round, so that p is at least 1 / (rounds + 1).
    """
    observed = abs(difference_Q.mean())
    random = np.random.default_rng(seed)
    reached = 0
    for size in _blocks(rounds, len(difference_Q)):
        signs = random.integers(0, 2, (size, len(difference_Q)), np.int8) * 2 - 1
        means = np.abs(signs @ difference_Q) / len(difference_Q)
        reached += int((means >= observed - 1e-12).sum())
    return (reached + 1) / (rounds + 1)


def bootstrap(values_Q: Floats, *, rounds: int = _ROUNDS, seed: int = 0) -> Interval:
    """Percentile interval of the mean over resampled queries (Efron & Tibshirani 1993)."""
    random = np.random.default_rng(seed)
    queries = len(values_Q)
    means = [
        values_Q[random.integers(0, queries, (size, queries))].mean(axis=1)
        for size in _blocks(rounds, queries)
    ]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Interval(float(low), float(high))


def _blocks(rounds: int, queries: int) -> list[int]:
    size = max(1, _BLOCK // max(1, queries))
    return [min(size, rounds - start) for start in range(0, rounds, size)]
