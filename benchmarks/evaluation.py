"""What the evaluation room claims: its speed, its memory, and the figures of judged pools.

    python benchmarks/evaluation.py metrics
    python benchmarks/evaluation.py memory
    python benchmarks/evaluation.py pools --data POOLS [--onnx FOLDER] [--queries N] --output OUT

`pools` evaluates BM25 on every pool, and an English ONNX cross-encoder on the English ones. Its
scores are kept in OUT, so that it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from polyrank.evaluation import (
    Collection,
    ScorerSpec,
    evaluate,
    evaluate_run,
    read_collection,
    write_results,
)
from polyrank.evaluation.results import versions

ENGLISH = ("cranfield", "qa-qed-nq.en", "scifact", "trec-dl19")
RESULTS = Path(__file__).parent / "results" / "evaluation.json"


def measure_metrics() -> dict[str, Any]:
    """Seconds for three metrics over 1,000 queries with 200 judged and 200 ranked documents."""
    draw = random.Random(0)
    names = [f"d{n}" for n in range(5000)]
    qrels = {f"q{q}": {d: draw.choice((0, 0, 1, 2)) for d in draw.sample(names, 200)}
             for q in range(1000)}  # fmt: skip
    run = {f"q{q}": {d: draw.random() for d in draw.sample(names, 200)} for q in range(1000)}
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        evaluate_run(run, qrels, ["ndcg@10", "map", "recall@100"])
        seconds.append(time.perf_counter() - start)
    judged = sum(map(len, qrels.values()))
    return {"judgements": judged, "metrics": 3, "seconds": round(min(seconds), 3)}


class Draws:
    """A scorer that draws its scores."""

    def __init__(self, seed: int) -> None:
        self.name, self._random = f"draws-{seed}", np.random.default_rng(seed)

    def score(self, pairs: Sequence[object]) -> np.ndarray:
        return self._random.random(len(pairs), np.float32)


def measure_memory() -> list[dict[str, Any]]:
    """Peak of Python's and NumPy's memory over 300 queries x 100 candidates, by scorers."""
    texts = {f"d{n}": {"id": f"d{n}", "text": f"text {n}", "title": ""} for n in range(5000)}
    draw = random.Random(0)
    run = {f"q{q}": {d: draw.random() for d in draw.sample(list(texts), 100)} for q in range(300)}
    collection = Collection(
        name="drawn",
        queries={q: q for q in run},
        documents=texts,
        qrels={q: dict.fromkeys(list(docs)[:3], 1) for q, docs in run.items()},
    )
    found = []
    for count in (1, 2, 8):
        tracemalloc.start()
        evaluate(collection, [Draws(n) for n in range(count)], run=run)
        found.append({"scorers": count, "peak_mb": round(tracemalloc.get_traced_memory()[1] / 1e6)})
        tracemalloc.stop()
    return found


def measure_pools(
    data: Path, onnx: str | None, queries: int | None, output: Path, only: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """BM25 on every pool, and the cross-encoder on the English ones."""
    done = []
    for folder in sorted(p for p in data.iterdir() if (p / "corpus.jsonl.xz").exists()):
        if only and folder.name not in only:
            continue
        collection = read_collection(folder)
        scorers = [ScorerSpec(text="bm25")] if collection.candidates else []
        sampled = None
        if onnx and folder.name in ENGLISH:
            scorers.append(ScorerSpec(text=f"onnx:{onnx}"))
            sampled = queries if len(collection.qrels) > (queries or 0) else None
        done.append(evaluate(
            replace(collection, notices=()), scorers, queries=sampled, output=output / folder.name,
            cache=output / "scores",
        ))  # fmt: skip
        write_results(done, output)
        e = done[-1]
        for s in e.systems:
            yield {
                "pool": folder.name, "queries": len(e.queries), "documents": e.documents,
                "sampled": sampled is not None, "system": s.name,
                "ndcg@10": round(s.mean("ndcg@10"), 4),
                "interval": [round(s.intervals["ndcg@10"].low, 4),
                             round(s.intervals["ndcg@10"].high, 4)],
                "mrr@10": round(s.mean("mrr@10"), 4),
                "recall@100": round(s.mean("recall@100"), 4),
                "macro_ndcg@10": round(e.macro(s, "ndcg@10"), 4), "languages": len(e.groups),
                "truncated": s.truncated, "pairs": s.pairs,
            }  # fmt: skip


def main() -> None:
    """Run one measurement, print it, and put it into evaluation.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("metrics", "memory", "pools"))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--onnx")
    parser.add_argument("--queries", type=int)
    parser.add_argument("--pool", action="append", default=[])
    parser.add_argument("--output", type=Path, default=Path("polyrank-eval"))
    given = parser.parse_args()
    kept = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    if given.what == "pools":
        rows = kept.get("pools", [])
        for row in measure_pools(given.data, given.onnx, given.queries, given.output, given.pool):
            print(json.dumps(row), flush=True)
            same = ("pool", "system", "sampled")
            rows = [r for r in rows if any(r[k] != row[k] for k in same)] + [row]
        found: Any = sorted(rows, key=lambda r: (r["pool"], r["sampled"]))
    else:
        found = measure_metrics() if given.what == "metrics" else measure_memory()
        print(json.dumps(found))
    kept |= {given.what: found, "versions": versions()}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
