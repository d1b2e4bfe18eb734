"""What an evaluation found, as values and as JSON. It computes nothing but averages."""
# Q queries

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt

from polyrank.evaluation.comparison import Comparison, Interval
from polyrank.evaluation.values import Notice

__all__ = ["Evaluation", "Groups", "Histogram", "System", "versions"]

Floats = npt.NDArray[np.float64]
Groups = dict[str, npt.NDArray[np.int64]]
"""Language -> places of its queries."""
_PACKAGES = (
    "polyrank", "numpy", "tokenizers", "torch", "bm25s", "PyStemmer", "onnxruntime",
    "sentence-transformers", "transformers",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """How many pairs have a score between two edges, relevant ones and others."""

    edges: tuple[float, ...]
    relevant: tuple[int, ...]
    other: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """One order of the candidates: the first stage's or a scorer's. Arrays are [Q]."""

    name: str
    identity: Mapping[str, Any]
    values: Mapping[str, Floats] = field(repr=False)
    """Metric -> value of every query."""
    intervals: Mapping[str, Interval]
    top: Sequence[Sequence[str]] = field(repr=False)
    """The first documents of every query."""
    pairs: int = 0
    cached: int = 0
    truncated: int | None = None
    tokens: npt.NDArray[np.int64] | None = field(default=None, repr=False)
    seconds: Floats | None = field(default=None, repr=False)
    histogram: Histogram | None = field(default=None, repr=False)
    """Scores of judged pairs; None for the first stage."""

    def mean(self, metric: str) -> float:
        """Average over queries."""
        return float(self.values[metric].mean())


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Systems over the queries of one collection."""

    collection: str
    documents: int
    queries: Sequence[str] = field(repr=False)
    """Ids of the Q judged queries."""
    query_texts: Sequence[str] = field(repr=False)
    languages: Sequence[str] = field(repr=False)
    """Language of each query; "" where none is known."""
    metrics: Sequence[str]
    systems: Sequence[System]
    """The first stage, then every scorer."""
    comparisons: Sequence[Comparison]
    """Every scorer with the first stage and with the scorers before it, in the first metric."""
    snippets: Mapping[str, str] = field(repr=False)
    """Beginnings of the documents in `top`."""
    grades: Sequence[Mapping[str, int]] = field(repr=False)
    """Grades of the documents in `top`, for each query."""
    notices: Sequence[Notice]
    settings: Mapping[str, Any]
    """Depth, seed, versions, command, time."""

    @property
    def groups(self) -> Groups:
        """Places of each language's queries; empty where there is at most one language."""
        return _group(self.languages)

    @property
    def groupings(self) -> dict[str, Groups]:
        """`groups` by its title; where queries cross languages, by either side too."""
        if not self.groups:
            return {}
        if not any(">" in name for name in self.groups):
            return {"language": self.groups}
        asked = [name.partition(">")[0] for name in self.languages]
        read = [name.rpartition(">")[2] for name in self.languages]
        return {
            "query language": _group(asked),
            "document language": _group(read),
            "language pair": self.groups,
        }

    def by_language(
        self, system: System, metric: str, groups: Groups | None = None
    ) -> dict[str, float]:
        """Average of each language, or of each of other groups."""
        return {
            name: float(system.values[metric][places].mean())
            for name, places in (self.groups if groups is None else groups).items()
        }

    def macro(self, system: System, metric: str) -> float:
        """Average of the languages' averages; of all queries where languages are unknown."""
        means = list(self.by_language(system, metric).values())
        return float(np.mean(means)) if means else system.mean(metric)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {
            "collection": self.collection,
            "documents": self.documents,
            "queries": len(self.queries),
            "metrics": list(self.metrics),
            "systems": [self._system(s) for s in self.systems],
            "comparisons": [asdict(c) for c in self.comparisons],
            "notices": [asdict(n) for n in self.notices],
            "settings": dict(self.settings),
            "per_query": [
                {
                    "id": query,
                    "language": language or None,
                    **{
                        s.name: {m: float(s.values[m][n]) for m in self.metrics}
                        for s in self.systems
                    },
                }
                for n, (query, language) in enumerate(
                    zip(self.queries, self.languages, strict=True)
                )
            ],
        }

    def _system(self, system: System) -> dict[str, Any]:
        return {
            "name": system.name,
            "identity": dict(system.identity),
            "metrics": {m: system.mean(m) for m in self.metrics},
            "intervals": {m: asdict(i) for m, i in system.intervals.items()},
            "macro_average": {m: self.macro(system, m) for m in self.metrics},
            "languages": {
                title: {
                    language: {
                        "queries": len(places),
                        **{m: float(system.values[m][places].mean()) for m in self.metrics},
                    }
                    for language, places in groups.items()
                }
                for title, groups in self.groupings.items()
            },
            "pairs": system.pairs,
            "pairs_cached": system.cached,
            "pairs_truncated": system.truncated,
            "tokens_per_query": None if system.tokens is None else float(system.tokens.mean()),
            "seconds_per_query": None if system.seconds is None else _spread(system.seconds),
            "score_histogram": None if system.histogram is None else asdict(system.histogram),
        }


def _group(languages: Sequence[str]) -> Groups:
    names = sorted(set(languages) - {""})
    every = np.array(languages)
    return {n: np.flatnonzero(every == n) for n in names} if len(names) > 1 else {}


def _spread(values: Floats) -> dict[str, float]:
    p50, p95 = np.percentile(values, [50, 95])
    return {"mean": float(values.mean()), "p50": float(p50), "p95": float(p95)}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide scores, as far as they are installed."""
    installed = {package: _version(package) for package in _PACKAGES}
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **{package: number for package, number in installed.items() if number},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
