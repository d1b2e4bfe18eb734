"""A logistic curve through judged logits, and what it is worth on queries it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polyrank.calibration import Calibration, sigmoid
from polyrank.errors import InputError

__all__ = ["Cut", "Fit", "fit_calibration"]

_LEAST = 10  # judgements of each kind
_LEAST_REST = 8  # of each kind outside a fold: what four folds of five leave of the least
_FOLDS = 5
_BINS = 10
_STEPS = 100

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """What a threshold keeps, of the judged pairs."""

    threshold: float
    kept: int
    precision: float
    """Share of the relevant ones among those kept; nan where none is."""
    recall: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """A curve through all judgements. Errors and cuts come from curves fitted without the query."""

    calibration: Calibration
    pairs: int
    relevant: int
    log_loss: tuple[float, float | None]
    """Nats a pair: of the plain sigmoid, and calibrated; None: too few queries to hold some out."""
    error: tuple[float, float | None]
    """Expected calibration error (Naeini et al., 2015; ten bins), the same two."""
    cuts: tuple[Cut, ...]
    """Empty where none could be held out."""


def fit_calibration(
    logits: npt.NDArray[np.float32],
    relevant: npt.NDArray[np.bool_],
    queries: Sequence[str],
    *,
    fingerprint: str | None = None,
) -> Fit:
    """Fit by maximum likelihood with Platt's targets (1999, section 2.2).

    Args:
        logits: [N]
        relevant: [N]
        queries: [N] whose pairs they are; a query's pairs are held out together.

    Raises InputError for fewer than 10 judgements of a kind, and where relevant pairs do not have
    the higher logits.
    """
    counts = int(relevant.sum()), int((~relevant).sum())
    if min(counts) < _LEAST:
        raise InputError(
            f"expected at least {_LEAST} relevant and {_LEAST} other pairs, got {counts[0]} and "
            f"{counts[1]}; with graded labels, say from which one a pair is relevant"
        )
    calibration = _curve(logits.astype(np.float64), relevant, fingerprint)
    plain, unseen = Calibration().scores(logits), _held_out(logits, relevant, queries)

    def measured(error: Callable[..., float]) -> tuple[float, float | None]:
        return error(plain, relevant), None if unseen is None else error(unseen, relevant)

    cuts = [] if unseen is None else [_cut(t / 10, unseen, relevant) for t in range(1, 10)]
    return Fit(
        calibration=calibration,
        pairs=len(logits),
        relevant=counts[0],
        log_loss=measured(_log_loss),
        error=measured(_error),
        cuts=tuple(cuts),
    )


def _held_out(
    logits: npt.NDArray[np.float32], relevant: npt.NDArray[np.bool_], queries: Sequence[str]
) -> Floats | None:
    """[N] scores by curves fitted without the query; None: a fold leaves too few of a kind."""
    numbers = np.unique(np.asarray(queries), return_inverse=True)[1] % _FOLDS
    scores = np.empty(len(logits))
    for inside in (numbers == fold for fold in range(_FOLDS)):
        rest = relevant[~inside]
        if min(rest.sum(), (~rest).sum()) < _LEAST_REST:
            return None
        curve = _curve(logits[~inside].astype(np.float64), rest, None)
        scores[inside] = curve.scores(logits[inside])
    return scores


def _curve(x: Floats, relevant: npt.NDArray[np.bool_], fingerprint: str | None) -> Calibration:
    positive, negative = relevant.sum(), (~relevant).sum()
    target = np.where(relevant, (positive + 1) / (positive + 2), 1 / (negative + 2))
    features = np.stack([x, np.ones_like(x)], axis=1)
    weights = np.array([0.0, np.log((positive + 1) / (negative + 1))])
    loss = _loss(features, target, weights)
    for _ in range(_STEPS):
        p = sigmoid(features @ weights)
        gradient = features.T @ (p - target)
        curvature = (features * (p * (1 - p))[:, None]).T @ features + 1e-12 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while (tried := _loss(features, target, weights - size * step)) > loss and size > 1e-10:
            size /= 2
        weights, gained, loss = weights - size * step, loss - tried, tried
        if gained < 1e-10 * abs(loss):
            break
    if weights[0] <= 0:
        raise InputError(
            "expected relevant pairs to have higher logits than others, got the reverse; are the "
            "labels 1 for relevant?"
        )
    return Calibration(scale=float(weights[0]), shift=float(weights[1]), fingerprint=fingerprint)


def _loss(features: Floats, target: Floats, weights: Floats) -> float:
    z = features @ weights
    return float((np.logaddexp(0.0, z) - target * z).sum())


def _log_loss(p: Floats, relevant: npt.NDArray[np.bool_]) -> float:
    right = np.clip(np.where(relevant, p, 1 - p), 1e-12, 1.0)
    return float(-np.log(right).mean())


def _error(p: Floats, relevant: npt.NDArray[np.bool_]) -> float:
    bins = np.minimum((p * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, p - relevant, _BINS)
    return float(np.abs(gaps).sum() / len(p))


def _cut(threshold: float, p: Floats, relevant: npt.NDArray[np.bool_]) -> Cut:
    kept = p >= threshold
    right = int((kept & relevant).sum())
    return Cut(
        threshold=threshold,
        kept=int(kept.sum()),
        precision=right / kept.sum() if kept.any() else float("nan"),
        recall=right / int(relevant.sum()),
    )
