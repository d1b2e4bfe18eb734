"""What the evaluation's files hand to each other: collections, notices, judged pairs. No file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from polyrank.values import Pair

__all__ = ["Collection", "Judge", "Judged", "Notice", "Qrels", "Run", "notice_of"]

Qrels = Mapping[str, Mapping[str, int]]
"""Query id -> document id -> grade; 0 and less: judged, and not relevant."""
Run = Mapping[str, Mapping[str, float]]
"""Query id -> document id -> score of the first stage; higher is better."""

_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """Something about the input that does not stop an evaluation, counted and shown."""

    what: str
    """What was found and what was done about it, as people read it."""
    count: int
    examples: tuple[str, ...] = ()
    """The first few ids."""

    def __str__(self) -> str:
        shown = ", ".join(self.examples)
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.count:,} {self.what}" + (f" ({shown}{more})" if shown else "")


def notice_of(what: str, ids: Iterable[str]) -> list[Notice]:
    """A list of one notice about these ids; of none where there are no ids."""
    found = list(ids)
    if not found:
        return []
    return [Notice(what=what, count=len(found), examples=tuple(found[:_EXAMPLES]))]


@dataclass(frozen=True, kw_only=True, slots=True)
class Collection:
    """Queries, documents and judgements of one test collection."""

    name: str
    queries: Mapping[str, str]
    """Query id -> text."""
    documents: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """Document id -> `id`, `text` and `title`, as a Reranker takes it."""
    qrels: Qrels = field(repr=False)
    """Only queries that have judgements are evaluated."""
    languages: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Query id -> language; `de>ja`: a German query over Japanese documents. May lack queries."""
    language: str | None = None
    """Language of the documents, where they have one."""
    candidates: Run | None = field(default=None, repr=False)
    """The run that came with the collection."""
    answers: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    """Query id -> strings one of which a relevant document holds; instead of qrels (MKQA)."""
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What a scorer says of N pairs, in input order."""

    scores: npt.NDArray[np.float32]
    """[N] higher is better; any range."""
    tokens: npt.NDArray[np.int32] | None = None
    """[N] tokens that were read; None: the scorer does not tell."""
    tokens_given: npt.NDArray[np.int32] | None = None
    """[N] tokens before truncation."""


class Judge(Protocol):
    """A scorer as the evaluation drives it."""

    name: str
    """Column heading of its results."""
    identity: Mapping[str, Any]
    """What decides its scores, for results.json: model, revision, hash, limits."""

    def judge(self, pairs: Sequence[Pair]) -> Judged:
        """Score the pairs of one query."""
        ...

    def close(self) -> None:
        """Give memory back."""
        ...
