from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from polyrank import Reranker
from polyrank.errors import BackendError, InputError
from polyrank.evaluation import Collection, evaluate, read_collection, read_run
from polyrank.evaluation.answers import has_answer
from polyrank.evaluation.cache import ROW, ScoreCache, hash_pair
from polyrank.evaluation.values import Judged
from polyrank.values import Pair

from .conftest import DOCUMENTS, QUERIES, Overlap, write_collection

RUN = {
    "q1": {"d3": 3.0, "d2": 2.0, "d1": 1.0, "d4": 0.5},
    "q2": {"d3": 1.0},
    "q3": {"d2": 2.0, "d5": 1.0},
}


def test_importing_the_room_loads_no_scorer() -> None:
    code = "import polyrank.evaluation, sys, json; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    heavy = {"torch", "onnxruntime", "transformers", "sentence_transformers", "bm25s", "Stemmer"}
    assert not heavy & set(json.loads(out.stdout))


def test_every_scorer_is_measured_on_the_same_candidates(folder: Path, overlap: Overlap) -> None:
    e = evaluate(read_collection(folder), [overlap], run=RUN, metrics=["ndcg@10", "success@1"])
    first, system = e.systems
    assert [s.name for s in e.systems] == ["first stage", "overlap"]
    assert system.values["success@1"].tolist() == [1.0, 1.0, 1.0]
    assert first.values["success@1"].tolist() == [0.0, 1.0, 0.0]
    (c,) = e.comparisons
    assert (c.wins, c.ties, c.losses) == (2, 1, 0)
    assert system.pairs == overlap.asked == 7


def test_without_a_run_bm25_finds_the_candidates_and_writes_them(
    folder: Path, tmp_path: Path
) -> None:
    e = evaluate(read_collection(folder), output=tmp_path / "out")
    assert e.systems[0].name == "bm25"
    run, _ = read_run(tmp_path / "out" / "bm25.trec")
    again = evaluate(read_collection(folder), run=run)
    assert again.systems[0].mean("ndcg@10") == e.systems[0].mean("ndcg@10")


def test_depth_cuts_the_run_and_says_so(folder: Path, overlap: Overlap) -> None:
    e = evaluate(read_collection(folder), [overlap], run=RUN, depth=2, metrics=["recall@100"])
    assert e.systems[1].values["recall@100"].tolist() == [0.0, 1.0, 1.0]
    assert any("below depth 2" in n.what for n in e.notices)


def test_a_sample_is_the_same_for_the_same_seed(folder: Path) -> None:
    c = read_collection(folder)
    samples = {tuple(evaluate(c, run=RUN, queries=2, seed=s).queries) for s in (5, 5, 5)}
    assert len(samples) == 1
    assert len(samples.pop()) == 2


def test_everything_that_does_not_fit_the_run_is_counted(folder: Path, overlap: Overlap) -> None:
    run = {"q1": {"d1": 1.0, "gone": 9.0, "d4": 0.5}, "q2": {"d3": 1.0}, "q9": {"d1": 1.0}}
    e = evaluate(read_collection(folder), [overlap], run=run)
    told = [str(n) for n in e.notices]
    assert any(t.startswith("1 queries of the run are unknown") and "(q9)" in t for t in told)
    assert any(t.startswith("1 judged queries are not in the run") and "(q3)" in t for t in told)
    assert any(t.startswith("1 documents of the run have no text") and "gone" in t for t in told)
    assert e.systems[1].values["ndcg@10"][2] == 0.0


def test_a_document_without_a_text_is_ranked_last(folder: Path, tmp_path: Path) -> None:
    class Negative(Overlap):
        def score(self, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
            return -1e6 - super().score(pairs)

    run = {"q1": {"gone": 9.0, "lost": 8.0, "d1": 1.0, "d4": 0.5}}
    evaluate(read_collection(folder), [Negative()], run=run, output=tmp_path)
    written, _ = read_run(tmp_path / "overlap.trec")
    assert list(written["q1"])[2:] == ["gone", "lost"]


def test_a_run_of_another_collection_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match="2 queries have no judgements"):
        evaluate(read_collection(folder), run={"x": {"d1": 1.0}, "y": {"d1": 1.0}})


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([np.nan, 1.0, 2.0, 3.0], "got nan for query 'q1' and document 'd3', and 1 such scores"),
        ([np.inf] * 4, "4 such scores of 4"),
        ([1.0], r"expected 4 scores from Fixed .* shape \(1,\)"),
    ],
)
def test_scores_that_cannot_be_ranked_are_errors(
    folder: Path, scores: list[float], message: str
) -> None:
    class Fixed:
        def score(self, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
            return np.array(scores, np.float32)

    with pytest.raises(BackendError, match=message):
        evaluate(read_collection(folder), [Fixed()], run=RUN)


def test_scores_that_are_no_numbers_are_an_error(folder: Path) -> None:
    class Lazy:
        def score(self, pairs: Sequence[Pair]) -> Any:
            return (1.0 for _ in pairs)

    with pytest.raises(BackendError, match=r"expected numbers from Lazy\.score, got generator"):
        evaluate(read_collection(folder), [Lazy()], run=RUN)


def test_what_is_no_scorer_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match=r"an object with score\(pairs\)"):
        evaluate(read_collection(folder), [object()], run=RUN)  # type: ignore[list-item]
    with pytest.raises(InputError, match="expected a list of scorers, got object"):
        evaluate(read_collection(folder), object(), run=RUN)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected a Collection, got str; read_collection"):
        evaluate(str(folder))  # type: ignore[arg-type]


def test_a_second_evaluation_scores_nothing_again(folder: Path, tmp_path: Path) -> None:
    c = read_collection(folder)
    first = evaluate(c, [Overlap()], run=RUN, output=tmp_path)
    again = Overlap()
    second = evaluate(c, [again], run=RUN, output=tmp_path)
    assert again.asked == 0
    assert (first.systems[1].cached, second.systems[1].cached) == (0, 7)
    assert first.systems[1].values["map"].tolist() == second.systems[1].values["map"].tolist()
    seconds = [e.systems[1].seconds for e in (first, second)]
    np.testing.assert_allclose(seconds[0], seconds[1], rtol=1e-5)


def test_scores_of_another_identity_are_not_used(folder: Path, tmp_path: Path) -> None:
    class Newer(Overlap):
        identity = {"version": 2}  # noqa: RUF012

    c = read_collection(folder)
    evaluate(c, [Overlap()], run=RUN, output=tmp_path)
    newer = Newer()
    evaluate(c, [newer], run=RUN, output=tmp_path)
    assert newer.asked == 7


def test_a_scorer_without_identity_leaves_no_scores(folder: Path, tmp_path: Path) -> None:
    class Nameless:
        def score(self, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
            return np.zeros(len(pairs), np.float32)

    evaluate(read_collection(folder), [Nameless()], run=RUN, output=tmp_path)
    assert not (tmp_path / "scores").exists()


def test_an_interrupted_evaluation_keeps_what_was_scored(folder: Path, tmp_path: Path) -> None:
    class Interrupted(Overlap):
        def score(self, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
            if self.asked:
                raise KeyboardInterrupt
            return super().score(pairs)

    c = read_collection(folder)
    with pytest.raises(KeyboardInterrupt):
        evaluate(c, [Interrupted()], run=RUN, output=tmp_path)

    class Same(Overlap):
        pass

    Same.__qualname__ = Interrupted.__qualname__
    resumed = Same()
    e = evaluate(c, [resumed], run=RUN, output=tmp_path)
    assert (e.systems[1].cached, resumed.asked) == (4, 3)


def test_a_half_written_row_is_dropped(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path, "x", {})
    cache.add([hash_pair(("q", "a")), hash_pair(("q", "b"))], Judged(scores=np.ones(2, "f4")), 1.0)
    cache.close()
    (path,) = tmp_path.glob("*.scores")
    path.write_bytes(path.read_bytes()[:-5])
    cache = ScoreCache(tmp_path, "x", {})
    assert len(cache) == 1
    cache.add([hash_pair(("q", "b"))], Judged(scores=np.full(1, 2, "f4")), 1.0)
    cache.close()
    assert path.stat().st_size == 2 * ROW.itemsize
    again = ScoreCache(tmp_path, "x", {})
    assert again.rows(again.find([hash_pair(("q", "b"))]))["score"].tolist() == [2.0]
    again.close()


def test_a_pair_is_its_query_title_and_text() -> None:
    plain = hash_pair(("q", "t"))
    assert hash_pair(("q", {"id": "1", "title": "", "text": "t"})) == plain
    others: list[Pair] = [("q t", ""), ("q", {"title": "t", "text": ""}), ("q", "T"), ("", "qt")]
    assert len({plain, *map(hash_pair, others)}) == 5


def test_a_running_reranker_tells_tokens_and_truncation(
    folder: Path, reranker: Reranker, tiny_model: Path
) -> None:
    c = read_collection(folder)
    e = evaluate(c, [reranker], run=RUN)
    system = e.systems[1]
    assert system.tokens is not None
    assert system.truncated == 0
    pairs = [(QUERIES["q2"], DOCUMENTS["d3"])]
    assert system.tokens[1] == len(reranker.encode(pairs)[0])
    with Reranker(tiny_model, max_length=6) as short:
        assert evaluate(c, [short], run=RUN).systems[1].truncated


def test_languages_are_averaged_each_for_itself(tmp_path: Path, overlap: Overlap) -> None:
    c = read_collection(write_collection(tmp_path / "m", ["de", "de", "fr"]))
    e = evaluate(c, [overlap], run={"q1": RUN["q1"], "q3": RUN["q3"]}, metrics=["success@1"])
    system = e.systems[1]
    assert e.by_language(system, "success@1") == {"de": 0.5, "fr": 1.0}
    assert e.macro(system, "success@1") == 0.75
    assert system.mean("success@1") == pytest.approx(2 / 3)


def test_queries_that_cross_languages_are_grouped_by_either_side(
    tmp_path: Path, overlap: Overlap
) -> None:
    c = read_collection(write_collection(tmp_path / "m", ["de>ja", "de>ar", "fr>ja"]))
    e = evaluate(c, [overlap], run=RUN)
    counts = {t: {k: len(v) for k, v in g.items()} for t, g in e.groupings.items()}
    assert counts == {
        "query language": {"de": 2, "fr": 1},
        "document language": {"ar": 1, "ja": 2},
        "language pair": {"de>ar": 1, "de>ja": 1, "fr>ja": 1},
    }


def test_two_scorers_of_one_name_are_told_apart(folder: Path) -> None:
    e = evaluate(read_collection(folder), [Overlap(), Overlap()], run=RUN)
    assert [s.name for s in e.systems] == ["first stage", "overlap", "overlap (2)"]
    assert len(e.comparisons) == 3


def test_names_that_look_alike_as_files_have_a_run_each(folder: Path, tmp_path: Path) -> None:
    scorers = [Overlap(), Overlap(), Overlap()]
    for scorer, name in zip(scorers, ("a/b", "a b", "A:B"), strict=True):
        scorer.name, scorer.identity = name, {"name": name}
    evaluate(read_collection(folder), scorers, run=RUN, output=tmp_path)
    tags = {p.name: p.read_text().split()[5] for p in tmp_path.glob("[aA]*.trec")}
    assert tags == {"a-b.trec": "a-b", "a-b-2.trec": "a-b-2", "A-B-2-2.trec": "A-B-2-2"}


def test_results_are_json_with_versions_and_settings(folder: Path, overlap: Overlap) -> None:
    e = evaluate(read_collection(folder), [overlap], run=RUN, settings={"command": "here"})
    found: dict[str, Any] = json.loads(json.dumps(e.to_dict(), allow_nan=False))
    assert found["settings"]["command"] == "here"
    assert {"python", "numpy", "polyrank"} <= set(found["settings"]["versions"])
    assert found["systems"][1]["identity"]["version"] == 1
    assert found["per_query"][0]["overlap"]["success@1"] == 1.0


def test_answers_judge_where_documents_are_not_judged(folder: Path, overlap: Overlap) -> None:
    c = replace(read_collection(folder), qrels={}, answers={"q1": ["W40 w10"], "q2": ["absent"]})
    assert isinstance(c, Collection)
    e = evaluate(c, [overlap], run=RUN, metrics=["success@1"])
    assert e.systems[1].values["success@1"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("He was born in New  York.", "new york", True),
        ("Newyork", "york", False),
        ("in 1999, he", "1999", True),
        ("café", "CAFÉ", True),
        ("anything", "", False),
    ],
)
def test_an_answer_is_found_by_its_tokens(text: str, answer: str, found: bool) -> None:
    assert has_answer(text, [answer]) is found
