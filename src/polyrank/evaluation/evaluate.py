"""A collection and scorers in, an Evaluation out: run, rerank, measure, compare. Prints nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from polyrank.errors import InputError
from polyrank.evaluation.answers import judge_by_answers
from polyrank.evaluation.bm25 import BM25
from polyrank.evaluation.cache import ScoreCache
from polyrank.evaluation.comparison import bootstrap, compare
from polyrank.evaluation.metrics import (
    DEFAULT_METRICS,
    evaluate_run,
    parse_metric,
    rank_documents,
)
from polyrank.evaluation.results import Evaluation, Histogram, System, versions
from polyrank.evaluation.runs import write_run
from polyrank.evaluation.scorers import ScorerSpec, open_judge
from polyrank.evaluation.scoring import Reranked, rerank_run
from polyrank.evaluation.values import Collection, Notice, Qrels, Run, notice_of
from polyrank.reranker import Reranker
from polyrank.values import Scorer

__all__ = ["evaluate"]

_TOP = 5  # documents of a query that are kept to be shown
_SNIPPET = 220  # characters
_BINS = 40
Progress = Callable[[str, int, int], None]
"""(system, pairs done just now, pairs in all)"""


def evaluate(
    collection: Collection,
    scorers: Sequence[ScorerSpec | Reranker | Scorer] = (),
    *,
    run: Run | None = None,
    depth: int = 100,
    metrics: Sequence[str] = DEFAULT_METRICS,
    queries: int | None = None,
    language: str | None = None,
    seed: int = 0,
    output: Path | None = None,
    cache: Path | None = None,
    on_progress: Progress = lambda name, done, total: None,
    settings: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Rerank a first stage with every scorer and compare them all.

    Args:
        collection: queries, documents and judgements.
        scorers: specs, Rerankers, or objects with `score(pairs)`; one is in memory at a time.
        run: the first stage; None: the collection's candidates, or else BM25.
        depth: documents of a query that are reranked, and on which the first stage is measured.
        metrics: the first one decides comparisons.
        queries: evaluate a seeded sample of so many; None: all judged ones.
        language: of BM25's stemming; None: the collection's, or English where the text looks so.
        output: folder for the runs as TREC files; None: they are not written.
        cache: folder for scores, by model and pair; None: `output`/scores.
        on_progress: called with a system's name, the pairs just done and all of its pairs.
        settings: what else results.json should tell, such as the command.

    Raises:
        InputError: nothing to evaluate. BackendError: a scorer failed.
    """
    if not isinstance(collection, Collection):
        raise InputError(
            f"expected a Collection, got {type(collection).__name__}; read_collection reads one"
        )
    if isinstance(scorers, str) or not isinstance(scorers, Sequence):
        raise InputError(f"expected a list of scorers, got {type(scorers).__name__}")
    for metric in metrics:
        parse_metric(metric)
    if depth < 1 or not metrics:
        raise InputError(f"expected a depth of at least 1 and a metric, got {depth}, {metrics!r}")
    if queries is not None and queries < 1:
        raise InputError(f"expected a sample of at least 1 query, got {queries}")
    started = time.perf_counter()
    if cache is None and output is not None:
        cache = output / "scores"
    collection = _sampled(collection, queries, seed)
    first, identity, notices = _first_stage(collection, run, language, depth)
    qrels = collection.qrels
    if collection.answers:
        qrels = judge_by_answers(collection, first)
    order = {q: rank_documents(first[q])[:depth] for q in qrels if q in first}
    notices += _run_notices(collection, first, order, qrels, depth)
    work = _Work(collection, qrels, metrics, seed, output)
    cut = {q: {d: first[q][d] for d in documents} for q, documents in order.items()}
    systems = [work.system(identity["name"], identity, cut)]
    for scorer in scorers:
        systems.append(_rerank(work, scorer, order, cache, on_progress, {s.name for s in systems}))
    return work.finish(
        systems,
        notices=(*collection.notices, *notices),
        settings={
            "depth": depth, "seed": seed, "queries_sampled": queries, "versions": versions(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - started, 3), **(settings or {}),
        },
    )  # fmt: skip


def _sampled(collection: Collection, queries: int | None, seed: int) -> Collection:
    judged = list(collection.answers or collection.qrels)
    if queries is None or queries >= len(judged):
        return collection
    chosen = np.random.default_rng(seed).choice(len(judged), queries, replace=False)
    kept = {judged[n] for n in chosen}
    return replace(
        collection,
        qrels={q: g for q, g in collection.qrels.items() if q in kept},
        answers={q: a for q, a in collection.answers.items() if q in kept},
    )


def _first_stage(
    collection: Collection, run: Run | None, language: str | None, depth: int
) -> tuple[Run, dict[str, Any], list[Notice]]:
    if run is not None:
        return run, {"name": "first stage", "kind": "run"}, []
    if collection.candidates is not None:
        return collection.candidates, {"name": "candidates", "kind": "run"}, []
    index = BM25(collection, language=language)
    wanted = collection.answers or collection.qrels
    found = {q: index.search(collection.queries[q], depth) for q in wanted}
    lost = [q for q, documents in found.items() if not documents]
    notices = notice_of("queries share no term with any document: BM25 found nothing", lost)
    return {q: d for q, d in found.items() if d}, {"name": "bm25", **index.identity}, notices


def _run_notices(
    collection: Collection, first: Run, order: Mapping[str, Sequence[str]], qrels: Qrels, depth: int
) -> list[Notice]:
    if not order:
        raise InputError(
            f"expected a run with judged queries of {collection.name}, got one whose "
            f"{len(first)} queries have no judgements; check that the files belong together"
        )
    beside = [q for q in first if q not in qrels and q not in collection.queries]
    silent = [q for q in first if q not in qrels and q in collection.queries]
    absent = [q for q in qrels if q not in first]
    textless = [
        f"{q} {d}" for q, documents in order.items() for d in documents
        if d not in collection.documents
    ]  # fmt: skip
    deeper = [q for q in order if len(first[q]) > depth]
    return [
        *notice_of("queries of the run are unknown to the collection: not used", beside),
        *notice_of(
            "queries of the run were not evaluated: not judged, or not in the sample", silent
        ),
        *notice_of("judged queries are not in the run: they count as 0 (trec_eval -c)", absent),
        *notice_of("documents of the run have no text: ranked last, in the run's order", textless),
        *notice_of(f"queries of the run go on below depth {depth}: the rest is not used", deeper),
    ]


def _rerank(
    work: _Work,
    scorer: ScorerSpec | Reranker | Scorer,
    order: Mapping[str, Sequence[str]],
    folder: Path | None,
    on_progress: Progress,
    taken: set[str],
) -> System:
    judge = open_judge(scorer, work.collection)
    name = judge.name if judge.name not in taken else f"{judge.name} ({len(taken)})"
    stored = folder if judge.identity.get("cached", True) else None
    total = sum(d in work.collection.documents for documents in order.values() for d in documents)
    cache = ScoreCache(stored, judge.name, judge.identity)
    try:
        reranked = rerank_run(
            work.collection,
            order,
            judge,
            cache,
            on_progress=lambda pairs: on_progress(name, pairs, total),
        )
    finally:
        cache.close()
        judge.close()
    return work.system(name, judge.identity, reranked.run, reranked)


class _Work:
    """What every system of one evaluation is measured with."""

    def __init__(
        self,
        collection: Collection,
        qrels: Qrels,
        metrics: Sequence[str],
        seed: int,
        output: Path | None,
    ) -> None:
        self.collection, self.qrels = collection, qrels
        self.metrics, self.seed, self.output = metrics, seed, output
        self._files: set[str] = set()

    def system(
        self, name: str, identity: Mapping[str, Any], run: Run, cost: Reranked | None = None
    ) -> System:
        """Measure a run; of the run itself only the first documents are kept."""
        if self.output is not None:
            slug = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
            while slug.lower() in self._files:  # of another name; some systems ignore case
                slug += "-2"
            self._files.add(slug.lower())
            self.output.mkdir(parents=True, exist_ok=True)
            write_run(run, self.output / f"{slug}.trec", tag=slug)
        queries, values = evaluate_run(run, self.qrels, self.metrics)
        system = System(
            name=name,
            identity={k: v for k, v in identity.items() if k != "name"},
            values=values,
            intervals={m: bootstrap(v, seed=self.seed) for m, v in values.items()},
            top=[rank_documents(run.get(q, {}))[:_TOP] for q in queries],
        )
        if cost is None:
            return system
        return replace(
            system,
            pairs=cost.pairs,
            cached=cost.cached,
            truncated=cost.truncated,
            tokens=cost.tokens,
            seconds=cost.seconds,
            histogram=self._histogram(run),
        )

    def finish(
        self, systems: Sequence[System], *, notices: Sequence[Notice], settings: Mapping[str, Any]
    ) -> Evaluation:
        """Compare the systems and put everything together."""
        main = str(parse_metric(self.metrics[0]))
        documents = self.collection.documents
        shown = {d for s in systems for top in s.top for d in top}
        tops = [{d for s in systems for d in s.top[n]} for n in range(len(self.qrels))]
        return Evaluation(
            collection=self.collection.name,
            documents=len(documents),
            queries=list(self.qrels),
            query_texts=[self.collection.queries[q] for q in self.qrels],
            languages=[self.collection.languages.get(q, "") for q in self.qrels],
            metrics=[str(parse_metric(m)) for m in self.metrics],
            systems=systems,
            comparisons=[
                compare(
                    a.values[main],
                    b.values[main],
                    before=a.name,
                    after=b.name,
                    metric=main,
                    seed=self.seed,
                )
                for a, b in combinations(systems, 2)
            ],
            snippets={d: _snippet(documents[d]) for d in shown if d in documents},
            grades=[
                {d: g[d] for d in top if d in g}
                for top, g in zip(tops, self.qrels.values(), strict=True)
            ],
            notices=notices,
            settings=settings,
        )

    def _histogram(self, run: Run) -> Histogram:
        documents = self.collection.documents
        scores: tuple[list[float], list[float]] = ([], [])
        for query, scored in run.items():
            grades = self.qrels[query]
            for document, score in scored.items():
                if document in documents:
                    scores[grades.get(document, 0) > 0].append(score)
        low, high = np.percentile([*scores[0], *scores[1], 0.0][: -1 or None] or [0.0], [0, 100])
        edges = np.linspace(low, high if high > low else low + 1.0, _BINS + 1)
        other, relevant = (np.histogram(part, edges)[0].tolist() for part in scores)
        return Histogram(
            edges=tuple(map(float, edges)), relevant=tuple(relevant), other=tuple(other)
        )


def _snippet(document: Mapping[str, Any]) -> str:
    title, text = document.get("title"), document["text"]
    line = " ".join(f"{title} — {text}".split() if title else text[: 4 * _SNIPPET].split())
    return line if len(line) <= _SNIPPET else line[: _SNIPPET - 1] + "…"
