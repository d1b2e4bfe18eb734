"""Contenders in turns: each lives in a process of its own, and one runs at a time."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

AGREES = 0.8
"""Least Kendall tau with the reference for a time to count: a fast network that ranks otherwise is
another network."""
Score = Callable[[list[tuple[str, str]]], Any]


class Contender:
    """A child process that loads one way of scoring when it is first run.

    `like`: the contender whose ranking this one must agree with; None: the first of the race.
    """

    def __init__(
        self,
        script: Path,
        name: str,
        folder: Path,
        options: Sequence[str] = (),
        like: str | None = None,
    ) -> None:
        self.name, self.like = name, like
        self.command = [sys.executable, str(script), "--contender", name, "--folder", str(folder)]
        self.command += options
        self.child: subprocess.Popen[str] | None = None
        self.load_seconds = 0.0
        self.times: list[float] = []

    def start(self) -> subprocess.Popen[str]:
        """Load, unless that is done. The child of a contender that runs."""
        if self.child is None:
            self.child = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"},
            )
            self.load_seconds = self.read(self.child)["seconds"]
        return self.child

    def read(self, child: subprocess.Popen[str]) -> dict[str, Any]:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended: {child.wait()}")
        return json.loads(line)

    def run(self, pairs: list[tuple[str, str]], repeats: int = 1) -> dict[str, Any]:
        child = self.start()
        assert child.stdin is not None
        child.stdin.write(json.dumps({"pairs": pairs, "repeats": repeats}) + "\n")
        child.stdin.flush()
        return self.read(child)

    def end(self) -> None:
        if self.child is not None:
            self.child.kill()
            self.child.wait()
            self.child = None


def serve(load: Callable[[], Score], peak: Callable[[], float]) -> None:
    """The child's side: load, then answer each line of pairs with logits and median seconds."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    start = time.perf_counter()
    score = load()
    answer(seconds=time.perf_counter() - start)
    for line in sys.stdin:
        asked = json.loads(line)
        pairs = [tuple(p) for p in asked["pairs"]]
        seconds = []
        for _ in range(asked["repeats"]):
            start = time.perf_counter()
            logits = np.asarray(score(pairs), np.float64).ravel().tolist()
            seconds.append(time.perf_counter() - start)
        answer(seconds=statistics.median(seconds), logits=logits, peak_gb=peak())


def race(
    contenders: list[Contender],
    pairs: list[tuple[str, str]],
    rounds: int,
    *,
    repeats: int = 1,
    lean: bool = False,
    each_round: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """Warm up, then run all in turn, `rounds` times. A row for each, the reference first.

    A turn is `repeats` runs, of which the median counts; `each_round` runs while all are idle.
    `lean`: hold one contender in memory at a time, each loaded and warmed up anew for its turn.
    """
    answers = {} if lean else {c.name: c.run(pairs) for c in contenders}
    for n in range(rounds):
        each_round()
        for c in contenders:
            if lean:
                c.run(pairs)
            answers[c.name] = c.run(pairs, repeats)
            c.times.append(answers[c.name]["seconds"])
            if lean:
                c.end()
            print(f"round {n + 1}/{rounds} {c.name}: {c.times[-1]:.3f} s", file=sys.stderr)
    rows = []
    for c in contenders:
        reference = np.array(answers[c.like or contenders[0].name]["logits"])
        logits = np.array(answers[c.name]["logits"])
        tau = kendall_tau(reference, logits)
        row = {
            "contender": c.name,
            "median_s": statistics.median(c.times),
            "all_s": c.times,
            "ratio_to_first": statistics.median(
                a / b for a, b in zip(contenders[0].times, c.times, strict=True)
            ),
            "load_s": c.load_seconds,
            "peak_gb": answers[c.name]["peak_gb"],
            "like": c.like or contenders[0].name,
            "kendall_tau": tau,
            "agrees": tau >= AGREES,
            "largest_difference": float(np.abs(logits - reference).max()),
        }
        rows.append(row)
    return rows


def kendall_tau(a: Any, b: Any) -> float:
    """Agreement of two rankings, from -1 to 1."""
    i, j = np.triu_indices(len(a), 1)
    return float(np.mean(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j])))


def agreement(row: dict[str, Any]) -> str:
    """A row's Kendall tau, and whether its time counts."""
    return f"{row['kendall_tau']:.3f}" + ("" if row["agrees"] else ", does not count")


def table(rows: list[dict[str, Any]], tokens: int, *, unit: str = "s") -> str:
    """A Markdown table of a race, times in "s" or "ms".

    Rows that know their `share` of the machine's limit have a column for it.
    """
    shares = any("share" in r for r in rows)
    names = ["contender", f"median {unit}", "tokens/s", "times the first"]
    names += ["share of the limit"] * shares + ["peak GB", "tau", "largest diff"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for r in rows:
        median = f"{r['median_s']:.2f}" if unit == "s" else f"{r['median_s'] * 1e3:.1f}"
        cells = [r["contender"], median, f"{tokens / r['median_s']:.0f}"]
        cells += [f"{r['ratio_to_first']:.2f}"]
        cells += [f"{r['share']:.0%} of {r['limit']}"] if shares else []
        cells += [f"{r['peak_gb']:.2f}", agreement(r)]
        lines.append("| " + " | ".join([*cells, f"{r['largest_difference']:.1e}"]) + " |")
    return "\n".join(lines)
