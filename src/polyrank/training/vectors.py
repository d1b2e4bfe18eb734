"""A bi-encoder for mining: texts -> unit vectors, and the nearest texts for a query.

Mean of the last layer's states over a text's tokens, special tokens included, scaled to length 1
(E5, arXiv 2402.05672, section 2); `query: ` and `passage: ` go before the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from polyrank.batching import plan_batches
from polyrank.checkpoint import load_checkpoint
from polyrank.tokenization import PairTokenizer
from polyrank.torch_backend.attention import Layout
from polyrank.torch_backend.encoder import CrossEncoder
from polyrank.torch_backend.runner import choose_device

__all__ = ["BiEncoder", "VectorIndex", "cached_vectors"]

Vectors = npt.NDArray[np.float32]


class BiEncoder:
    """An encoder's folder, with or without a head, as an embedder.

    Raises CheckpointError for a folder that cannot be read, BackendError for a device that is not
    here.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "auto",
        max_length: int = 256,
        max_batch_tokens: int = 8192,
        query_prefix: str = "query: ",
        passage_prefix: str = "passage: ",
    ) -> None:
        checkpoint = load_checkpoint(folder, require_head=False)
        self._device = choose_device(device)
        self._model = CrossEncoder.from_checkpoint(checkpoint, device=self._device).eval()
        self._tokenizer = PairTokenizer.from_folder(folder)
        self._max_length = min(max_length, checkpoint.config.max_positions)
        self._budget = max_batch_tokens
        self._prefixes = (query_prefix, passage_prefix)
        self.width = checkpoint.config.hidden_size

    def queries(self, texts: Sequence[str]) -> Vectors:
        """[N, D] unit vectors of queries."""
        return self._embed([self._prefixes[0] + t for t in texts])

    def passages(self, texts: Sequence[str]) -> Vectors:
        """[N, D] unit vectors of passages."""
        return self._embed([self._prefixes[1] + t for t in texts])

    def judge(self, pairs: Sequence[tuple[str, str]]) -> Vectors:
        """[N] cosines of (query, passage) pairs."""
        queries = list(dict.fromkeys(q for q, _ in pairs))
        passages = list(dict.fromkeys(p for _, p in pairs))
        q = dict(zip(queries, self.queries(queries), strict=True))
        p = dict(zip(passages, self.passages(passages), strict=True))
        return np.array([q[a] @ p[b] for a, b in pairs], np.float32)

    def _embed(self, texts: Sequence[str]) -> Vectors:
        t = self._tokenizer.template
        inside = self._max_length - len(t.prefix) - len(t.suffix)
        ids = [
            np.concatenate([t.prefix, i[:inside], t.suffix]).astype(np.int64)
            for i in self._tokenizer.tokenize(texts)
        ]
        vectors = np.zeros((len(texts), self.width), np.float32)
        for chosen in plan_batches([len(i) for i in ids], self._budget):
            vectors[chosen] = self._forward([ids[i] for i in chosen])
        return vectors

    @torch.inference_mode()
    def _forward(self, ids: list[npt.NDArray[np.int64]]) -> Vectors:
        lengths = np.array([len(i) for i in ids])
        cu_lengths = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        at = Layout.of(cu_lengths, self._device, torch.float32)
        ids_T = torch.from_numpy(np.concatenate(ids)).to(self._device)
        x_TD = self._model.hidden_states(ids_T, torch.zeros_like(ids_T), at)[-1]
        owner_T = torch.repeat_interleave(torch.from_numpy(lengths)).to(self._device)
        sums_SD = x_TD.new_zeros(len(ids), self.width).index_add_(0, owner_T, x_TD)
        # A mean and a sum point the same way.
        unit: Vectors = torch.nn.functional.normalize(sums_SD, dim=-1).cpu().numpy()
        return unit


def cached_vectors(
    path: str | Path,
    texts: Sequence[str],
    embed: Callable[[Sequence[str]], Vectors],
    width: int,
    *,
    chunk: int = 512,
    progress: Callable[[int, int], None] | None = None,
) -> Vectors:
    """[N, width] vectors of all texts, kept on disk as raw fp32 rows.

    A run that was stopped goes on after the last whole row. The file knows rows, not texts: give
    the same texts in the same order.
    """
    path = Path(path)
    done = path.stat().st_size // (4 * width) if path.exists() else 0
    if path.exists():
        with path.open("rb+") as file:
            file.truncate(done * 4 * width)
    with path.open("ab") as file:
        for start in range(done, len(texts), chunk):
            file.write(embed(texts[start : start + chunk]).astype("<f4").tobytes())
            file.flush()
            if progress is not None:
                progress(min(start + chunk, len(texts)), len(texts))
    return np.memmap(path, "<f4", mode="r", shape=(len(texts), width))


class VectorIndex:
    """Exact nearest neighbours by cosine, in blocks of queries."""

    def __init__(self, vectors: Vectors, embed_queries: Callable[[Sequence[str]], Vectors]) -> None:
        self._vectors = vectors
        self._embed = embed_queries

    def search(
        self, queries: Sequence[str], k: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """[N, k] nearest texts by index, nearest first, and their cosines."""
        k = min(k, len(self._vectors))
        cosines = self._embed(queries) @ self._vectors.T
        found = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
        return found.astype(np.int64), np.take_along_axis(cosines, found, 1).astype(np.float32)
