"""A network in training as a scorer of text pairs, to be measured between two steps.

It reads pairs as `polyrank.reranker` does, cut to the same limit and in the same windows, in fp32:
what an evaluation says of it is what it says of the exported model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from polyrank.batching import plan_batches
from polyrank.tokenization import PairTokenizer, Truncation, document_text
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.training.objective import forward_inputs
from polyrank.values import Pair, pack, parts_of

__all__ = ["ModelScorer"]


class ModelScorer:
    """A `polyrank.values.Scorer` around a network that stays the caller's."""

    name = "model"

    def __init__(
        self, model: CrossEncoder, tokenizer: PairTokenizer, *, max_batch_tokens: int = 4096
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        limit = tokenizer.limit_of(None, model.config.max_positions)
        self._truncation = Truncation(max_length=limit, window=tokenizer.window_of(None, limit))
        self._budget = max_batch_tokens

    @torch.inference_mode()
    def score(self, pairs: Sequence[Pair]) -> npt.NDArray[np.float32]:
        """[N] logits of (query, document) pairs in input order.

        Raises InputError for a document that is no text.
        """
        texts = [(query, document_text(d, f"pairs[{i}]")) for i, (query, d) in enumerate(pairs)]
        parts, starts = parts_of(self._tokenizer.encode_pairs(texts, self._truncation))
        device = next(self._model.parameters()).device
        logits = np.zeros(len(parts), np.float32)
        training = self._model.training
        self._model.eval()
        try:
            for chosen in plan_batches([len(e) for e in parts], self._budget):
                inputs = forward_inputs(pack([parts[i] for i in chosen]), device)
                logits[chosen] = self._model(*inputs).cpu().numpy()
        finally:
            self._model.train(training)
        return np.maximum.reduceat(logits, starts)
