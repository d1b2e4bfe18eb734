"""`polyrank calibrate`, and its file given to the commands that print scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from polyrank import Calibration, Reranker
from polyrank.evaluation.calibrate import fit_calibration

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
        + "\n \n"  # as spreadsheets end
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
        ("w1\tw2\tnan", "expected a number as label at standard input:1, got 'nan'"),
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


def test_what_cannot_be_held_out_is_not_told(
    polyrank: Run, model: str, judged: Path, tmp_path: Path
) -> None:
    lines = judged.read_text().splitlines(keepends=True)
    judged.write_text("".join("w10 w20\t" + line.partition("\t")[2] for line in lines))
    ran = polyrank("calibrate", judged, "-m", model, "-o", tmp_path / "c.json")
    assert (ran.code, len(ran.lines)) == (0, 6)
    assert [line.rpartition(" -> ")[2] for line in ran.lines[4:]] == ["not measured"] * 2
    assert "too few queries" in ran.err


def test_ten_judgements_of_each_kind_are_measured_on_the_rest() -> None:
    relevant = np.arange(20) % 2 == 0
    logits = np.random.default_rng(0).normal(relevant, 1).astype(np.float32)
    fit = fit_calibration(logits, relevant, [str(n % 10) for n in range(20)])
    p = fit.calibration.scores(logits)
    in_sample = -np.log(np.where(relevant, p, 1 - p)).mean()
    assert fit.log_loss[1] is not None
    assert fit.log_loss[1] > in_sample + 1e-4


def test_an_output_that_cannot_be_is_refused_before_the_model_is_loaded(
    polyrank: Run, judged: Path, tmp_path: Path
) -> None:
    before = judged.read_bytes()
    (tmp_path / "same").symlink_to(judged)
    for out, words in (
        (judged, "expected an --output other than the input"),
        (tmp_path / "same", "expected an --output other than the input"),
        (tmp_path, "Is a directory; give --output a file"),
        (tmp_path / "none" / "c.json", "No such file or directory; give --output a file"),
    ):
        ran = polyrank("calibrate", judged, "-m", "no-such-model", "--offline", "-o", out)
        assert ran.code == 1
        assert words in ran.err
    assert judged.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["judged.tsv", "same"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_says_what_to_do(polyrank: Run, model: str, judged: Path) -> None:
    ran = polyrank("calibrate", judged, "-m", model, "-o", "/dev/full")
    assert ran.code == 1
    assert ran.err.startswith("error: expected to write /dev/full: No space left on device; give")


def _relevant(judged: Path) -> int:
    return sum(line.endswith("\t1") for line in judged.read_text().splitlines())
