"""`polyrank rank`: one query, documents from files or standard input, best first."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from polyrank.cli import options as o
from polyrank.cli.printing import cut_note, json_line, note, print_ranking
from polyrank.cli.reading import Form, read_documents

__all__ = ["rank"]

_SNIPPET = 200  # characters of a whole file that a line of output shows


def rank(
    query: o.Query,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE",
            help="Documents, one a line; - or none: standard input.",
            show_default=False,
        ),
    ] = None,
    jsonl: Annotated[
        bool,
        typer.Option(
            "--jsonl",
            help="A line is a JSON object with `text` and, if you like, `title` and `id`; other "
            "fields pass through to --json.",
        ),
    ] = False,
    whole: Annotated[bool, typer.Option("--whole", help="A file is one document.")] = False,
    top_n: Annotated[
        int | None, typer.Option("--top-n", "-n", min=1, help="Print only so many of the best.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Print only scores from this one up.")
    ] = None,
    as_json: o.AsJson = False,
    model: o.Model = None,
    revision: o.Revision = None,
    backend: o.Backend = "auto",
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    max_length: o.MaxLength = None,
    on_overflow: o.OnOverflow = "truncate",
    offline: o.Offline = False,
    threads: o.Threads = None,
    calibration: o.CalibrationFile = None,
    debug: o.Debug = False,
) -> None:
    """Rank documents by their relevance to QUERY, best first.

    A document is a line, and its id the line's number, counted from 1; blank lines are passed
    over but counted. With several files the id is FILE:NUMBER, with --whole it is FILE.

    Output that is no terminal gets `rank TAB score TAB id TAB text`, with TABs and line ends in
    the text as spaces, and of a whole file its first 200 characters.

    Examples:

      polyrank rank "solar power" notes.txt --top-n 3

      polyrank rank "solar power" --jsonl corpus.jsonl --json | jq .id

      polyrank rank "solar power" --whole docs/*.md | cut -f 2,3
    """
    if jsonl and whole:
        raise typer.BadParameter("expected --jsonl or --whole, got both")
    form: Form = "jsonl" if jsonl else "whole" if whole else "lines"
    if threshold is not None and math.isnan(threshold):
        raise typer.BadParameter("expected a number from 0 to 1, got nan", param_hint="--threshold")
    documents, blank = read_documents(files or [], form)
    if blank:
        note(f"{blank} blank {'line was' if blank == 1 else 'lines were'} skipped")
    from polyrank.values import Ranking

    with o.open_reranker(
        model,
        revision=revision,
        backend=backend,
        device=device,
        dtype=dtype,
        max_length=max_length,
        on_overflow=on_overflow,
        offline=offline,
        threads=threads,
        calibration=calibration,
    ) as reranker:
        ranking = reranker.rank(query, documents)
    # top_n and threshold come after ranking, so that what was cut is told of all documents.
    kept = [r for r in ranking if threshold is None or r.score >= threshold]
    shown = Ranking(query, tuple(kept[:top_n]))
    if as_json:
        for row in shown.to_dicts():
            print(json_line(row))
    else:
        print_ranking(shown, snippet=_SNIPPET if whole else None)
    most = max((r.query_cut for r in ranking), default=0)
    cut_note(ranking.truncated, len(ranking), "documents", reranker.max_length, query_cut=most)
    if not ranking:
        note("nothing to rank")
    elif not shown:
        note(f"no document of {len(ranking)} has a score from {threshold} up")
