from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from polyrank.errors import InputError
from polyrank.evaluation import evaluate_run, parse_metric, read_collection
from polyrank.evaluation.values import Qrels, Run

NAMES = {
    "ndcg@1": "ndcg_cut_1",
    "ndcg@10": "ndcg_cut_10",
    "ndcg@100": "ndcg_cut_100",
    "ndcg": "ndcg",
    "map": "map",
    "map@10": "map_cut_10",
    "mrr": "recip_rank",
    "recall@5": "recall_5",
    "recall@100": "recall_100",
    "p@5": "P_5",
    "p@10": "P_10",
    "success@1": "success_1",
    "success@10": "success_10",
}
MEASURES = {
    "ndcg_cut.1,10,100", "ndcg", "map", "map_cut.10", "recip_rank", "recall.5,100", "P.5,10",
    "success.1,10",
}  # fmt: skip


def assert_as_trec_eval(run: Run, qrels: Qrels, level: int = 1) -> None:
    judge = pytrec_eval.RelevanceEvaluator(
        {q: dict(g) for q, g in qrels.items()}, MEASURES, relevance_level=level
    )
    theirs = judge.evaluate({q: dict(d) for q, d in run.items()})
    queries, ours = evaluate_run(run, qrels, list(NAMES), level=level, missing="skip")
    assert set(queries) == set(theirs)
    for metric, name in NAMES.items():
        expected = [theirs[q][name] for q in queries]
        np.testing.assert_allclose(ours[metric], expected, rtol=0, atol=1e-9, err_msg=metric)


ids = st.sampled_from([f"d{n}" for n in range(12)] + ["D1", "é", "文", "d 1"])
scores = st.sampled_from([0.0, 1.0, 1.0 + 1e-12, 2.5, -3.0, 16777216.0, 16777217.0])
runs = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]), st.dictionaries(ids, scores, min_size=1), min_size=1
)
# A query all of whose grades are negative sends the C code of pytrec_eval into an endless loop.
judgements = st.fixed_dictionaries(
    {
        q: st.dictionaries(ids, st.integers(-2, 4)).map(lambda g: {**g, "d0": abs(g.get("d0", 0))})
        for q in ("q1", "q2", "q3")
    }
)


@settings(deadline=None, max_examples=200)
@given(run=runs, qrels=judgements, level=st.integers(1, 3))
def test_metrics_equal_trec_eval_on_runs_full_of_ties(run: Run, qrels: Qrels, level: int) -> None:
    assert_as_trec_eval(run, qrels, level)


def test_metrics_equal_trec_eval_on_long_runs() -> None:
    r = random.Random(0)
    qrels = {
        f"q{i}": {f"d{r.randrange(900)}": r.choice([-1, 0, 0, 1, 2, 3]) for _ in range(80)}
        for i in range(60)
    }
    run = {
        f"q{i}": {f"d{r.randrange(900)}": r.choice([0.5, 1.0, r.random()]) for _ in range(150)}
        for i in range(50)
    }
    assert_as_trec_eval(run, qrels)


@pytest.mark.parametrize("pool", ["trec-dl19", "handbook-crosslingual"])
def test_metrics_equal_trec_eval_on_the_development_pools(pools: Path, pool: str) -> None:
    collection = read_collection(pools / pool)
    assert collection.candidates is not None
    assert_as_trec_eval(collection.candidates, collection.qrels)


def test_bm25_of_trec_dl19_is_as_published(pools: Path) -> None:
    collection = read_collection(pools / "trec-dl19")
    assert collection.candidates is not None
    _, values = evaluate_run(collection.candidates, collection.qrels, ["ndcg@10"])
    assert f"{values['ndcg@10'].mean():.4f}" == "0.5058"


def test_a_query_with_negative_grades_only_counts_as_zero() -> None:
    _, values = evaluate_run({"q": {"a": 1.0}}, {"q": {"a": -1}}, list(NAMES))
    assert all(v.tolist() == [0.0] for v in values.values())


def test_equal_scores_rank_the_greater_id_first() -> None:
    _, values = evaluate_run({"q": {"a": 1.0, "b": 1.0}}, {"q": {"b": 1}}, ["success@1"])
    assert values["success@1"].tolist() == [1.0]


def test_mrr_is_cut_where_asked() -> None:
    run = {"q": {f"d{n}": -float(n) for n in range(12)}}
    _, values = evaluate_run(run, {"q": {"d10": 1}}, ["mrr@10", "mrr@11", "mrr"])
    assert values["mrr@10"].tolist() == [0.0]
    assert values["mrr@11"].tolist() == values["mrr"].tolist() == [1 / 11]


def test_a_judged_query_that_the_run_lacks_counts_as_zero_unless_skipped() -> None:
    run, qrels = {"q1": {"a": 1.0}, "q9": {"a": 1.0}}, {"q1": {"a": 1}, "q2": {"a": 1}}
    queries, values = evaluate_run(run, qrels, ["map"])
    assert (queries, values["map"].tolist()) == (["q1", "q2"], [1.0, 0.0])
    assert evaluate_run(run, qrels, ["map"], missing="skip")[0] == ["q1"]


def test_a_run_without_a_judged_query_is_an_error() -> None:
    with pytest.raises(InputError, match="none in common"):
        evaluate_run({"q9": {"a": 1.0}}, {"q1": {"a": 1}}, missing="skip")


@pytest.mark.parametrize("text", ["ndgc@10", "recall", "p", "success", "ndcg@0", "map@-1", ""])
def test_an_unknown_metric_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match="expected a metric like"):
        parse_metric(text)


def test_metric_names_are_read_in_any_case() -> None:
    assert [str(parse_metric(t)) for t in ("nDCG@10", " MAP", "MRR@10")] == [
        "ndcg@10", "map", "mrr@10",
    ]  # fmt: skip
