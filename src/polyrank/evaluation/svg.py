"""Small charts as SVG text. Colours are classes of the page's style; it knows no result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

__all__ = ["bars", "before_after", "distributions", "points"]

_WIDTH = 720
_LABEL = 164  # room for names on the left


def bars(
    names: Sequence[str],
    series: Sequence[Sequence[float | None]],
    labels: Sequence[str],
    title: str,
) -> str:
    """Horizontal bars from 0 to 1: one group a name, one bar a series; None: no bar."""
    thick = 13 if len(series) < 3 else 9
    step = thick * len(series) + 10
    height = step * len(names) + 28
    room = _WIDTH - _LABEL - 60
    parts = [_grid_x(_LABEL, room, height - 24, [0, 0.25, 0.5, 0.75, 1])]
    for row, name in enumerate(names):
        top = row * step + 6
        middle = top + thick * len(series) / 2
        parts.append(_text(_LABEL - 10, middle + 4, _short(name, 22), "end"))
        for n, values in enumerate(series):
            y, value = top + n * thick, values[row]
            if value is None:
                continue
            length = max(1.0, room * min(1.0, max(0.0, value)))
            tip = escape(f"{name}, {labels[n]}: {value:.4f}")
            parts.append(
                f'<g><title>{tip}</title><rect class="s{n % 6}" x="{_LABEL}" y="{y}" '
                f'width="{length:.1f}" height="{thick - 2}" rx="2"/></g>'
            )
            parts.append(
                _text(_LABEL + length + 6, y + thick - 4, f"{value:.3f}", "start", "small")
            )
    return _svg(height, title, parts)


def before_after(
    before: Sequence[float], after: Sequence[float], names: Sequence[str], title: str
) -> str:
    """One line a query from its value before to its value after, the greatest loss first."""
    height, left, bottom = 258, 44, 222
    order = sorted(range(len(before)), key=lambda n: (after[n] - before[n], after[n]))
    step = (_WIDTH - left - 16) / max(1, len(order))
    thick = min(7.0, max(0.8, step * 0.62))
    parts = [_grid_y(left, bottom, 206, [0, 0.25, 0.5, 0.75, 1], "{:.2f}")]
    for place, n in enumerate(order):
        x = left + (place + 0.5) * step
        y0, y1 = bottom - 206 * before[n], bottom - 206 * after[n]
        kind = "gain" if y1 < y0 - 1e-6 else "loss" if y1 > y0 + 1e-6 else "same"
        tip = escape(f"{names[n]}: {before[n]:.3f} → {after[n]:.3f}")
        parts.append(
            f'<g><title>{tip}</title><line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" '
            f'y1="{y0:.1f}" y2="{y1:.1f}" stroke-width="{thick:.1f}"/>'
            f'<circle class="{kind} end" cx="{x:.1f}" cy="{y1:.1f}" '
            f'r="{max(1.1, min(4.5, thick * 0.8)):.1f}"/></g>'
        )
    parts.append(
        _text(
            left,
            height - 8,
            "queries, from the greatest loss to the greatest gain",
            "start",
            "small",
        )
    )
    return _svg(height, title, parts)


def distributions(
    edges: Sequence[float], relevant: Sequence[int], other: Sequence[int], title: str
) -> str:
    """Two step areas, each of area 1: scores of relevant pairs and of the others."""
    height, left, bottom, room = 180, 16, 150, _WIDTH - 32
    low, high = edges[0], edges[-1]
    shares = [[c / max(1, sum(counts)) for c in counts] for counts in (other, relevant)]
    top = max((max(s) for s in shares), default=0.0) or 1.0
    parts = [f'<line class="axis" x1="{left}" x2="{left + room}" y1="{bottom}" y2="{bottom}"/>']
    for kind, share in zip(("other", "relevant"), shares, strict=True):
        path = [f"M{left} {bottom}"]
        for n, value in enumerate(share):
            x0, x1 = (left + room * (edges[n + i] - low) / (high - low) for i in (0, 1))
            path.append(
                f"L{x0:.1f} {bottom - 132 * value / top:.1f}L{x1:.1f} "
                f"{bottom - 132 * value / top:.1f}"
            )
        path.append(f"L{left + room} {bottom}Z")
        parts.append(f'<path class="{kind}" d="{"".join(path)}"/>')
    for value in _ticks(low, high):
        x = left + room * (value - low) / (high - low)
        parts.append(_text(x, bottom + 18, f"{value:g}", "middle", "small"))
    return _svg(height, title, parts)


def points(
    xs: Sequence[float],
    ys: Sequence[float],
    names: Sequence[str],
    *,
    x: str,
    y: str,
    title: str,
    kind: str,
) -> str:
    """A point for each query; both axes start at 0."""
    height, left, bottom, up = 250, 56, 206, 186
    room = _WIDTH - left - 20
    high_x, high_y = max(xs, default=0) * 1.05 or 1.0, max(ys, default=0) * 1.05 or 1.0
    parts = [_grid_y(left, bottom, up, [t / high_y for t in _ticks(0, high_y)], "{:g}", high_y)]
    parts += [
        _text(left + room * value / high_x, bottom + 17, f"{value:,g}", "middle", "small")
        for value in _ticks(0, high_x)
    ]
    for a, b, name in zip(xs, ys, names, strict=True):
        tip = escape(f"{name}: {a:,.0f}, {b:.3f}")
        parts.append(
            f'<g><title>{tip}</title><circle class="{kind} dot" r="4" '
            f'cx="{left + room * a / high_x:.1f}" cy="{bottom - up * b / high_y:.1f}"/></g>'
        )
    parts.append(_text(left + room, bottom + 36, x, "end", "small"))
    parts.append(_text(4, 13, y, "start", "small"))
    return _svg(height, title, parts)


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    css = f' class="{kind}"' if kind else ""
    return f'<text{css} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _grid_x(left: float, room: float, bottom: float, values: Sequence[float]) -> str:
    return "".join(
        f'<line class="grid" x1="{left + room * v:.1f}" x2="{left + room * v:.1f}" y1="0" '
        f'y2="{bottom}"/>' + _text(left + room * v, bottom + 16, f"{v:g}", "middle", "small")
        for v in values
    )


def _grid_y(
    left: float, bottom: float, up: float, shares: Sequence[float], form: str, scale: float = 1.0
) -> str:
    return "".join(
        f'<line class="grid" x1="{left}" x2="{_WIDTH - 12}" y1="{bottom - up * v:.1f}" '
        f'y2="{bottom - up * v:.1f}"/>'
        + _text(left - 8, bottom - up * v + 4, form.format(round(v * scale, 6)), "end", "small")
        for v in shares
    )


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two others."""
    rough = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [round((first + n) * step, 10) + 0.0 for n in range(count)]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
