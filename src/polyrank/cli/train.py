"""`polyrank train`: groups in, a reranker out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyrank.cli import options as o
from polyrank.cli.runs import Watch, check_begun, require_torch, running

if TYPE_CHECKING:
    from polyrank.training.config import RerankConfig
    from polyrank.training.loop import Evaluate

__all__ = ["train"]

_METRIC = "ndcg@10"


def train(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="CONFIG",
            help="A run as JSON: `model`, `data`, `loop`, `loss`; or a recipe by --recipe.",
            show_default=False,
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            metavar="NAME",
            help="fine-tune: go on from a trained reranker. encoder: give a head to an encoder "
            "that has none.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="With --recipe, what to start from: a folder, a hub id or a short name; the "
            "embedded model for fine-tune, unless given.",
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="GROUPS",
            help="With --recipe, a file of groups, as `polyrank mine` writes it; repeat it, and "
            "they are drawn from equally often.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Where models, state and log go."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="Steps of the whole run, instead of the config's."),
    ] = None,
    evaluate: Annotated[
        str | None,
        typer.Option(
            "--evaluate",
            metavar="DIR",
            help="A collection's folder, as `polyrank eval` takes it: nDCG@10 over its candidates "
            "is logged before the first step, every `evaluate_every` steps, and at the end.",
        ),
    ] = None,
    queries: Annotated[
        int | None,
        typer.Option("--queries", min=1, help="Evaluate only a sample of so many queries."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show the first pairs as the network reads them, tokens, duration; write nothing.",
        ),
    ] = False,
    device: o.Device = "auto",
    offline: o.Offline = False,
    threads: o.Threads = None,
    debug: o.Debug = False,
) -> None:
    """Train a reranker, or fine-tune one, on groups of a query, its answer and others.

    Models go to FOLDER/step-000100 and the like, the log to FOLDER/log.jsonl, the config to
    FOLDER/config.json, which is a CONFIG to start another run from. Bad lines of groups are left
    out and counted.

    The same command goes on where an interrupted one stopped, with the losses of a run that was
    not. Ctrl-C waits for the end of the step and keeps it; after a kill, the last checkpoint
    counts. Several GPUs or machines: torchrun --nproc-per-node=2 -m polyrank train ...

    Examples:

      polyrank train --recipe fine-tune --data groups.jsonl --dry-run

      polyrank train --recipe fine-tune --data groups.jsonl --out run --evaluate my-collection

      polyrank train run/config.json --steps 500 --out longer
    """
    if (config is None) == (recipe is None):
        raise typer.BadParameter("expected CONFIG or --recipe, one of them")
    if config is not None and (model or data):
        raise typer.BadParameter("expected --model and --data with --recipe only, got CONFIG")
    if queries is not None and evaluate is None:
        raise typer.BadParameter("expected --evaluate DIR with --queries, got none")
    if out is None and not dry_run:
        raise typer.BadParameter("expected --out FOLDER, or --dry-run to only look, got neither")
    require_torch()
    from polyrank.torch_backend.runner import choose_device, limit_threads
    from polyrank.training.config import to_mapping
    from polyrank.training.preview import preview_reranker

    device = str(choose_device(device))
    limit_threads(threads)
    run = _run(config, recipe, model, data or [], offline)
    if steps is not None:
        run = replace(run, loop=replace(run.loop, steps=steps))
    if out is not None:
        check_begun(out, to_mapping(run))
    if out is None or dry_run:
        if evaluate is not None:
            from polyrank.evaluation import read_collection

            read_collection(evaluate)
        for line in preview_reranker(run, device=device).lines():
            print(line)
        return
    _train(run, out, device, evaluate, queries)


def _run(
    config: Path | None,
    recipe: str | None,
    model: str | None,
    data: list[str],
    offline: bool,
) -> RerankConfig:
    """The run that is asked for, its model found."""
    from polyrank.models import find_model
    from polyrank.training.config import read_config
    from polyrank.training.recipe import recipe_run

    if config is not None:
        run = read_config(config)
    else:
        run = recipe_run(str(recipe), model=model, groups=data)
    found = [
        str(find_model(name, offline=offline or None).path) for name in (run.model, *run.teachers)
    ]
    return replace(run, model=found[0], teachers=tuple(found[1:]))


def _train(
    run: RerankConfig, out: Path, device: str, collection: str | None, queries: int | None
) -> None:
    from polyrank.training.rerank import train_reranker

    with running(out, device) as (own, watch):
        hook = None if collection is None else _evaluation(collection, run, queries, watch)
        train_reranker(
            run, out, device=own, evaluate=hook, say=watch.say, progress=watch.progress
        )  # fmt: skip
    watch.finished(out / f"step-{run.loop.steps:06d}")


def _evaluation(folder: str, run: RerankConfig, queries: int | None, watch: Watch) -> Evaluate:
    """What measures the model between two steps, always on the same candidates."""
    from polyrank.evaluation import evaluate, read_collection
    from polyrank.evaluation.bm25 import BM25
    from polyrank.tokenization import PairTokenizer
    from polyrank.training.scoring import ModelScorer

    collection = read_collection(folder)
    for notice in collection.notices:
        watch.say(f"warning: {notice}")
    if collection.candidates is None:
        index = BM25(collection)
        found = {q: index.search(collection.queries[q], 100) for q in collection.qrels}
        collection = replace(collection, candidates={q: d for q, d in found.items() if d})
    tokenizer = PairTokenizer.from_folder(run.model)
    scored = 0

    def advance(name: str, done: int, total: int) -> None:
        nonlocal scored
        scored += done
        watch.pairs(scored, total)

    def measure(model: Any, step: int) -> Mapping[str, float]:
        nonlocal scored
        scored = 0
        result = evaluate(
            collection,
            [ModelScorer(model, tokenizer, max_batch_tokens=run.data.max_batch_tokens)],
            metrics=[_METRIC],
            queries=queries,
            on_progress=advance,
        )
        candidates, scorer = result.systems
        return {_METRIC: scorer.mean(_METRIC), "candidates": candidates.mean(_METRIC)}

    return measure
