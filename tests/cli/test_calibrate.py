"""`polyrank calibrate`, and its file given to the commands that print scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from polyrank import Calibration, Reranker

from .conftest import Ran

Run = Callable[..., Ran]
PAIRS = [
    (f"w{10 + n % 7} w{20 + n}", f"w{30 + n % 11} w{40 + n % 5} w{10 + n % 7}") for n in range(60)
]


@pytest.fixture
def judged(tmp_path: Path, reranker: Reranker) -> Path:
    """Pairs whose label is 1 where the logit is above the median, but for a few."""
    logits = reranker.logits(PAIRS)
    labels = (logits > np.median(logits)) ^ (np.arange(60) % 9 == 0)
    file = tmp_path / "judged.tsv"
    file.write_text(
        "".join(f"{q}\t{t}\t{int(y)}\n" for (q, t), y in zip(PAIRS, labels, strict=True))
    )
    return file


def test_a_curve_is_fitted_and_used(
    polyrank: Run, model: str, reranker: Reranker, judged: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c.json"
    ran = polyrank("calibrate", judged, "-m", model, "-o", out)
    assert ran.code == 0, ran.err
    assert ran.lines[:2] == ["pairs\t60", f"relevant\t{_relevant(judged)}"]
    assert ran.lines[6] == "threshold\tkept\tprecision\trecall"
    assert len(ran.lines) == 16
    curve = Calibration.read(out)
    assert curve.fingerprint is not None
    lines = "".join(f"{q}\t{t}\n" for q, t in PAIRS)
    scored = polyrank("score", "-m", model, "--calibration", out, stdin=lines)
    wanted = curve.scores(reranker.logits(PAIRS))
    np.testing.assert_allclose([float(x) for x in scored.lines], wanted, atol=1e-6)
    ranked = polyrank(
        "rank", "w10", "-m", model, "--calibration", out, "--json", stdin="w20\nw10\n"
    )
    for line in ranked.lines:
        row = json.loads(line)
        assert row["score"] == pytest.approx(curve.scores(np.float32([row["logit"]]))[0])


def test_json_lines_and_grades(polyrank: Run, model: str, judged: Path, tmp_path: Path) -> None:
    file = tmp_path / "judged.jsonl"
    rows = [line.split("\t") for line in judged.read_text().splitlines()]
    file.write_text(
        "".join(json.dumps({"query": q, "text": t, "label": 2 * int(y)}) + "\n" for q, t, y in rows)
    )
    ran = polyrank(
        "calibrate", file, "--jsonl", "--relevant-from", 2, "-m", model, "-o", tmp_path / "c.json"
    )
    assert ran.code == 0, ran.err
    assert ran.lines[1] == f"relevant\t{_relevant(judged)}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("w1\tw2", "expected `query TAB text TAB label` at standard input:1, got fewer TABs"),
        ("w1\tw2\tyes", "expected a number as label at standard input:1, got 'yes'"),
        ("w1\tw2\t1", "expected at least 10 relevant and 10 other pairs, got 1 and 0"),
    ],
)
def test_lines_without_a_label_are_errors(
    polyrank: Run, model: str, tmp_path: Path, line: str, message: str
) -> None:
    out = tmp_path / "c.json"
    ran = polyrank("calibrate", "-", "-m", model, "-o", out, stdin=line + "\n")
    assert ran.code == 1
    assert message in ran.err
    assert not out.exists()


def _relevant(judged: Path) -> int:
    return sum(line.endswith("\t1") for line in judged.read_text().splitlines())
