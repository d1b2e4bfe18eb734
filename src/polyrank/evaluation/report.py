"""An Evaluation as one HTML page that needs nothing else: no script, no font, no connection."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from polyrank.evaluation import svg
from polyrank.evaluation.printing import cost_of, most_changed
from polyrank.evaluation.results import Evaluation, Groups, System

__all__ = ["write_report"]

_CHANGED = 5  # queries each way
_BARS = 40  # languages that are drawn
_COSTS = ("pairs", "from disk", "truncated", "tokens/query", "s/query, median", "95th")


def write_report(evaluations: Sequence[Evaluation]) -> str:
    """The page for one collection or several."""
    first = evaluations[0]
    names = ", ".join(e.collection for e in evaluations)
    command = first.settings.get("command")
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>polyrank eval: {escape(names[:80])}</title><style>",
        Path(__file__).with_name("report.css").read_text(encoding="utf-8"),
        "</style></head><body><h1>Reranking, measured</h1>",
        f"<p class='soft'>{escape(str(first.settings['date']))} · polyrank "
        f"{escape(str(first.settings['versions'].get('polyrank', '')))} · rules of trec_eval · "
        f"depth {first.settings['depth']} · seed {first.settings['seed']}</p>",
        f"<p><code>{escape(command)}</code></p>" if command else "",
        _summary(evaluations) if len(evaluations) > 1 else "",
        *(_collection(e) for e in evaluations),
        "</body></html>\n",
    ]
    return "".join(parts)


def _summary(evaluations: Sequence[Evaluation]) -> str:
    names = list(dict.fromkeys(s.name for e in evaluations for s in e.systems[1:]))
    rows, drawn = [], []
    for e in evaluations:
        found = {s.name: e.macro(s, e.metrics[0]) for s in e.systems[1:]}
        values = [e.macro(e.systems[0], e.metrics[0]), *(found.get(n) for n in names)]
        drawn.append(values)
        cells = ["–" if v is None else f"{v:.4f}" for v in values]
        rows.append([escape(e.collection), e.metrics[0], str(len(e.queries)), *cells])
    labels = ["first stage", *names]
    table = _table(["collection", "metric", "queries", *_keyed(labels)], rows)
    chart = svg.bars(
        [e.collection for e in evaluations], list(zip(*drawn, strict=True)), labels,
        "Every collection's first metric",
    )  # fmt: skip
    return _section("All collections", table + _legend(labels) + chart)


def _collection(e: Evaluation) -> str:
    labels = [s.name for s in e.systems]
    metric = e.metrics[0]
    warnings = "".join(f"<div class='warning'>{escape(str(n))}</div>" for n in e.notices)
    parts = [
        f"<h2>{escape(e.collection)}</h2><p class='soft'>{len(e.queries):,} queries, "
        f"{e.documents:,} documents</p>{warnings}",
        _section("Results", _metrics(e)),
    ]
    if e.comparisons:
        parts.append(_section(f"Differences in {metric}", _comparisons(e)))
    for title, groups in e.groupings.items():
        if groups:
            chart = _legend(labels) + _languages(e, groups)
            parts.append(_section(f"{metric} by {title}", chart))
    if len(e.systems) > 1:
        charts = (
            _figure(s, svg.before_after(
                e.systems[0].values[metric].tolist(), s.values[metric].tolist(),
                [_title(e, n) for n in range(len(e.queries))], f"{metric} of every query",
            ))
            for s in e.systems[1:]
        )  # fmt: skip
        parts.append(_section(
            f"{metric} of every query, before and after",
            _keys(gain="better", loss="worse", same="unchanged") + "".join(charts),
        ))  # fmt: skip
        parts.append(_section("Queries that changed most", "".join(
            _changed(e, s) for s in e.systems[1:]
        )))  # fmt: skip
    scored = [s for s in e.systems if s.histogram is not None]
    if scored:
        parts.append(_section(
            "Scores of relevant and other pairs",
            _keys(gain="relevant", other="not relevant or not judged")
            + "".join(_figure(s, _distribution(s)) for s in scored),
        ))  # fmt: skip
        parts.append(
            _section(
                "Time by length",
                _table(["scorer", *_COSTS], [[escape(s.name), *cost_of(s)] for s in scored])
                + "".join(_figure(s, chart) for s in scored if (chart := _latency(e, s))),
            )
        )
    parts.append(_section("How this was made", _provenance(e)))
    return "".join(parts)


def _metrics(e: Evaluation) -> str:
    best = {m: max(s.mean(m) for s in e.systems) for m in e.metrics}
    rows = []
    for n, s in enumerate(e.systems):
        interval = s.intervals[e.metrics[0]]
        cells = [
            f"<td class='best'>{s.mean(m):.4f}</td>" if s.mean(m) == best[m]
            else f"<td>{s.mean(m):.4f}</td>" for m in e.metrics
        ]  # fmt: skip
        rows.append(
            f"<tr><td>{_key(n)}{escape(s.name)}</td>{''.join(cells)}"
            f"<td>{interval.low:.4f} – {interval.high:.4f}</td></tr>"
        )
    head = ["system", *e.metrics, f"95 % of {e.metrics[0]}"]
    return _rows(head, rows)


def _comparisons(e: Evaluation) -> str:
    rows = [
        [
            f"{escape(c.before)} → {escape(c.after)}", f"{c.difference:+.4f}",
            f"{c.interval.low:+.4f} – {c.interval.high:+.4f}", f"{c.p_value:.4f}",
            str(c.wins), str(c.ties), str(c.losses),
        ]
        for c in e.comparisons
    ]  # fmt: skip
    note = (
        "<p class='soft'>Interval: bootstrap over queries. p: paired randomisation test, "
        "two-sided, 10,000 rounds, not corrected for the number of comparisons.</p>"
    )
    head = ["comparison", "difference", "95 %", "p", "wins", "ties", "losses"]
    return _table(head, rows) + note


def _languages(e: Evaluation, groups: Groups) -> str:
    columns = [e.by_language(s, e.metrics[0], groups) for s in e.systems]
    names = sorted(groups, key=lambda name: columns[-1][name])
    macro = [[sum(column.values()) / len(column)] for column in columns]
    shown = names[:_BARS]
    series = [
        [*average, *(column[name] for name in shown)]
        for average, column in zip(macro, columns, strict=True)
    ]
    chart = svg.bars(
        [f"macro ({len(names)})", *(f"{name} ({len(groups[name])})" for name in shown)],
        series, [s.name for s in e.systems], "Languages, the lowest first",
    )  # fmt: skip
    left = len(names) - len(shown)
    more = f"<p class='soft'>The lowest first; {left} more in results.json.</p>" if left else ""
    return chart + more


def _changed(e: Evaluation, system: System) -> str:
    gained, lost = most_changed(e, system, _CHANGED)
    metric, first = e.metrics[0], e.systems[0]
    blocks = []
    for n in [*gained, *lost]:
        before, after = first.values[metric][n], system.values[metric][n]
        blocks.append(
            f"<details><summary><b>{before:.3f} → {after:.3f}</b>"
            f"<span dir='auto'>{escape(_cut(e.query_texts[n], 200))}</span> "
            f"<span class='soft'>{escape(e.queries[n])}</span></summary><div class='pair'>"
            f"{_top(e, first, n)}{_top(e, system, n)}</div></details>"
        )
    body = "".join(blocks) or "<p class='soft'>No query changed.</p>"
    return f"<h3>{escape(system.name)}</h3>{body}"


def _top(e: Evaluation, system: System, n: int) -> str:
    items = []
    for document in system.top[n]:
        grade = e.grades[n].get(document)
        told = "unjudged" if grade is None else f"grade {grade}"
        css = "grade good" if grade is not None and grade > 0 else "grade"
        text = e.snippets.get(document, "no text")
        items.append(
            f"<li><span class='{css}'>{told}</span><span class='soft'>{escape(document)}</span> "
            f"<span dir='auto'>{escape(text)}</span></li>"
        )
    return f"<div><span class='soft'>{escape(system.name)}</span><ol>{''.join(items)}</ol></div>"


def _distribution(system: System) -> str:
    h = system.histogram
    if h is None:
        return ""
    return svg.distributions(h.edges, h.relevant, h.other, f"Scores of {system.name}")


def _latency(e: Evaluation, system: System) -> str:
    if system.seconds is None or system.tokens is None:
        return ""
    asked = [query for query, top in zip(e.queries, system.top, strict=True) if top]
    return svg.points(
        system.tokens.tolist(), system.seconds.tolist(), asked,
        x="tokens of a query's pairs", y="seconds", title=f"Time of {system.name}",
        kind=f"s{e.systems.index(system) % 6}",
    )  # fmt: skip


def _provenance(e: Evaluation) -> str:
    told = {
        "settings": dict(e.settings),
        "systems": {s.name: dict(s.identity) for s in e.systems},
    }
    text = json.dumps(told, ensure_ascii=False, indent=1)
    return (
        f"<details><summary>Versions, models, settings</summary><pre>{escape(text)}</pre></details>"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h3>{escape(title)}</h3>{body}</section>"


def _figure(system: System, chart: str) -> str:
    return f"<figure><figcaption>{escape(system.name)}</figcaption>{chart}</figure>"


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    return _rows(head, ["<tr>" + "".join(f"<td>{c}</td>" for c in row) + "</tr>" for row in rows])


def _rows(head: Iterable[str], rows: Sequence[str]) -> str:
    cells = "".join(f"<th>{c}</th>" for c in head)
    return (
        f"<div class='scroll'><table><thead><tr>{cells}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _key(n: int) -> str:
    return f"<span class='key s{n % 6}'></span>"


def _keyed(labels: Sequence[str]) -> list[str]:
    return [f"{_key(n)}{escape(label)}" for n, label in enumerate(labels)]


def _legend(labels: Sequence[str]) -> str:
    return f"<div class='legend'>{''.join(f'<span>{k}</span>' for k in _keyed(labels))}</div>"


def _keys(**kinds: str) -> str:
    spans = (f"<span><span class='key k-{k}'></span>{escape(v)}</span>" for k, v in kinds.items())
    return f"<div class='legend'>{''.join(spans)}</div>"


def _title(e: Evaluation, n: int) -> str:
    return _cut(f"{e.queries[n]} {e.query_texts[n]}", 120)


def _cut(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
