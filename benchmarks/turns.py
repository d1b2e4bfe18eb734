"""Contenders in turns: each lives in a process of its own, and one runs at a time."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Score = Callable[[list[tuple[str, str]]], Any]


class Contender:
    """A child process that loaded one way of scoring."""

    def __init__(self, script: Path, name: str, folder: Path) -> None:
        self.name = name
        self.child = subprocess.Popen(
            [sys.executable, str(script), "--contender", name, "--folder", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"},
        )
        self.load_seconds = self.read()["seconds"]
        self.times: list[float] = []

    def read(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended: {self.child.wait()}")
        return json.loads(line)

    def run(self, pairs: list[tuple[str, str]]) -> dict[str, Any]:
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps(pairs) + "\n")
        self.child.stdin.flush()
        return self.read()

    def end(self) -> None:
        self.child.kill()
        self.child.wait()


def serve(load: Callable[[], Score], peak: Callable[[], float]) -> None:
    """The child's side: load, then answer each line of pairs with logits and seconds."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    start = time.perf_counter()
    score = load()
    answer(seconds=time.perf_counter() - start)
    for line in sys.stdin:
        pairs = [tuple(p) for p in json.loads(line)]
        start = time.perf_counter()
        logits = np.asarray(score(pairs), np.float64).ravel().tolist()
        answer(seconds=time.perf_counter() - start, logits=logits, peak_gb=peak())


def race(
    contenders: list[Contender], pairs: list[tuple[str, str]], rounds: int
) -> list[dict[str, Any]]:
    """Warm up, then run all in turn, `rounds` times. A row for each, the reference first."""
    answers = {c.name: c.run(pairs) for c in contenders}
    for n in range(rounds):
        for c in contenders:
            answers[c.name] = c.run(pairs)
            c.times.append(answers[c.name]["seconds"])
            print(f"round {n + 1}/{rounds} {c.name}: {c.times[-1]:.2f} s", file=sys.stderr)
    reference = np.array(answers[contenders[0].name]["logits"])
    rows = []
    for c in contenders:
        logits = np.array(answers[c.name]["logits"])
        row = {
            "contender": c.name,
            "median_s": statistics.median(c.times),
            "all_s": c.times,
            "ratio_to_first": statistics.median(
                a / b for a, b in zip(contenders[0].times, c.times, strict=True)
            ),
            "load_s": c.load_seconds,
            "peak_gb": answers[c.name]["peak_gb"],
            "kendall_tau": kendall_tau(reference, logits),
            "largest_difference": float(np.abs(logits - reference).max()),
        }
        rows.append(row)
    return rows


def kendall_tau(a: Any, b: Any) -> float:
    """Agreement of two rankings, from -1 to 1."""
    i, j = np.triu_indices(len(a), 1)
    return float(np.mean(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])))


def table(rows: list[dict[str, Any]], tokens: int) -> str:
    """A Markdown table of a race."""
    lines = [
        "| contender | median s | tokens/s | times the first | peak GB | tau | largest diff |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['contender']} | {r['median_s']:.2f} | {tokens / r['median_s']:.0f} | "
        f"{r['ratio_to_first']:.2f} | {r['peak_gb']:.2f} | {r['kendall_tau']:.3f} | "
        f"{r['largest_difference']:.1e} |"
        for r in rows
    ]
    return "\n".join(lines)
