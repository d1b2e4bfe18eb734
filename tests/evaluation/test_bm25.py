from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyrank.errors import InputError
from polyrank.evaluation import evaluate_run, read_collection
from polyrank.evaluation.analysis import Analyzer, fold, guess_language
from polyrank.evaluation.bm25 import BM25, K1, B


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Der Übung, 3.5!", ["der", "ubung", "3", "5"]),
        ("ＦＵＬＬ ﬁne", ["full", "fine"]),
        ("東京都に行く", ["東京", "京都", "都に", "に行", "行く"]),
        ("中", ["中"]),
        ("ガｶﾞ", ["ガガ"]),
        ("สวัสดี", ["สวั", "วัส", "ัสด", "สดี"]),
        ("ភាសា", ["ភាស", "ាសា"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("한국어 문서", ["한국어", "문서"]),
        ("שָׁלוֹם", ["שלום"]),
        ("snake_case", ["snake", "case"]),
        ("", []),
    ],
)
def test_every_script_has_terms(text: str, terms: list[str]) -> None:
    assert Analyzer()(text) == terms


def test_a_text_may_mix_scripts() -> None:
    assert Analyzer()("Python入門 guide") == ["python", "guide", "入門"]


def test_english_is_stemmed_and_loses_its_stopwords() -> None:
    assert Analyzer("en")("The running of the bulls") == ["run", "bull"]
    assert Analyzer("en", stem=False)("running") == ["running"]
    assert not Analyzer("ja").stemmed


def test_folding_a_folded_text_changes_nothing() -> None:
    for text in ("Straße İstanbul", "ΣΊΣΥΦΟΣ", "Ⅻ ½", "がギ", "한글"):
        assert fold(fold(text)) == fold(text)


def test_english_is_recognised_by_its_function_words() -> None:
    assert guess_language(["this is the way that it was for them and for us"]) == "en"
    assert guess_language(["das ist der Weg den sie gegangen sind"]) is None
    assert guess_language([]) is None


def test_bm25_scores_are_lucenes(folder: Path) -> None:
    c = read_collection(folder)
    found = BM25(c).search("w10 w99", 10)
    lengths = {i: len(d["text"].split()) for i, d in c.documents.items()}
    mean = np.mean(list(lengths.values()))
    idf = np.log(1 + (5 - 3 + 0.5) / (3 + 0.5))  # w10 is in 3 of 5 documents
    expected = {i: idf / (1 + K1 * (1 - B + B * lengths[i] / mean)) for i in ("d1", "d2", "d4")}
    assert found == pytest.approx(expected, rel=1e-5)


def test_equal_scores_come_in_trec_evals_order_and_zeros_not_at_all(folder: Path) -> None:
    index = BM25(read_collection(folder))
    assert list(index.search("w10 w11", 10)) == ["d4", "d1", "d2"]
    assert list(index.search("w10 w11", 1)) == ["d4"]
    assert index.search("w99", 10) == {}


def test_as_a_scorer_it_gives_the_scores_of_its_search(folder: Path) -> None:
    c = read_collection(folder)
    index = BM25(c)
    found = index.search("w10 w11", 10)
    judged = index.judge([("w10 w11", c.documents[i]) for i in found])
    assert judged.scores.tolist() == list(found.values())
    with pytest.raises(InputError, match="a document of the collection"):
        index.judge([("w10", "a text of another place")])


def test_bm25_of_scifact_is_as_good_as_published(pools: Path) -> None:
    c = read_collection(pools / "scifact")
    index = BM25(c)
    run = {q: index.search(c.queries[q], 100) for q in c.qrels}
    _, values = evaluate_run(run, c.qrels, ["ndcg@10"])
    assert values["ndcg@10"].mean() >= 0.66
