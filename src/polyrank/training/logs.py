"""Where a run says how it goes: a JSONL file, TensorBoard where it is installed, a terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["RunLog", "StepReport", "Window", "duration_text"]

# Sums that an objective logs, and the count that makes each a mean.
_MEANS = {
    "nce": "labelled",
    "right": "labelled",
    "kl": "scored",
    "margin": "scored",
    "mlm": "masked",
    "hits": "masked",
    "hidden": "tokens",
    "last": "tokens",
}


def duration_text(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step did."""

    loss: float
    """Mean over the step's items."""
    grad_norm: float
    """Before clipping."""
    items: int
    tokens: int
    logged: Mapping[str, float]
    """The objective's sums over the step."""


class Window:
    """The steps since the last logged one."""

    def __init__(self) -> None:
        self._reports: list[StepReport] = []
        self._since = time.perf_counter()

    def add(self, report: StepReport) -> None:
        """Take in a step."""
        self._reports.append(report)

    def flush(self, rate: float) -> dict[str, float]:
        """Means since the last call. `right` is the share of labelled groups won; `rate` that of
        the peak learning rate."""
        seconds = time.perf_counter() - self._since
        sums: dict[str, float] = {}
        for report in self._reports:
            for name, value in report.logged.items():
                sums[name] = sums.get(name, 0.0) + value
        n = len(self._reports)
        means = {
            "loss": sum(r.loss for r in self._reports) / n,
            "grad_norm": sum(r.grad_norm for r in self._reports) / n,
            "tokens_per_s": sum(r.tokens for r in self._reports) / max(seconds, 1e-9),
            "rate": rate,
        }
        for name, count in _MEANS.items():
            if sums.get(count) and name in sums:
                means[name] = sums[name] / sums[count]
        self._reports, self._since = [], time.perf_counter()
        return means


class RunLog:
    """One line a logged step. Steps after `resumed_at` are taken out again; -1: all of them."""

    def __init__(
        self, folder: Path, *, resumed_at: int, say: Callable[[str], None] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.jsonl"
        self._say = say
        self._board = _tensorboard(folder, resumed_at)
        if self._path.exists():
            kept = [
                line
                for line in self._path.read_text(encoding="utf-8").splitlines()
                if _step_of(line) <= resumed_at
            ]
            self._path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def has(self, kind: str, step: int) -> bool:
        """Whether a step's numbers of a kind are there already."""
        if not self._path.exists():
            return False
        rows = map(json.loads, self._path.read_text(encoding="utf-8").splitlines())
        return any(row["kind"] == kind and row["step"] == step for row in rows)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Log numbers under a kind: `train` or `evaluation`."""
        rounded = {k: float(f"{v:.6g}") for k, v in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step, **rounded}) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)
            self._board.flush()
        if self._say is not None:
            shown = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
            self._say(f"{kind} step {step}  {shown}")

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._board is not None:
            self._board.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a line cut by a kill


def _tensorboard(folder: Path, resumed_at: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    again = resumed_at + 1 if resumed_at > 0 else None  # steps from here on are shown once
    return SummaryWriter(str(folder / "tensorboard"), purge_step=again)
