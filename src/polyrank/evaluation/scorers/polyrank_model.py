"""polyrank's own models as judges: fp32 logits, tokens, and what was cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from polyrank.evaluation.values import Judged
from polyrank.kernels import kernels_level
from polyrank.models import find_model, fingerprint
from polyrank.reranker import Reranker
from polyrank.tokenization import OnOverflow
from polyrank.values import Pair

__all__ = ["RerankerJudge", "open_model"]


class RerankerJudge:
    """A running Reranker. Its scores are kept on disk only if `fingerprint` names its weights."""

    def __init__(self, reranker: Reranker, *, fingerprint: str | None = None) -> None:
        self._reranker = reranker
        self.name = reranker.name
        known = fingerprint or reranker.revision
        engine = {}
        # Another version of it, or other kernels, may round elsewhere.
        if reranker.backend_name.startswith("onnx"):
            engine = {"onnxruntime": version("onnxruntime"), "kernels": kernels_level()}
        elif reranker.backend_name == "torch cpu bf16":
            engine = {"torch": version("torch"), "kernels": kernels_level()}
        self.identity: Mapping[str, Any] = {
            "kind": "polyrank", "model": reranker.name, "revision": reranker.revision,
            "fingerprint": fingerprint, "backend": reranker.backend_name,
            "max_length": reranker.max_length, **({} if known else {"cached": False}),
            **engine,
            **({} if reranker.window == reranker.max_length else {"window": reranker.window}),
            **({} if reranker.on_overflow == "truncate" else {"on_overflow": reranker.on_overflow}),
        }  # fmt: skip

    def judge(self, pairs: Sequence[Pair]) -> Judged:
        """Logits of pairs."""
        encodings = self._reranker.encode(pairs)
        future = self._reranker.submit(encodings)
        try:
            logits = future.result()
        finally:
            future.cancel()  # without effect unless we were interrupted
        return Judged(
            scores=logits,
            tokens=np.array([len(e) for e in encodings], np.int32),
            tokens_given=np.array([e.tokens_given for e in encodings], np.int32),
        )

    def close(self) -> None:
        """Nothing: the caller opened the Reranker."""


class _OwnJudge(RerankerJudge):
    def close(self) -> None:
        self._reranker.close()


def open_model(
    name: str | None,
    *,
    revision: str | None,
    backend: str,
    device: str,
    dtype: str,
    max_length: int | None,
    on_overflow: OnOverflow,
    offline: bool | None,
    threads: int | None,
) -> RerankerJudge:
    """Load a model by folder, hub id or short name; its files' hash becomes its identity."""
    found = find_model(name, revision=revision, offline=offline)
    reranker = Reranker(
        name,
        revision=found.revision if revision else None,
        backend=backend,
        device=device,
        dtype=dtype,
        max_length=max_length,
        on_overflow=on_overflow,
        offline=offline,
        threads=threads,
    )
    return _OwnJudge(reranker, fingerprint=fingerprint(found.path))
