"""`polyrank score`: line N of the output is about line N of the input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from polyrank import Reranker

from .conftest import Ran

Run = Callable[..., Ran]
PAIRS = [("w1 w2", "w3"), ("w4", "w5\tw6"), ("w1", ""), ("w9 w8 w7", "w1 w2 w3 w4")]
LINES = "".join(f"{q}\t{t}\n" for q, t in PAIRS)


def test_every_line_gets_its_score(polyrank: Run, model: str, reranker: Reranker) -> None:
    ran = polyrank("score", "-m", model, stdin=LINES)
    assert (ran.code, ran.err) == (0, "")
    np.testing.assert_allclose([float(x) for x in ran.lines], reranker.score(PAIRS), atol=1e-6)


def test_logits_keep_every_digit_of_fp32(polyrank: Run, model: str, reranker: Reranker) -> None:
    ran = polyrank("score", "-m", model, "--logits", stdin=LINES)
    assert [np.float32(x) for x in ran.lines] == reranker.logits(PAIRS).tolist()


def test_json_keeps_the_fields_of_the_input(polyrank: Run, model: str, reranker: Reranker) -> None:
    stdin = "".join(
        json.dumps({"n": i, "query": q, "text": t, "title": "w5", "score": "old"}) + "\n"
        for i, (q, t) in enumerate(PAIRS)
    )
    ran = polyrank("score", "-m", model, "--jsonl", "--json", "--max-length", 9, stdin=stdin)
    rows = [json.loads(line) for line in ran.lines]
    assert [(row["n"], row["query"], row["text"]) for row in rows] == [
        (i, q, t) for i, (q, t) in enumerate(PAIRS)
    ]
    expected = reranker.logits([(q, f"w5 {t}") for q, t in PAIRS[:3]])
    np.testing.assert_allclose([row["logit"] for row in rows[:3]], expected, atol=1e-5)
    assert [row["truncated"] for row in rows] == [False, False, False, True]
    assert (rows[3]["tokens"], rows[3]["tokens_given"]) == (9, 12)
    assert ran.err == "1 of 4 pairs was cut to 9 tokens\n"


def test_a_lone_surrogate_in_a_field_passes_through_as_json(polyrank: Run, model: str) -> None:
    line = '{"query": "w1", "text": "w2", "note": "\\ud800"}\n'
    ran = polyrank("score", "-m", model, "--jsonl", "--json", stdin=line)
    assert json.loads(ran.out)["note"] == "\ud800"


@pytest.mark.parametrize(
    ("bad", "options", "words"),
    [
        ("no tab\n", [], "without TAB"),
        ("\n", [], "without TAB"),
        (b"w1\tw\xe92\n", [], "0xe9"),
        ("{}\n", ["--jsonl"], "`text`"),
        ('{"text": "w1"}\n', ["--jsonl"], "`query`"),
        ('{"text": "w1", "query": null}\n', ["--jsonl"], "string"),
        ("\n", ["--jsonl"], "JSON"),
    ],
)
def test_a_bad_line_ends_the_run_after_what_is_before_it(
    polyrank: Run, model: str, tmp_path: Path, bad: str | bytes, options: list[str], words: str
) -> None:
    good = '{"query": "w1", "text": "w2"}\n' if options else "w1\tw2\n"
    file = tmp_path / "pairs"
    file.write_bytes(good.encode() * 2 + (bad if isinstance(bad, bytes) else bad.encode()) * 2)
    ran = polyrank("score", "-m", model, *options, file)
    assert ran.code == 1
    assert len(ran.lines) == 2
    assert ran.err.startswith("error: expected ")
    assert f"{file}:3" in ran.err
    assert words in ran.err


def test_an_empty_input_needs_no_model(polyrank: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "in").touch()
    assert polyrank("score") == Ran(0, "", "nothing to score\n")
    assert polyrank("score", tmp_path / "in", "-o", out).code == 0
    assert out.read_bytes() == b""


def test_wrong_usage_ends_with_2(polyrank: Run) -> None:
    assert polyrank("score", "--resume").code == 2
    assert polyrank("score", "--json", "--logits").code == 2
