"""How well rerankers order candidates: collections, first stage, metrics, comparison, report.

>>> from polyrank.evaluation import evaluate, read_collection
>>> result = evaluate(read_collection(folder), [scorer], depth=20)
>>> result.systems[-1].mean("ndcg@10")

Whatever has `score(pairs)` is a scorer. Heavy packages are imported when a scorer needs them.
"""

from polyrank.evaluation.evaluate import evaluate
from polyrank.evaluation.folders import read_collection
from polyrank.evaluation.metrics import DEFAULT_METRICS, evaluate_run, parse_metric
from polyrank.evaluation.named import load_named
from polyrank.evaluation.results import Evaluation, System
from polyrank.evaluation.runs import read_qrels, read_run, write_run
from polyrank.evaluation.scorers import ScorerSpec
from polyrank.evaluation.suites import write_results
from polyrank.evaluation.values import Collection, Notice

__all__ = [
    "DEFAULT_METRICS",
    "Collection",
    "Evaluation",
    "Notice",
    "ScorerSpec",
    "System",
    "evaluate",
    "evaluate_run",
    "load_named",
    "parse_metric",
    "read_collection",
    "read_qrels",
    "read_run",
    "write_results",
    "write_run",
]
