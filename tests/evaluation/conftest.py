"""A small collection that tests share, and where the development pools are."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from polyrank.values import Pair

DOCUMENTS = {
    "d1": "w10 w11 w12",
    "d2": "w10 w20",
    "d3": "w30 w31",
    "d4": "w40 w10 w11",
    "d5": "w50",
}
QUERIES = {"q1": "w10 w11", "q2": "w30", "q3": "w50 w40"}
QRELS = {"q1": {"d1": 2, "d4": 1, "d3": 0}, "q2": {"d3": 1}, "q3": {"d5": 1, "d2": 0}}


def write_collection(folder: Path, languages: Sequence[str] = ()) -> Path:
    """A BEIR folder with the collection above."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"_id": i, "title": "", "text": t} for i, t in DOCUMENTS.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    asked: list[dict[str, str]] = [{"_id": i, "text": t} for i, t in QUERIES.items()]
    for row, language in zip(asked, languages, strict=False):
        row["lang"] = language
    (folder / "queries.jsonl").write_text("".join(json.dumps(r) + "\n" for r in asked))
    lines = [f"{q}\t{d}\t{g}\n" for q, grades in QRELS.items() for d, g in grades.items()]
    (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The small collection."""
    return write_collection(tmp_path / "small")


class Overlap:
    """A scorer: how many words of the query a text has; counts what it is asked."""

    name = "overlap"
    identity = {"version": 1}  # noqa: RUF012  a test's

    def __init__(self) -> None:
        self.asked = 0

    def score(self, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
        self.asked += len(pairs)
        counts = []
        for query, document in pairs:
            text = document if isinstance(document, str) else document["text"]
            counts.append(len(set(query.split()) & set(text.split())) / len(text.split()))
        return np.array(counts, np.float32)


@pytest.fixture
def overlap() -> Overlap:
    return Overlap()


@pytest.fixture(scope="session")
def pools() -> Path:
    """The development pools; tests that need them are skipped where they are not."""
    beside = Path(__file__).parents[3] / "shared" / "data" / "dev"
    path = Path(os.environ.get("POLYRANK_DEV_DATA", beside))
    if not path.is_dir():
        pytest.skip("no development pools: set POLYRANK_DEV_DATA to their folder")
    return path
