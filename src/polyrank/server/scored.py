"""What a request's pairs came to, and what the server says of its model. No HTTP, no thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from polyrank.calibration import Calibration
from polyrank.server.problems import Problem

__all__ = ["About", "Scored", "State", "Times"]

State = Literal["loading", "ready", "draining", "dead"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """Where a request's seconds went, as the engine tells them; `forward` is from the beginning of
    its first pass to the end of its last."""

    began: float = 0.0
    """When tokenising began, on the clock of `time.perf_counter`; the parts follow each other."""
    tokenize: float = 0.0
    queue: float = 0.0
    forward: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """The pairs of one request, in the order given."""

    logits: npt.NDArray[np.float32]
    """[N]"""
    tokens: npt.NDArray[np.int64]
    """[N] tokens that the network read of each pair"""
    cut: tuple[int, ...]
    """Which pairs were over the limit, and cut."""
    query_cut: int
    """The most tokens that the query lost."""
    cached: int
    """How many pairs were not run, because their score was known."""
    characters: int
    times: Times
    calibration: Calibration = field(default_factory=Calibration)

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """[N] in [0, 1]."""
        return self.calibration.scores(self.logits)

    @property
    def truncated(self) -> int:
        """How many pairs were cut."""
        return len(self.cut)

    @property
    def total_tokens(self) -> int:
        """Tokens of all pairs."""
        return int(self.tokens.sum())

    def best(self, top_n: int | None = None) -> list[int]:
        """Pairs by their logits, best first; ties keep input order."""
        return [int(i) for i in np.argsort(-self.logits, kind="stable")[:top_n]]


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """What the server says of itself."""

    state: State
    name: str
    """What the model is called in answers."""
    names: tuple[str, ...]
    """Every name it answers to."""
    refuse_unknown: bool
    revision: str | None
    fingerprint: str
    """A hash of config, weights and tokenizer."""
    backend: str
    device: str
    dtype: str
    max_length: int
    """Tokens of a pair."""
    max_batch_tokens: int | None
    max_requests: int
    max_documents: int
    tokenizer_threads: int
    version: str
    started: int
    """Unix time."""
    metrics: Callable[[], str]
    """Counters and times, in Prometheus' text format."""

    def check_model(self, name: str | None) -> None:
        """Raise Problem for a model that we are not, where the settings refuse those."""
        if self.refuse_unknown and name is not None and name not in self.names:
            short = name[:200]
            raise Problem("unknown_model", f"model '{short}' not found", name=short)
