"""A CrossEncoder of sentence-transformers as a judge. Raw logits, to be ranked by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from polyrank.errors import MissingDependencyError, ModelNotFoundError
from polyrank.evaluation.values import Judged
from polyrank.tokenization import document_text
from polyrank.values import Pair

__all__ = ["SentenceTransformersJudge"]


class SentenceTransformersJudge:
    """`CrossEncoder(NAME)`, without the sigmoid that would make ties of high scores."""

    def __init__(
        self,
        name: str,
        *,
        revision: str | None = None,
        device: str = "auto",
        max_length: int | None = None,
        offline: bool = False,
    ) -> None:
        try:
            import sentence_transformers
        except ImportError as error:
            raise MissingDependencyError(
                "expected sentence-transformers for this scorer; install it with: pip install "
                "sentence-transformers"
            ) from error
        try:
            self._model = sentence_transformers.CrossEncoder(
                name,
                revision=revision,
                device=None if device == "auto" else device,
                max_length=max_length,
                local_files_only=offline,
            )
        except OSError as error:  # what every missing model is there
            raise ModelNotFoundError(
                f"expected a CrossEncoder at {name!r}: {error}; check the name or the folder"
            ) from error
        self.name = f"sentence-transformers:{name.rstrip('/').rsplit('/', 1)[-1]}"
        config = getattr(self._model, "config", None)
        self.identity: Mapping[str, Any] = {
            "kind": "sentence-transformers", "model": name, "revision": revision,
            "commit": getattr(config, "_commit_hash", None), "max_length": self._limit(),
            "version": sentence_transformers.__version__,
        }  # fmt: skip

    def judge(self, pairs: Sequence[Pair]) -> Judged:
        """Logits of pairs, and the tokens of each by the model's own tokenizer."""
        texts = [(q, document_text(d, f"pairs[{i}]")) for i, (q, d) in enumerate(pairs)]
        scores = self._model.predict(
            texts, activation_fn=lambda logits: logits, show_progress_bar=False
        )
        encoded = self._model.tokenizer([q for q, _ in texts], [t for _, t in texts])
        given = np.array([len(ids) for ids in encoded["input_ids"]], np.int32)
        limit = self._limit()
        return Judged(
            scores=np.asarray(scores, np.float32).reshape(-1),
            tokens=given if limit is None else np.minimum(given, limit),
            tokens_given=given,
        )

    def close(self) -> None:
        """Drop the model."""
        del self._model

    def _limit(self) -> int | None:
        # `max_length` until version 5, with a warning from then on.
        renamed = hasattr(type(self._model), "max_seq_length")
        limit = self._model.max_seq_length if renamed else self._model.max_length
        return int(limit) if limit and limit < 1e9 else None
