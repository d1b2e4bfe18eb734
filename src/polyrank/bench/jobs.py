"""What a child is asked, and what it answers, as JSON. Both sides read this file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from polyrank.errors import PolyrankError

__all__ = ["Job", "LimitsJob", "Turn", "serve"]

Send = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One turn of one setting."""

    model: str | None
    revision: str | None
    backend: str
    device: str
    dtype: str
    max_length: int | None
    threads: int | None
    pairs: list[tuple[str, str]]
    """None of them: only open the model, which converts it where that was not done."""
    one_query: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What a turn gave."""

    seconds: float
    """For all pairs, from text to logits."""
    query_seconds: list[float]
    """Of every try with `one_query`."""
    logits: list[float]
    lengths: list[int]
    """Tokens of each pair as the network read it."""
    cut: int
    peak_bytes: int | None
    device_peak_bytes: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class LimitsJob:
    """Matrix products to try, each in every setting's library and dtype."""

    layers: list[tuple[int, int]]
    """(what is summed over, columns)"""
    settings: list[dict[str, str]]
    """Backend, device and dtype of each."""
    threads: int | None


def serve(work: Callable[[dict[str, Any], Send], None]) -> None:
    """Be a child: do the job that stdin's first line is, and send messages, one a line, on stdout.

    An error that can be explained is sent as `error`; any other ends the process with its traceback
    on stderr.
    """
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not come between

    def send(message: dict[str, Any]) -> None:
        messages.write(json.dumps(message) + "\n")
        messages.flush()

    try:
        work(json.loads(sys.stdin.readline()), send)
    except (PolyrankError, OSError, ImportError, MemoryError) as error:
        send({"error": str(error) or type(error).__name__})
