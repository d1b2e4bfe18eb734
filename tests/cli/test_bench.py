"""`polyrank bench`: settings measured on a real, tiny model, each in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from polyrank.bench import Report, Row, parse_settings, recommend
from polyrank.cli.bench_printing import print_report

from .conftest import COMMAND, Ran, run_process
from .test_process import on_a_terminal, posix

Run = Callable[..., Ran]
FAST = ("--rounds", 1, "--threads", 1)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("bench") / "pairs.tsv"
    lines = [
        f"w{q} w{q + 1}\tw{20 * q + d} w{d + 5} w{3 * d + 7}" for q in (5, 9) for d in range(12)
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


@pytest.fixture(scope="module")
def found(tiny_model: Path, pairs: Path) -> dict[str, Any]:
    """All that one run found, with pairs of our own."""
    ran = run_process(
        "bench", tiny_model, "--pairs", pairs, "--only", "onnx:fp32,onnx:int8,torch:fp32", "--json",
        *FAST,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def test_every_setting_is_measured(found: dict[str, Any]) -> None:
    rows = {r["setting"]: r for r in found["rows"]}
    assert list(rows) == ["onnx:fp32", "torch:fp32", "onnx:int8"]
    for row in rows.values():
        assert row["error"] is None
        speed = row["speed"]
        for name in ("pairs_per_second", "query_seconds_p50", "cold_start_seconds", "share"):
            assert speed[name] > 0, name
        assert speed["query_seconds_p95"] >= speed["query_seconds_p50"]
        assert speed["tokens_per_second"] > 5 * speed["pairs_per_second"]
    if sys.platform != "win32":
        # PyTorch alone is larger than all of the other process.
        assert rows["torch:fp32"]["speed"]["peak_bytes"] > rows["onnx:fp32"]["speed"]["peak_bytes"]
    assert found["workload"] == {
        "synthetic": False, "pairs": 24, "queries": 2, "tokens": 24 * 9, "longest": 9, "cut": 0,
    }  # fmt: skip
    assert set(found["limits_gops"]) == {"cpu fp32", "cpu int8"}
    assert found["machine"]["threads"] == 1


def test_fp32_of_two_engines_agrees_and_int8_is_near(found: dict[str, Any]) -> None:
    onnx, torch, int8 = (r["agreement"] for r in found["rows"])
    assert onnx == {"tau": 1.0, "top_10_overlap": 1.0, "largest_difference": 0.0}
    assert torch["tau"] == 1.0
    assert torch["top_10_overlap"] == 1.0
    assert 0 < torch["largest_difference"] < 1e-4
    assert 1e-4 < int8["largest_difference"] < 0.5
    assert 0.5 < int8["tau"] <= 1.0


def test_what_is_recommended_can_be_typed(found: dict[str, Any]) -> None:
    advice = found["recommendation"]
    assert advice["judged"]
    backend, dtype = advice["setting"].split(":")
    assert f'backend="{backend}", dtype="{dtype}"' in advice["text"]


def test_elsewhere_the_table_has_tabs_and_the_advice_is_a_message(tiny_model: Path) -> None:
    ran = run_process(
        "bench", tiny_model, "--only", "onnx:fp32", "--count", 9, "--max-length", 60, *FAST
    )
    assert ran.code == 0
    head, row = (line.split("\t") for line in ran.lines)
    values = dict(zip(head, row, strict=True))
    assert values["setting"] == "onnx:fp32"
    assert float(values["tau"]) == 1.0
    assert values["top_10_overlap"] == ""
    assert "9 pairs of random tokens in 2 queries" in ran.err
    assert "fp32 is exact" in ran.err


@posix
def test_a_terminal_gets_a_table_and_the_advice(tiny_model: Path, tmp_path: Path) -> None:
    documents = tmp_path / "documents.jsonl"
    documents.write_text('{"text": "w1", "title": "w2"}\n{"text": "w3"}\n')
    code, seen = on_a_terminal(
        "bench", tiny_model, "--only", "onnx:fp32", "--query", "w7", "--documents", documents,
        "--jsonl", *FAST,
    )  # fmt: skip
    assert code == 0
    assert "round 1 of 1" in seen
    assert "pairs/s" in seen
    assert "\t" not in seen
    assert "2 pairs of your own in 1 queries" in seen
    assert "Use Reranker(" in seen.replace("\r\n", " ")


@posix
def test_ctrl_c_ends_all_processes(tiny_model: Path, tmp_path: Path) -> None:
    bench = subprocess.Popen(
        [*COMMAND, "bench", str(tiny_model), "--only", "onnx:fp32", "--rounds", "1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "HF_HOME": str(tmp_path)},  # nothing is converted there
        start_new_session=True,
    )
    with bench:
        assert bench.stderr
        assert b"converting" in bench.stderr.readline()  # said by a child that lives now
        bench.send_signal(signal.SIGINT)
        bench.communicate(timeout=60)
    assert bench.returncode == 130
    with pytest.raises(ProcessLookupError):
        os.killpg(bench.pid, 0)


def test_a_setting_that_did_not_run_is_a_message_and_no_row(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (fp32, fp16) = parse_settings("cuda:fp32,cuda:fp16")
    rows = Row(setting=fp32, error="no GPU"), Row(setting=fp16, error="no GPU either")
    report = Report(rows=rows, lengths=(), cut=0, limits={}, limits_error="no products")
    print_report(report, recommend(rows, synthetic=True, model=None))
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert "cuda:fp16 did not run: no GPU either\n" in err
    assert "could not be measured: no products" in err


def test_where_nothing_runs_the_reason_is_the_error(tiny_model: Path) -> None:
    ran = run_process("bench", tiny_model, "--only", "onnx:fp32", "--max-length", 3, *FAST)
    assert ran.code == 1
    assert "error: expected at least one setting to run here" in ran.err
    assert "expected max_length from" in ran.err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--query", "w1"], "--query and --documents"),
        (["--pairs", "p", "--query", "w1", "--documents", "d"], "got both"),
        (["--jsonl"], "with --jsonl"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_loaded(
    polyrank: Run, args: list[str], told: str
) -> None:
    ran = polyrank("bench", "no-such-model", *args)
    assert ran.code == 2
    assert told in " ".join(ran.err.replace("│", " ").split())


def test_errors_of_input_name_the_place(polyrank: Run, tiny_model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.tsv"
    bad.write_text("w1\tw2\nw1 w2\n")
    ran = polyrank("bench", tiny_model, "--pairs", bad)
    assert ran.code == 1
    assert f"{bad}:2" in ran.err
    ran = polyrank("bench", tiny_model, "--only", "onnx:int4")
    assert (ran.code, "onnx:int8" in ran.err) == (1, True)
    ran = polyrank("bench", tmp_path)
    assert ran.code == 1


def test_a_long_file_is_cut_and_said(polyrank: Run, tmp_path: Path) -> None:
    file = tmp_path / "pairs.tsv"
    file.write_text("w1\tw2\n" * 3)
    ran = polyrank("bench", tmp_path, "--pairs", file, "--count", 2)
    assert ran.code == 1  # there is no model
    assert f"took the first 2 pairs of {file}; --count takes more" in ran.err
