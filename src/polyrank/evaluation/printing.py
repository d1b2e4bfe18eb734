"""Results on a terminal: tables by rich, plain lines elsewhere, a bar while scores are made."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from polyrank.evaluation.evaluate import Progress
from polyrank.evaluation.results import Evaluation, Groups, System

__all__ = ["cost_of", "most_changed", "print_evaluation", "print_summary", "progress_bar"]

_WIDTH = 110  # columns, where the output is no terminal
_LANGUAGES = 30  # rows of a table by language
_CHANGED = 3


def _console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _WIDTH, highlight=False)


def print_evaluation(evaluation: Evaluation) -> None:
    """Print what one collection gave: notices, metrics, costs, languages, comparisons, changes."""
    console = _console()
    e = evaluation
    console.print(
        f"[bold]{escape(e.collection)}[/bold]  {len(e.queries):,} queries, {e.documents:,} "
        f"documents, depth {e.settings['depth']}"
    )
    for notice in e.notices:
        _console(stderr=True).print(f"[yellow]warning:[/yellow] {escape(str(notice))}")
    console.print(_metrics(e))
    if any(s.pairs for s in e.systems):
        console.print(_costs(e))
    for title, groups in e.groupings.items():
        if groups:
            console.print(_languages(e, title, groups))
    if e.comparisons:
        console.print(_comparisons(e))
    for system in e.systems[1:]:
        _print_changed(console, e, system)


def print_summary(done: Sequence[Evaluation]) -> None:
    """Print one row a collection and one column a system, in each collection's first metric."""
    table = _table("collection", "metric")
    names = list(dict.fromkeys(s.name for e in done for s in e.systems[1:]))
    for name in ["first stage", *names]:
        table.add_column(escape(name), justify="right")
    rows = []
    for e in done:
        found = {s.name: e.macro(s, e.metrics[0]) for s in e.systems[1:]}
        row = [e.macro(e.systems[0], e.metrics[0]), *(found.get(n) for n in names)]
        rows.append(row)
        table.add_row(escape(e.collection), e.metrics[0], *(_number(v) for v in row))
    table.add_section()
    families: dict[str, list[list[float | None]]] = {}
    for e, row in zip(done, rows, strict=True):
        families.setdefault(e.collection.partition(".")[0], []).append(row)
    for family, part in families.items():
        if 1 < len(part) < len(rows):
            table.add_row(f"average of {len(part)} {escape(family)}", "", *_averages(part))
    table.add_row(f"average of {len(rows)}", "", *_averages(rows))
    _console().print(table)


def _averages(rows: Sequence[Sequence[float | None]]) -> list[str]:
    columns = ([v for v in column if v is not None] for column in zip(*rows, strict=True))
    return [_number(sum(c) / len(c) if c else None) for c in columns]


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _metrics(e: Evaluation) -> Table:
    table = _table("system")
    for metric in e.metrics:
        table.add_column(metric, justify="right", no_wrap=True)
    table.add_column(f"95 % of {e.metrics[0]}", no_wrap=True)
    best = {m: max(s.mean(m) for s in e.systems) for m in e.metrics}
    for s in e.systems:
        values = [
            f"[bold]{s.mean(m):.4f}[/bold]" if s.mean(m) == best[m] else f"{s.mean(m):.4f}"
            for m in e.metrics
        ]
        interval = s.intervals[e.metrics[0]]
        table.add_row(escape(s.name), *values, f"{interval.low:.4f} – {interval.high:.4f}")
    return table


def _costs(e: Evaluation) -> Table:
    table = _table("scorer")
    for column in ("pairs", "from disk", "truncated", "tokens/query", "s/query p50", "p95"):
        table.add_column(column, justify="right", no_wrap=True)
    for s in e.systems[1:]:
        table.add_row(escape(s.name), *cost_of(s))
    return table


def cost_of(system: System) -> list[str]:
    """Pairs, pairs from disk, truncated share, tokens a query, median and 95th of seconds."""
    import numpy as np

    told = system.truncated is not None and system.pairs
    cut = f"{100 * (system.truncated or 0) / system.pairs:.1f} %" if told else "not told"
    tokens = "not told" if system.tokens is None else f"{system.tokens.mean():,.0f}"
    seconds = ["–", "–"]
    if system.seconds is not None:
        seconds = [f"{x:.3f}" for x in np.percentile(system.seconds, [50, 95])]
    return [f"{system.pairs:,}", f"{system.cached:,}", cut, tokens, *seconds]


def _languages(e: Evaluation, title: str, groups: Groups) -> Table:
    metric = e.metrics[0]
    table = _table(title, "queries")
    for s in e.systems:
        table.add_column(f"{escape(s.name)} {metric}", justify="right")
    columns = [e.by_language(s, metric, groups) for s in e.systems]
    # The worst first: that is what a reader looks for.
    names = sorted(groups, key=lambda name: columns[-1][name])
    for name in names[:_LANGUAGES]:
        values = (f"{column[name]:.4f}" for column in columns)
        table.add_row(escape(name), str(len(groups[name])), *values)
    if len(names) > _LANGUAGES:
        table.add_row(f"and {len(names) - _LANGUAGES} more, all in results.json", "")
    table.add_section()
    macro = (f"{sum(column.values()) / len(column):.4f}" for column in columns)
    table.add_row(f"macro-average of {len(names)}", str(len(e.queries)), *macro)
    return table


def _comparisons(e: Evaluation) -> Table:
    table = _table("comparison", "difference", "95 %", "p", "wins/ties/losses")
    for c in e.comparisons:
        table.add_row(
            escape(f"{c.before} → {c.after}"),
            f"{c.difference:+.4f}",
            f"{c.interval.low:+.4f} – {c.interval.high:+.4f}",
            f"{c.p_value:.4f}",
            f"{c.wins}/{c.ties}/{c.losses}",
        )
    return table


def most_changed(e: Evaluation, system: System, count: int) -> tuple[list[int], list[int]]:
    """Places of the queries that gained most and that lost most against the first stage."""
    metric = e.metrics[0]
    change = system.values[metric] - e.systems[0].values[metric]
    order = sorted(range(len(change)), key=lambda n: (change[n], n))
    lost = [n for n in order[:count] if change[n] < -1e-9]
    gained = [n for n in reversed(order[-count:]) if change[n] > 1e-9]
    return gained, lost


def _print_changed(console: Console, e: Evaluation, system: System) -> None:
    metric, first = e.metrics[0], e.systems[0]
    for title, places in zip(("gained", "lost"), most_changed(e, system, _CHANGED), strict=True):
        if not places:
            continue
        console.print(f"[bold]{escape(system.name)}[/bold]: queries that {title} most")
        for n in places:
            before, after = first.values[metric][n], system.values[metric][n]
            console.print(
                f"  {before:.3f} → {after:.3f}  [dim]{escape(e.queries[n])}[/dim] "
                f"{escape(_line(e.query_texts[n]))}"
            )
            for mark, s in (("before", first), ("after", system)):
                for document in s.top[n][:1]:
                    grade = e.grades[n].get(document)
                    told = "unjudged" if grade is None else f"grade {grade}"
                    text = escape(_line(e.snippets.get(document, "")))
                    console.print(f"      [dim]{mark:>6}[/dim] {told}: {text}")


def _line(text: str) -> str:
    shown = " ".join(text.split())
    return shown if len(shown) <= 80 else shown[:79] + "…"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on stderr for every scorer, where stderr is a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda name, done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def advance(name: str, done: int, total: int) -> None:
            if name not in tasks or bar.tasks[tasks[name]].finished:
                tasks[name] = bar.add_task(escape(name), total=total)
            bar.advance(tasks[name], done)

        yield advance
