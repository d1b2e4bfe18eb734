"""`polyrank eval`: how well a reranker orders the candidates of a test collection."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polyrank.cli import options as o
from polyrank.cli.printing import note

if TYPE_CHECKING:
    from polyrank.evaluation.scorers import ScorerSpec

__all__ = ["evaluate"]


def evaluate(
    folder: Annotated[
        str | None,
        typer.Argument(
            metavar="DIR",
            help="A folder with corpus.jsonl, queries.jsonl and qrels, or a collection by name: "
            "miracl:sw, mldr:de, mkqa:ja, beir:scifact, irds:NAME.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Evaluate this model: a folder, a hub id or a short name. Repeat it to compare.",
        ),
    ] = None,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            "--scorer",
            "-s",
            help="Evaluate another scorer: bm25, sentence-transformers:NAME, onnx:FOLDER, or the "
            "URL of a reranking server. May be repeated.",
        ),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run",
            metavar="FILE",
            help="The candidates: TREC's six columns, or `query TAB document TAB score`; with "
            "--suite a folder of such files, named like the collections. Without it, the run in "
            "DIR, or else BM25.",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option("--suite", help="dev: every collection in --data; paper: the paper's sets."),
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="FOLDER", help="Where a suite's data is.")
    ] = None,
    depth: Annotated[
        int, typer.Option("--depth", min=1, help="Documents of a query that are reranked.")
    ] = 100,
    queries: Annotated[
        int | None, typer.Option("--queries", min=1, help="Only a sample of so many queries.")
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            help="ndcg@K, map, mrr@K, recall@K, p@K, success@K; repeat it. The first one decides.",
        ),
    ] = None,
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FOLDER", help="Where results and scores go."),
    ] = "polyrank-eval",
    language: Annotated[
        str | None,
        typer.Option("--language", help="Of the documents, for BM25's stemming: en, de, ..."),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Of collections that have several.")
    ] = "test",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of samples and of significance.")] = 0,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key", envvar="POLYRANK_API_KEY", help="Sent to a URL scorer.", show_envvar=True
        ),
    ] = None,
    revision: o.Revision = None,
    backend: o.Backend = "auto",
    device: o.Device = "auto",
    dtype: o.Dtype = "auto",
    max_length: o.MaxLength = None,
    on_overflow: o.OnOverflow = "truncate",
    offline: o.Offline = False,
    threads: o.Threads = None,
    debug: o.Debug = False,
) -> None:
    """Measure rerankers on a test collection, by the rules of trec_eval.

    The candidates of every query are reordered by each model and scorer, and compared with the
    order they came in. Prints a table; writes results.json, report.html and the runs to --output.
    Scores are kept there by model and pair: a second run of the same command, also after Ctrl-C,
    scores only what is new.

    Examples:

      polyrank eval my-collection --model bge-reranker-v2-m3

      polyrank eval scifact --run bm25.trec -m model-a -m model-b --queries 100

      polyrank eval my-collection --scorer bm25 --scorer http://localhost:8080
    """
    if (folder is None) == (suite is None):
        raise typer.BadParameter("expected DIR or --suite, one of them")
    from polyrank.evaluation.printing import print_evaluation, print_summary, progress_bar
    from polyrank.evaluation.scorers import ScorerSpec
    from polyrank.evaluation.suites import collections_of, evaluate_all, missing_of
    from polyrank.models import EMBEDDED

    names = [*(f"model:{m}" for m in model or []), *(scorer or [])] or [f"model:{EMBEDDED}"]
    specs: list[ScorerSpec] = [
        ScorerSpec(
            text=name, revision=revision, device=device, dtype=dtype, backend=backend,
            max_length=max_length, on_overflow=o.overflow(on_overflow), offline=offline or None,
            threads=threads, language=language, api_key=api_key,
        )
        for name in names
    ]  # fmt: skip
    opened = collections_of(
        folder, suite=suite, data=Path(data) if data else None,
        run=Path(run) if run else None, split=split, offline=offline,
    )  # fmt: skip
    if suite == "paper" and offline and (absent := missing_of(Path(data) if data else None)):
        note(f"{len(absent)} of the paper's sets are not in {data}: {', '.join(absent)}")
    done = []
    try:
        with progress_bar() as advance:
            for evaluation in evaluate_all(
                opened, specs, output=Path(output), depth=depth, queries=queries, seed=seed,
                language=language, metrics=metric, on_progress=advance, command=_command(api_key),
            ):  # fmt: skip
                print_evaluation(evaluation)
                done.append(evaluation)
    except KeyboardInterrupt:
        note(f"stopped; the scores so far are in {output}, and the same command goes on from there")
        raise
    if len(done) > 1:
        print_summary(done)
    note(f"written: {Path(output) / 'report.html'} and results.json")


def _command(api_key: str | None) -> str:
    """The command as it was typed, without the key."""
    words = ["polyrank", *sys.argv[1:]]
    return shlex.join(w.replace(api_key, "***") if api_key else w for w in words)
