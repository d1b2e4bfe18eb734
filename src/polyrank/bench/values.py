"""What the rooms of a bench hand to each other: settings, and what was measured of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Agreement", "Report", "Row", "Setting", "Speed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One way to run a model, in the words of `Reranker`."""

    backend: str
    device: str
    dtype: str

    def __str__(self) -> str:
        """As `--only` takes it: `onnx:int8`, `torch:bf16`, `cuda:fp16`."""
        return f"{self.backend if self.device == 'cpu' else self.device}:{self.dtype}"

    @property
    def computes(self) -> str:
        """What its matrix products are measured against: device and dtype."""
        return f"{self.device} {self.dtype}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """What a setting costs; medians over the rounds."""

    pairs_per_second: float
    tokens_per_second: float
    query_seconds_p50: float
    """One query with a few documents, from text to logits; over all tries of all rounds."""
    query_seconds_p95: float
    cold_start_seconds: float
    """From the start of the process to the first logit, the files being in the system's cache."""
    peak_bytes: int | None
    """Most memory that the process held; None where the system does not tell."""
    device_peak_bytes: int | None
    """Most memory of the GPU that it held; None on CPUs."""
    gops: float
    """Billions of operations a second, counted as if none could be left out."""
    share: float | None
    """Of the machine's limit of matrix products in that dtype; None where that is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How far a setting's logits order the documents as those of the reference do."""

    tau: float | None
    """Mean over queries of Kendall's tau-b, -1 to 1; None where no query has an order."""
    top_10_overlap: float | None
    """Mean over queries; None where no query has more than 10 documents."""
    largest_difference: float
    """Of a logit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A setting and how it did."""

    setting: Setting
    reference: bool = False
    """Whether the others are compared with this one."""
    speed: Speed | None = None
    """None: it did not run, and `error` says why."""
    agreement: Agreement | None = None
    """None: it did not run, or no fp32 setting did."""
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "setting": str(self.setting),
            **asdict(self.setting),
            "reference": self.reference,
            "speed": asdict(self.speed) if self.speed else None,
            "agreement": asdict(self.agreement) if self.agreement else None,
            "error": self.error,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All that a bench found."""

    rows: tuple[Row, ...]
    lengths: tuple[int, ...]
    """Tokens of each pair as the network read it."""
    cut: int
    """Pairs that were cut to the limit."""
    limits: Mapping[str, float]
    """Best rate of matrix products in billions of operations a second, by `Setting.computes`."""
    limits_error: str | None = None
    """Why there are none."""
