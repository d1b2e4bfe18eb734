"""Where a run says how it goes: a JSONL file, TensorBoard where it is installed, a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["RunLog"]


class RunLog:
    """One line a logged step. Steps after the one resumed from are taken out again."""

    def __init__(
        self, folder: Path, *, resumed_at: int, say: Callable[[str], None] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "log.jsonl"
        self._say = say
        self._board = _tensorboard(folder)
        if self._path.exists():
            kept = [
                line
                for line in self._path.read_text(encoding="utf-8").splitlines()
                if _step_of(line) <= resumed_at
            ]
            self._path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

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


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
