"""Which collections an evaluation goes through, and the files it leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from polyrank.errors import InputError
from polyrank.evaluation.evaluate import Progress, evaluate
from polyrank.evaluation.folders import read_collection
from polyrank.evaluation.metrics import DEFAULT_METRICS
from polyrank.evaluation.named import LANGUAGES, NAMED, load_named
from polyrank.evaluation.reading import find_file
from polyrank.evaluation.report import write_report
from polyrank.evaluation.results import Evaluation
from polyrank.evaluation.runs import read_run
from polyrank.evaluation.scorers import ScorerSpec
from polyrank.evaluation.values import Collection, Run
from polyrank.reranker import Reranker
from polyrank.values import Scorer

__all__ = ["PAPER", "Opened", "collections_of", "evaluate_all", "missing_of"]

PAPER = {
    **{f"mldr:{lang}": "ndcg@10" for lang in LANGUAGES["mldr"]},
    **{f"miracl:{lang}": "ndcg@10" for lang in LANGUAGES["miracl"]},
    **{f"mkqa:{lang}": "success@20" for lang in LANGUAGES["mkqa"]},
    **{f"beir:{name}": "ndcg@10" for name in LANGUAGES["beir"]},
}
"""The collections of the reranking table of mGTE (Zhang et al. 2024), each with its metric.
MKQA's "recall@20" there is success@20: whether one of the first 20 passages holds an answer."""
_RUNS = ("tsv", "trec", "run", "txt")
Opened = Callable[[], tuple[Collection, Run | None, str | None]]
"""Loads a collection, its run if it has a special one, and its main metric if it has its own."""


def collections_of(
    folder: str | None,
    *,
    suite: str | None = None,
    data: Path | None = None,
    run: Path | None = None,
    split: str = "test",
    offline: bool = False,
) -> list[Opened]:
    """Collections by folder, by name (`miracl:sw`) or by suite; each is read when it is called.

    `dev` is every folder in `data` that has a corpus. `paper` takes `miracl.sw` and the like from
    `data` and fetches what is not there, or leaves it out where that is `offline`. The `run` of a
    suite is a folder with `NAME.tsv` or `NAME.trec`.
    """
    if suite is None:
        return [_opener(str(folder), None, run, split=split, offline=offline)]
    if run is not None and not run.is_dir():
        raise InputError(f"expected --run with a folder of runs for a suite, got {run}")
    if suite == "dev":
        return _dev(data, run, split)
    if suite == "paper":
        absent = missing_of(data) if offline else []
        if len(absent) == len(PAPER):
            raise InputError(f"expected folders like {absent[0]} in {data}, found none of them")
        return [
            _paper(name, metric, data, run, offline)
            for name, metric in PAPER.items()
            if _plain(name) not in absent
        ]
    raise InputError(f"expected the suite dev or paper, got {suite!r}")


def missing_of(data: Path | None) -> list[str]:
    """Names of the paper's collections that are no folders in `data`; none where that is None."""
    return [p for p in map(_plain, PAPER) if data is not None and not (data / p).is_dir()]


def _plain(name: str) -> str:
    return name.replace(":", ".")


def _dev(data: Path | None, runs: Path | None, split: str) -> list[Opened]:
    if data is None or not data.is_dir():
        raise InputError(
            f"expected --data with the folder of the development pools, got {data}; each pool is a "
            "folder with corpus.jsonl, queries.jsonl and qrels.tsv"
        )
    pools = [p for p in sorted(data.iterdir()) if p.is_dir() and find_file(p, "corpus.jsonl")]
    if not pools:
        raise InputError(f"expected folders with a corpus.jsonl in {data}, found none")
    return [_opener(str(p), None, _run_in(runs, p.name), split=split, offline=True) for p in pools]


def _paper(name: str, metric: str, data: Path | None, runs: Path | None, offline: bool) -> Opened:
    plain = _plain(name)
    own = data / plain if data is not None and (data / plain).is_dir() else None
    run = _run_in(runs, plain)
    return _opener(str(own or name), metric, run, split="test", offline=offline)


def _opener(
    place: str, metric: str | None, run: Path | None, *, split: str, offline: bool
) -> Opened:
    def load() -> tuple[Collection, Run | None, str | None]:
        kind = place.partition(":")[0]
        if kind in NAMED and not os.path.isdir(place):
            collection = load_named(place, split=split, offline=offline)
        else:
            collection = read_collection(place, split=split)
        if run is None:
            return collection, None, metric
        given, notices = read_run(run)
        return replace(collection, notices=(*collection.notices, *notices)), given, metric

    return load


def _run_in(folder: Path | None, name: str) -> Path | None:
    return find_file(folder, *(f"{name}.{end}" for end in _RUNS)) if folder else None


def evaluate_all(
    collections: Iterable[Opened],
    scorers: Sequence[ScorerSpec | Reranker | Scorer],
    *,
    output: Path,
    depth: int = 100,
    queries: int | None = None,
    seed: int = 0,
    language: str | None = None,
    metrics: Sequence[str] | None = None,
    on_progress: Progress = lambda name, done, total: None,
    command: str | None = None,
) -> Iterator[Evaluation]:
    """Evaluate collections one after the other; results.json and report.html follow each.

    One collection is in memory at a time. The options are those of `evaluate`.
    """
    done: list[Evaluation] = []
    output.mkdir(parents=True, exist_ok=True)
    for load in collections:
        collection, run, metric = load()
        wanted = list(metrics or ([metric] if metric else []))
        wanted += [m for m in DEFAULT_METRICS if m not in wanted and not metrics]
        done.append(
            evaluate(
                collection,
                scorers,
                run=run,
                depth=depth,
                metrics=wanted,
                queries=queries,
                language=language,
                seed=seed,
                output=output / "runs" / collection.name,
                cache=output / "scores",
                on_progress=on_progress,
                settings={"command": command},
            )
        )
        write_results(done, output)
        yield done[-1]


def write_results(done: Sequence[Evaluation], output: Path) -> None:
    """Write results.json and report.html, each whole or not at all."""
    found: dict[str, Any] = {"collections": [e.to_dict() for e in done]}
    text = json.dumps(found, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    for path, content in (
        (output / "results.json", text),
        (output / "report.html", write_report(done)),
    ):
        part = path.with_name(path.name + ".part")
        # A path that is no UTF-8 has lone surrogates: they leave as \udXXX.
        part.write_text(content, encoding="utf-8", errors="backslashreplace", newline="\n")
        part.replace(path)
