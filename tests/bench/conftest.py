"""Stand-ins for what a bench measures."""

from __future__ import annotations

from collections.abc import Sequence

from polyrank.bench import Agreement, Row, Setting, Speed
from polyrank.bench.jobs import Turn


def setting(name: str) -> Setting:
    """A setting by its name."""
    engine, _, dtype = name.partition(":")
    device = engine if engine in ("cuda", "mps") else "cpu"
    return Setting(backend="torch" if device != "cpu" else engine, device=device, dtype=dtype)


def row(
    name: str,
    pairs_per_second: float,
    *,
    reference: bool = False,
    tau: float | None = 1.0,
    overlap: float | None = None,
    difference: float = 0.0,
) -> Row:
    """A row of which only the rate and the agreement matter."""
    speed = Speed(
        pairs_per_second=pairs_per_second,
        tokens_per_second=100 * pairs_per_second,
        query_seconds_p50=0.1,
        query_seconds_p95=0.2,
        cold_start_seconds=1.0,
        peak_bytes=None,
        device_peak_bytes=None,
        gops=1.0,
        share=None,
    )
    agreement = Agreement(tau=tau, top_10_overlap=overlap, largest_difference=difference)
    return Row(setting=setting(name), reference=reference, speed=speed, agreement=agreement)


def turn(seconds: float, logits: Sequence[float], lengths: Sequence[int] = ()) -> Turn:
    """A turn that took `seconds`, its pairs 10 tokens long unless said."""
    return Turn(
        seconds=seconds,
        query_seconds=[seconds / 2, seconds],
        logits=list(logits),
        lengths=list(lengths) or [10] * len(logits),
        cut=0,
        peak_bytes=int(1e6 * seconds),
        device_peak_bytes=None,
    )
