"""Turns -> rows: medians over rounds, shares of the limit, agreement with fp32. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from polyrank.bench.agreement import agreement_of
from polyrank.bench.costs import operations
from polyrank.bench.jobs import Turn
from polyrank.bench.values import Row, Setting, Speed
from polyrank.config import EncoderConfig

__all__ = ["Outcome", "rows_of"]


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What the turns of a setting gave so far."""

    setting: Setting
    turns: list[Turn] = field(default_factory=list)
    cold_starts: list[float] = field(default_factory=list)
    """Seconds."""
    error: str | None = None
    """It takes no more turns."""


def rows_of(
    outcomes: Sequence[Outcome],
    *,
    config: EncoderConfig,
    queries: Sequence[Sequence[int]],
    limits: Mapping[str, float],
) -> tuple[Row, ...]:
    """A row for each setting. The first fp32 one that ran to its end is the reference."""
    reference = next((o for o in outcomes if o.setting.dtype == "fp32" and not o.error), None)
    rows = []
    for o in outcomes:
        if o.error is not None:
            rows.append(Row(setting=o.setting, error=o.error))
            continue
        agreement = None
        if reference is not None:
            agreement = agreement_of(reference.turns[-1].logits, o.turns[-1].logits, queries)
        rows.append(
            Row(
                setting=o.setting,
                reference=o is reference,
                speed=_speed(o, config, limits.get(o.setting.computes)),
                agreement=agreement,
            )
        )
    return tuple(rows)


def _speed(o: Outcome, config: EncoderConfig, limit: float | None) -> Speed:
    lengths = o.turns[-1].lengths
    seconds = statistics.median(t.seconds for t in o.turns)
    p50, p95 = np.percentile([s for t in o.turns for s in t.query_seconds], [50, 95])
    gops = operations(config, lengths) / seconds / 1e9
    return Speed(
        pairs_per_second=len(lengths) / seconds,
        tokens_per_second=sum(lengths) / seconds,
        query_seconds_p50=float(p50),
        query_seconds_p95=float(p95),
        cold_start_seconds=statistics.median(o.cold_starts),
        peak_bytes=_most(t.peak_bytes for t in o.turns),
        device_peak_bytes=_most(t.device_peak_bytes for t in o.turns),
        gops=gops,
        share=gops / limit if limit else None,
    )


def _most(values: Iterable[int | None]) -> int | None:
    return max((v for v in values if v is not None), default=None)
