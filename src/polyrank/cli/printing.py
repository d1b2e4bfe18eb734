"""Rows as people and as programs read them."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from polyrank.values import Ranked

__all__ = [
    "cut_note",
    "json_line",
    "logit_text",
    "note",
    "print_fields",
    "print_ranking",
    "progress",
    "score_text",
]

# Whatever some reader takes for the end of a line or of a field.
_BREAKS = str.maketrans(dict.fromkeys("\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029", " "))
# What a terminal might obey.
_CONTROLS = str.maketrans(dict.fromkeys((*range(32), *range(127, 160)), " "))


def score_text(score: float) -> str:
    """A score with 12 decimals: plain `sort -n` orders it, and logits from -13 to 13 stay apart."""
    return f"{score:.12f}"


def logit_text(logit: float) -> str:
    """A logit with the digits that tell it from every other fp32 number, without an exponent."""
    import numpy as np

    return np.format_float_positional(np.float32(logit), unique=True, trim="0")


def json_line(fields: Mapping[str, Any]) -> str:
    """One JSON object on one line, in UTF-8 rather than in escapes."""
    import json

    return json.dumps(fields, ensure_ascii=False)


def note(text: str) -> None:
    """Say something beside the output."""
    print(text, file=sys.stderr)


def cut_note(cut: int, total: int, what: str, max_length: int, *, query_cut: int = 0) -> None:
    """Say how many were cut, if any; `query_cut`: the most tokens that a query lost."""
    if cut:
        verb = "was" if cut == 1 else "were"
        query = f", and the query by up to {query_cut}" if query_cut else ""
        note(f"{cut} of {total} {what} {verb} cut to {max_length} tokens{query}")


def print_ranking(ranking: Sequence[Ranked], *, snippet: int | None) -> None:
    """A table on a terminal, `rank TAB score TAB id TAB text` elsewhere.

    `snippet`: characters of a text that a line shows; None: all of them.
    """
    if sys.stdout.isatty():
        _print_table(ranking)
        return
    for rank, r in enumerate(ranking, start=1):
        fields = (str(rank), score_text(r.score), str(r.id), r.text[:snippet])
        print("\t".join(f.translate(_BREAKS) for f in fields))


def _print_table(ranking: Sequence[Ranked]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    some_cut = any(r.truncated for r in ranking)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, expand=True)
    table.add_column("rank", justify="right", style="dim", no_wrap=True, min_width=4)
    table.add_column("score", style="bold", no_wrap=True, min_width=6)
    longest = max((cell_len(str(r.id)) for r in ranking), default=0)
    table.add_column("id", overflow="fold", min_width=min(max(longest, 2), console.width // 3))
    table.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
    if some_cut:
        table.add_column("tokens", style="yellow", no_wrap=True, min_width=12)
    for rank, r in enumerate(ranking, start=1):
        text = " ".join(r.text[: 8 * console.width].translate(_CONTROLS).split())
        row = [str(rank), f"{r.score:.4f}", str(r.id).translate(_CONTROLS), text]
        if some_cut:
            row.append(f"{r.tokens} of {r.tokens_given}" if r.truncated else str(r.tokens))
        table.add_row(*map(Text, row))  # Text: what is in brackets is no markup
    console.print(table)


def print_fields(fields: Mapping[str, str]) -> None:
    """Names and values: aligned on a terminal, `name TAB value` elsewhere."""
    width = max(map(len, fields)) + 2 if sys.stdout.isatty() else 0
    for name, value in fields.items():
        print(f"{name:<{width}}{value}" if width else f"{name}\t{value.translate(_BREAKS)}")


@contextmanager
def progress(source: BinaryIO, *, show: bool) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal: pairs done, and how far `source` is read."""
    if not (show and sys.stderr.isatty()):
        yield lambda pairs: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    status = os.fstat(source.fileno())
    total = status.st_size if stat.S_ISREG(status.st_mode) else None
    columns = ("{task.description}", BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring", total=total)
        yield lambda pairs: bar.update(
            task,
            description=f"{pairs:,} pairs",
            completed=source.tell() if total is not None else None,
        )
