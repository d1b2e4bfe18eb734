from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from polyrank.evaluation import Evaluation, evaluate, read_collection
from polyrank.evaluation.printing import print_evaluation, print_summary
from polyrank.evaluation.report import write_report

from .conftest import Overlap, write_collection
from .test_evaluate import RUN


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    folder = write_collection(tmp_path / "a<b>&c", ["de", "ar", "ar"])
    queries = folder / "queries.jsonl"
    queries.write_text(queries.read_text().replace('"w30"', '"w30 <script>x</script> مرحبا"'))
    scorer = Overlap()
    return evaluate(read_collection(folder), [scorer, Overlap()], run=RUN)


class Tree(HTMLParser):
    """Tags that are open, and everything that would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href")]
        assert tag not in ("script", "link", "img")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(evaluation: Evaluation) -> None:
    page = write_report([evaluation, evaluation])
    tree = Tree()
    tree.feed(page)
    assert (tree.open, tree.fetched) == ([], [])
    assert "url(" not in page
    assert "@import" not in page


def test_what_a_collection_says_is_escaped(evaluation: Evaluation) -> None:
    page = write_report([evaluation])
    assert "<script" not in page
    assert "a&lt;b&gt;&amp;c" in page


def test_the_page_has_every_chart(evaluation: Evaluation) -> None:
    page = write_report([evaluation, evaluation])
    labels = set(re.findall(r'aria-label="([^"]*)"', page))
    assert {
        "Every collection&#x27;s first metric", "Languages, the lowest first",
        "ndcg@10 of every query", "Scores of overlap",
    } <= labels  # fmt: skip
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r'"(nan|inf)', page)


def test_time_by_length_is_drawn_where_tokens_are_told(folder: Path, tiny_model: Path) -> None:
    from polyrank import Reranker

    judged = list(read_collection(folder).qrels)
    lost = {q: documents for q, documents in RUN.items() if q != judged[0]}
    with Reranker(tiny_model) as reranker:
        page = write_report([evaluate(read_collection(folder), [reranker], run=RUN)])
        less = write_report([evaluate(read_collection(folder), [reranker], run=lost)])
    assert 'aria-label="Time of tiny"' in page
    # A query that the first stage found nothing for took no time.
    assert len(lost) < len(RUN)
    assert less.count("<circle") < page.count("<circle")
    assert not re.search(rf"<title>{judged[0]}: [\d,]+, [\d.]+</title>", less)
    assert re.search(rf"<title>{judged[1]}: [\d,]+, [\d.]+</title>", less)


def test_a_first_stage_alone_has_a_page(folder: Path) -> None:
    assert "</html>" in write_report([evaluate(read_collection(folder), run=RUN)])


def test_tables_are_plain_where_there_is_no_terminal(
    evaluation: Evaluation, capsys: pytest.CaptureFixture[str]
) -> None:
    print_evaluation(evaluation)
    print_summary([evaluation, evaluation])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "a<b>&c" in out
    assert "macro-average of 2" in out
    assert "first stage → overlap" in out
