"""Turns, rounds and failures, with stand-ins for the processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from polyrank.bench import ModelOptions, Report, Setting, measure, parse_settings, workload_of
from polyrank.config import parse_config

PAIRS = workload_of([("q", "a"), ("q", "b"), ("q", "c")])
OPTIONS = ModelOptions(model="m", threads=1)

# Writes down what it was asked; an int8 setting turns the order around.
STAND_IN = """
import json, sys
job = json.loads(sys.stdin.readline())
name = job["backend"] + ":" + job["dtype"]
with open(sys.argv[1], "a") as log:
    log.write(f"{name} {len(job['pairs'])}\\n")
if not job["pairs"]:
    print('{"say": "converting"}')
    sys.exit()
print('{"first_logit": true}', flush=True)
logits = [3.0, 2.0, 1.0] if job["dtype"] == "int8" else [1.0, 2.0, 3.0]
turn = {"seconds": 0.5, "query_seconds": [0.1], "logits": logits, "lengths": [4, 5, 6], "cut": 1,
        "peak_bytes": 7, "device_peak_bytes": None}
print(json.dumps({"turn": turn}), flush=True)
"""
LIMITS = """
import json, sys
job = json.loads(sys.stdin.readline())
with open(sys.argv[1], "a") as log:
    log.write(f"limits of {len(job['settings'])}\\n")
print(json.dumps({"limits": {s["device"] + " " + s["dtype"]: 100.0 for s in job["settings"]}}))
"""


class Bench:
    """Runs a bench with stand-ins, and knows what they were asked."""

    def __init__(self, folder: Path, tiny_model: Path) -> None:
        self.log = folder / "log"
        self.config = parse_config(json.loads((tiny_model / "config.json").read_text()))
        self.said: list[str] = []
        self.steps: list[tuple[int, int, str]] = []

    def run(
        self, only: str, rounds: int, dying: dict[str, str] | None = None, limits: str = LIMITS
    ) -> Report:
        def contender(setting: Setting) -> Sequence[str]:
            code = (dying or {}).get(str(setting), STAND_IN)
            return [sys.executable, "-c", code, str(self.log)]

        return measure(
            OPTIONS,
            self.config,
            parse_settings(only),
            PAIRS,
            rounds=rounds,
            on_step=lambda done, total, text: self.steps.append((done, total, text)),
            say=self.said.append,
            contender=contender,
            limits_of=[sys.executable, "-c", limits, str(self.log)],
        )

    @property
    def asked(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def bench(tmp_path: Path, tiny_model: Path) -> Bench:
    return Bench(tmp_path, tiny_model)


def test_settings_take_turns_after_each_is_opened_once(bench: Bench) -> None:
    report = bench.run("onnx:int8,torch:bf16", rounds=2)
    opened = ["onnx:fp32 0", "onnx:int8 0"]  # what may have to be converted
    a_round = ["onnx:fp32 3", "onnx:int8 3", "torch:bf16 3", "limits of 3"]
    assert bench.asked == opened + a_round + a_round
    assert bench.said == ["converting"] * 2
    assert [done for done, _, _ in bench.steps] == list(range(10))
    assert {total for _, total, _ in bench.steps} == {10}
    assert report.lengths == (4, 5, 6)
    assert report.cut == 1
    assert report.limits == {"cpu fp32": 100.0, "cpu int8": 100.0, "cpu bf16": 100.0}


def test_rows_compare_with_fp32(bench: Bench) -> None:
    report = bench.run("onnx:int8,torch:bf16", rounds=1)
    found = {str(r.setting): r.agreement.tau for r in report.rows if r.agreement}
    assert found == {"onnx:fp32": 1.0, "onnx:int8": -1.0, "torch:bf16": 1.0}
    assert all(r.speed and r.speed.pairs_per_second == 6.0 for r in report.rows)
    assert all(r.speed and r.speed.cold_start_seconds > 0 for r in report.rows)


def test_a_setting_that_dies_is_an_error_row_and_takes_no_more_turns(bench: Bench) -> None:
    report = bench.run("torch:bf16", rounds=2, dying={"torch:bf16": "import os; os._exit(9)"})
    alive, dead = report.rows
    assert alive.speed is not None
    assert (dead.speed, dead.error) == (None, "the process ended with exit code 9")
    assert bench.asked[-1] == "limits of 1"


def test_a_model_that_cannot_be_opened_costs_no_turns(bench: Bench) -> None:
    sorry = 'print(\'{"error": "expected a graph"}\')'
    report = bench.run("onnx:int8", rounds=1, dying={"onnx:fp32": sorry, "onnx:int8": sorry})
    assert [r.error for r in report.rows] == ["expected a graph"] * 2
    assert report.lengths == ()
    assert not bench.log.exists()


def test_an_answer_without_a_turn_is_an_error(bench: Bench) -> None:
    (_, row) = bench.run("torch:bf16", rounds=1, dying={"torch:bf16": "pass"}).rows
    assert row.error == "the process ended without an answer"


def test_limits_that_cannot_be_measured_leave_the_rest(bench: Bench) -> None:
    report = bench.run("onnx:int8", rounds=1, limits="1 / 0")
    assert report.limits == {}
    assert "ZeroDivisionError" in str(report.limits_error)
    assert all(r.speed and r.speed.share is None for r in report.rows)
