"""Scores that are probabilities: the curve, its fit, its file, and where it is used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polyrank import Calibration, InputError, Reranker
from polyrank.evaluation.calibrate import fit_calibration

PAIRS = [("w10 w11", "w20 w21"), ("w10", "w10 w12"), ("w30 w31", "w40 w41 w42")]


def judged(scale: float, shift: float, size: int = 20_000) -> tuple[np.ndarray, np.ndarray, list]:
    """Logits, and labels drawn with the probabilities of a curve."""
    rng = np.random.default_rng(7)
    logits = rng.normal(1.0, 3.0, size).astype(np.float32)
    p = 1 / (1 + np.exp(-(scale * logits + shift)))
    return logits, rng.random(size) < p, [f"q{n // 10}" for n in range(size)]


@pytest.mark.parametrize(("scale", "shift"), [(0.4, -2.0), (1.0, 0.0), (2.5, 1.5)])
def test_the_curve_that_drew_the_labels_is_found(scale: float, shift: float) -> None:
    fit = fit_calibration(*judged(scale, shift))
    assert fit.calibration.scale == pytest.approx(scale, rel=0.06)
    assert fit.calibration.shift == pytest.approx(shift, abs=0.12)
    assert fit.error[1] < 0.02


def test_what_is_told_is_of_queries_not_seen() -> None:
    logits, relevant, queries = judged(0.4, -2.0)
    fit = fit_calibration(logits, relevant, queries)
    assert fit.error[0] > 0.2 > 0.02 > fit.error[1]
    assert fit.log_loss[1] < fit.log_loss[0]
    p = fit.calibration.scores(logits)
    for cut in fit.cuts:
        assert cut.kept == pytest.approx((p >= cut.threshold).sum(), rel=0.05, abs=3)
        assert cut.recall == pytest.approx(
            (relevant & (p >= cut.threshold)).sum() / relevant.sum(), abs=0.02
        )
    precisions = [c.precision for c in fit.cuts[:6]]
    assert precisions == sorted(precisions)


def test_few_judgements_that_a_threshold_parts_do_not_run_away() -> None:
    logits = np.linspace(-5, 5, 24, dtype=np.float32)
    fit = fit_calibration(logits, logits > 0, [str(n) for n in range(24)])
    assert 0.3 < fit.calibration.scale < 5
    assert all(np.isfinite(fit.log_loss))


def test_too_few_or_reversed_judgements_are_refused() -> None:
    logits = np.linspace(-5, 5, 24, dtype=np.float32)
    queries = [str(n) for n in range(24)]
    with pytest.raises(InputError, match="at least 10 relevant and 10 other pairs, got 2 and 22"):
        fit_calibration(logits, logits > 4.4, queries)
    with pytest.raises(InputError, match="higher logits than others, got the reverse"):
        fit_calibration(logits, logits < 0, queries)


def test_scores_move_and_the_order_does_not(tiny_model: Path, reranker: Reranker) -> None:
    logits = reranker.logits(PAIRS)
    curve = Calibration(scale=3.0, shift=-1.0)
    with Reranker(tiny_model, calibration=curve) as calibrated:
        assert calibrated.score(PAIRS) == pytest.approx(1 / (1 + np.exp(1 - 3 * logits)), abs=1e-6)
        documents = [text for _, text in PAIRS]
        ranking, plain = (r.rank("w10", documents) for r in (calibrated, reranker))
    assert [r.index for r in ranking] == [r.index for r in plain]
    assert [r.logit for r in ranking] == pytest.approx([r.logit for r in plain], abs=1e-5)
    assert [r.score for r in ranking] != [r.score for r in plain]


def test_a_calibration_of_another_model_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    Calibration(scale=2.0, fingerprint="0123456789abcdef").write(tmp_path / "c.json")
    with pytest.raises(InputError, match=rf"0123456789abcdef; make one with: .* -m {tiny_model}"):
        Reranker(tiny_model, calibration=tmp_path / "c.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "a JSON object with scale, shift, fingerprint"),
        ("no json", "a JSON object with scale, shift, fingerprint"),
        ("[" * 100_000, "a JSON object with scale, shift, fingerprint"),
        (f'{{"scale": 1{"0" * 400}, "shift": 0}}', "a JSON object with scale, shift, fingerprint"),
        ('{"scale": -1, "shift": 0, "fingerprint": null}', "a scale above 0"),
        ('{"scale": 1, "shift": NaN, "fingerprint": null}', "a finite shift"),
    ],
)
def test_a_file_that_is_no_calibration_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=message):
        Calibration.read(tmp_path / "c.json")
    with pytest.raises(InputError, match="No such file"):
        Calibration.read(tmp_path / "other.json")


@pytest.mark.parametrize("wrong", [{"scale": "1"}, {"shift": None}, {"scale": float("nan")}])
def test_what_is_no_curve_is_an_error(wrong: Any) -> None:
    with pytest.raises(InputError, match="expected a scale above 0"):
        Calibration(**wrong)


def test_a_file_reads_back_as_it_was(tmp_path: Path) -> None:
    curve = Calibration(scale=0.1 + 0.2, shift=-1e-9, fingerprint="ab")
    curve.write(tmp_path / "c.json")
    assert Calibration.read(tmp_path / "c.json") == curve
    assert sorted(json.loads((tmp_path / "c.json").read_text())) == [
        "fingerprint",
        "scale",
        "shift",
    ]
