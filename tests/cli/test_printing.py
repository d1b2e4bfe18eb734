"""Numbers and rows as text."""

from __future__ import annotations

import numpy as np
import pytest

from polyrank.calibration import Calibration
from polyrank.cli.printing import json_line, logit_text, print_fields, print_ranking, score_text
from polyrank.values import Ranked


def test_neighbouring_logits_have_scores_that_differ() -> None:
    logits = np.linspace(-13, 13, 2001, dtype=np.float32)
    above = np.nextafter(logits, np.float32(np.inf))
    sigmoid = Calibration().scores
    for low, high in zip(sigmoid(logits), sigmoid(above), strict=True):
        assert score_text(low) <= score_text(high)
    far = np.abs(logits) > 1  # nearer to 0 fp32 is finer than any 12 decimals
    for low, high in zip(sigmoid(logits[far]), sigmoid(above[far]), strict=True):
        assert score_text(low) < score_text(high)


def test_a_logit_reads_back_as_itself_and_has_no_exponent() -> None:
    for value in (0.0, -0.0, 1e-7, -3.0517578e-05, 1.0042726, 8.5170109e-06, 12345678.0, -1e10):
        text = logit_text(value)
        assert np.float32(text) == np.float32(value)
        assert "e" not in text


def test_a_row_is_one_line_of_four_fields(capsys: pytest.CaptureFixture[str]) -> None:
    row = Ranked(
        index=0,
        score=0.5,
        logit=0.0,
        document={"id": "a\tb", "text": "one\ttwo\nthree\r\u2028four"},
        tokens=4,
        tokens_given=4,
    )
    print_ranking([row], snippet=None)
    assert capsys.readouterr().out == "1\t0.500000000000\ta b\tone two three  four\n"


def test_json_is_one_line_too() -> None:
    assert json_line({"text": "a\nb ü"}) == '{"text": "a\\nb ü"}'


def test_fields_are_names_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields({"a": "1", "long": "2\n3"})
    assert capsys.readouterr().out == "a\t1\nlong\t2 3\n"
