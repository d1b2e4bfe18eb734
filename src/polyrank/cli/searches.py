"""What `polyrank mine` searches and judges with, by the names of its options."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from polyrank.cli.runs import count_bar

if TYPE_CHECKING:
    from polyrank.training.mining import Judge, Search
    from polyrank.training.vectors import BiEncoder

__all__ = ["Models", "check_search", "content_hash"]


def check_search(name: str) -> None:
    """Raise BadParameter for a search of no known kind."""
    if name != "bm25" and not (name.startswith("e5:") and name[3:]):
        raise typer.BadParameter(f"expected --search bm25 or e5:FOLDER, got {name!r}")


def content_hash(texts: Iterable[str]) -> str:
    """A short hash of texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


class Models:
    """The models that a run names, each loaded once."""

    def __init__(self, device: str, offline: bool, threads: int | None, stack: ExitStack) -> None:
        self._device, self._offline = device, offline or None
        self._threads, self._stack = threads, stack
        self._encoders: dict[str, BiEncoder] = {}

    def searches(self, names: Sequence[str], texts: Sequence[str], *, beside: Path) -> list[Search]:
        """Indices over all texts; vectors are kept in a file beside `beside`."""
        return [self._bm25(texts) if n == "bm25" else self._e5(n, texts, beside) for n in names]

    def judge(self, name: str) -> Judge:
        """What scores pairs of a query and a text."""
        if name.startswith("e5:"):
            return self.encoder(name).judge
        from polyrank.reranker import Reranker

        reranker = Reranker(name, device=self._device, offline=self._offline, threads=self._threads)
        self._stack.callback(reranker.close)
        return lambda pairs: reranker.logits(pairs, show_progress=False)

    def identity(self, name: str) -> str:
        """What decides a search's or judge's answers: its kind, and a hash of its weights."""
        if name == "bm25":
            return name
        from polyrank.models import fingerprint

        kind = "e5" if name.startswith("e5:") else "reranker"
        return f"{kind}:{fingerprint(self._folder(name.removeprefix('e5:')))}"

    def encoder(self, name: str) -> BiEncoder:
        """The bi-encoder of `e5:FOLDER`."""
        from polyrank.torch_backend.runner import limit_threads
        from polyrank.training.vectors import BiEncoder

        if name not in self._encoders:
            folder = self._folder(name.removeprefix("e5:"))
            limit_threads(self._threads)
            self._encoders[name] = BiEncoder(folder, device=self._device)
        return self._encoders[name]

    def _folder(self, name: str) -> Path:
        from polyrank.models import find_model

        return find_model(name, offline=self._offline).path

    def _bm25(self, texts: Sequence[str]) -> Search:
        from polyrank.training.lexical import LexicalIndex

        return LexicalIndex(texts)

    def _e5(self, name: str, texts: Sequence[str], beside: Path) -> Search:
        from polyrank.training.vectors import VectorIndex, cached_vectors

        encoder = self.encoder(name)
        key = content_hash([self.identity(name), *texts])
        path = beside.with_name(f"{beside.name}.{key}.vectors")
        with count_bar("vectors") as advance:
            vectors = cached_vectors(path, texts, encoder.passages, encoder.width, progress=advance)
        return VectorIndex(vectors, encoder.queries)
