"""A scorer's name on the command line, or a Python object -> a Judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polyrank.errors import BackendError, InputError
from polyrank.evaluation.bm25 import BM25
from polyrank.evaluation.values import Collection, Judge, Judged
from polyrank.reranker import Reranker
from polyrank.tokenization import OnOverflow
from polyrank.values import Pair, Scorer

__all__ = ["ScorerSpec", "open_judge"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerSpec:
    """A scorer by name, and the options that its kind knows; it is loaded when its turn comes."""

    text: str
    """`model:NAME`, `bm25`, `sentence-transformers:NAME`, `onnx:FOLDER`, or a URL."""
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    backend: str = "auto"
    max_length: int | None = None
    """Limit of a pair in tokens; None: the model's own."""
    on_overflow: OnOverflow = "truncate"
    """What is done with pairs over it."""
    offline: bool | None = None
    threads: int | None = None
    language: str | None = None
    """Of BM25's stemming; None: the collection's."""
    api_key: str | None = None
    """Sent to a URL as a bearer token; in no result."""


def open_judge(scorer: ScorerSpec | Reranker | Scorer, collection: Collection) -> Judge:
    """Load a scorer. Raises InputError for a name of no known kind, and what loading raises."""
    if isinstance(scorer, Reranker):
        from polyrank.evaluation.scorers.polyrank_model import RerankerJudge

        return RerankerJudge(scorer)
    if not isinstance(scorer, ScorerSpec):
        return _ObjectJudge(scorer)
    if scorer.text.startswith(("http://", "https://")):
        from polyrank.evaluation.scorers.http import HttpJudge

        return HttpJudge(scorer.text, api_key=scorer.api_key)
    kind, _, name = scorer.text.partition(":")
    if kind not in _KINDS or bool(name) == (kind == "bm25"):
        raise InputError(
            "expected a scorer bm25, model:NAME, sentence-transformers:NAME, onnx:FOLDER or a URL, "
            f"got {scorer.text!r}"
        )
    return _KINDS[kind](name, scorer, collection)


class _ObjectJudge:
    """A Python object with `score(pairs)`; `name` and `identity` where it has them."""

    def __init__(self, scorer: Scorer) -> None:
        if not callable(getattr(scorer, "score", None)):
            raise InputError(
                f"expected a scorer: an object with score(pairs), a Reranker or a ScorerSpec, got "
                f"{type(scorer).__name__}"
            )
        self._scorer = scorer
        self.name = str(getattr(scorer, "name", type(scorer).__name__))
        own = getattr(scorer, "identity", None)
        # Without an identity nothing says when scores are stale, so none are kept on disk.
        self.identity: Mapping[str, Any] = {
            "kind": "object", "class": type(scorer).__qualname__,
            **(own if isinstance(own, Mapping) else {"cached": False}),
        }  # fmt: skip

    def judge(self, pairs: Sequence[Pair]) -> Judged:
        scores = self._scorer.score(pairs)
        try:
            return Judged(scores=np.asarray(scores, np.float32))
        except (TypeError, ValueError) as error:
            raise BackendError(
                f"expected numbers from {self.name}.score, got {type(scores).__name__}: {error}"
            ) from error

    def close(self) -> None:
        pass  # the caller opened it


def _model(name: str, spec: ScorerSpec, collection: Collection) -> Judge:
    from polyrank.evaluation.scorers.polyrank_model import open_model

    return open_model(
        name, revision=spec.revision, backend=spec.backend, device=spec.device, dtype=spec.dtype,
        max_length=spec.max_length, on_overflow=spec.on_overflow, offline=spec.offline,
        threads=spec.threads,
    )  # fmt: skip


def _bm25(name: str, spec: ScorerSpec, collection: Collection) -> Judge:
    return BM25(collection, language=spec.language)


def _onnx(name: str, spec: ScorerSpec, collection: Collection) -> Judge:
    from polyrank.evaluation.scorers.onnx_folder import OnnxJudge

    return OnnxJudge(name, max_length=spec.max_length, threads=spec.threads)


def _sentence_transformers(name: str, spec: ScorerSpec, collection: Collection) -> Judge:
    from polyrank.evaluation.scorers.sentence_transformers import SentenceTransformersJudge

    return SentenceTransformersJudge(
        name, revision=spec.revision, device=spec.device, max_length=spec.max_length,
        offline=bool(spec.offline),
    )  # fmt: skip


_KINDS: dict[str, Callable[[str, ScorerSpec, Collection], Judge]] = {
    "model": _model,
    "bm25": _bm25,
    "onnx": _onnx,
    "sentence-transformers": _sentence_transformers,
}
