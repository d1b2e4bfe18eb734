"""What a bench found, as people and as programs read it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from polyrank.bench import Recommendation, Report, Row, Workload
from polyrank.bench.machine import processor, versions
from polyrank.bench.measuring import Progress
from polyrank.cli.printing import note
from polyrank.cpus import thread_count
from polyrank.kernels import kernels_level

__all__ = ["as_fields", "heading", "print_report", "step_bar"]

_NONE = "–"
_COLUMNS = {
    "setting": "setting",
    "pairs_per_second": "pairs/s",
    "tokens_per_second": "tokens/s",
    "query_ms_p50": "ms/query",
    "query_ms_p95": "p95",
    "cold_start_s": "start s",
    "peak_mb": "MB",
    "share": "limit",
    "tau": "tau",
    "top_10_overlap": "top 10",
    "largest_difference": "diff",
}
"""Names for programs, and for a terminal's head."""
_WIDE = 96  # columns of a terminal that has room for all
_LEFT_OUT = ("tokens_per_second", "query_ms_p95")
"""What a narrower terminal does not show."""


def heading(name: str, report: Report, workload: Workload, threads: int | None) -> str:
    """What was measured with what."""
    text = "of random tokens" if workload.synthetic else "of your own"
    return (
        f"{name}: {len(workload.pairs):,} pairs {text} in {len(workload.queries):,} queries, "
        f"{sum(report.lengths):,} tokens; {thread_count(threads)} threads of {processor()}, "
        f"kernels: {kernels_level()}"
    )


def print_report(report: Report, advice: Recommendation) -> None:
    """A table on a terminal, lines of values with TABs and a head elsewhere; errors on stderr."""
    ran = [r for r in report.rows if r.speed]
    if sys.stdout.isatty():
        _print_table(ran)
        print(advice.text)
    else:
        print("\t".join(_COLUMNS))
        for row in ran:
            print("\t".join(v if v != _NONE else "" for v in _values(row, exact=True)))
        note(advice.text)
    for row in report.rows:
        if row.error:
            note(f"{row.setting} did not run: {row.error}")
    if report.limits_error:
        note(f"this machine's limits could not be measured: {report.limits_error}")


def as_fields(
    report: Report, advice: Recommendation, workload: Workload, threads: int | None
) -> dict[str, Any]:
    """All of it, ready for JSON."""
    return {
        "machine": {
            "processor": processor(),
            "kernels": kernels_level(),
            "system": platform.platform(),
            "threads": thread_count(threads),
        },
        "versions": versions(),
        "workload": {
            "synthetic": workload.synthetic,
            "pairs": len(workload.pairs),
            "queries": len(workload.queries),
            "tokens": sum(report.lengths),
            "longest": max(report.lengths, default=0),
            "cut": report.cut,
        },
        "limits_gops": dict(report.limits),
        "limits_error": report.limits_error,
        "rows": [row.to_dict() for row in report.rows],
        "recommendation": {
            "setting": str(advice.setting) if advice.setting else None,
            "judged": advice.judged,
            "text": advice.text,
        },
    }


@contextmanager
def step_bar() -> Iterator[Progress]:
    """A bar on stderr, where that is a terminal: steps done, and what runs now."""
    if not sys.stderr.isatty():
        yield lambda done, total, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda done, total, text: bar.update(
            task, description=text, completed=done, total=total
        )


def _print_table(rows: list[Row]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console()
    shown = [n for n in _COLUMNS if console.width >= _WIDE or n not in _LEFT_OUT]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in shown:
        number = name != "setting"
        table.add_column(_COLUMNS[name], justify="right" if number else "left", overflow="fold")
    for row in rows:
        values = dict(zip(_COLUMNS, _values(row, exact=False), strict=True))
        table.add_row(*(values[name] for name in shown))
    console.print(table)


def _values(row: Row, *, exact: bool) -> list[str]:
    """One text a column. `exact`: more digits, and no signs between or behind them."""
    s, a = row.speed, row.agreement
    assert s is not None
    group = "" if exact else ","
    digits = 4 if exact else 3
    share = None if s.share is None else f"{s.share:.3f}" if exact else f"{s.share:.0%}"
    memory = s.peak_bytes if s.device_peak_bytes is None else s.device_peak_bytes
    values = [
        f"{s.pairs_per_second:{group}.1f}",
        f"{s.tokens_per_second:{group}.0f}",
        f"{1e3 * s.query_seconds_p50:{group}.1f}",
        f"{1e3 * s.query_seconds_p95:{group}.1f}",
        f"{s.cold_start_seconds:.2f}",
        None if memory is None else f"{memory / 1e6:{group}.0f}",
        share,
    ]
    if a is None:
        values += [None] * 3
    else:
        told = (a.tau, a.top_10_overlap)
        values += [None if v is None else f"{v:.{digits}f}" for v in told]
        values.append(f"{a.largest_difference:.1e}")
    return [str(row.setting), *(_NONE if v is None else v for v in values)]
