"""BM25 for mining: the words of any script, and the best texts for a query.

The only door to `bm25s`. Scripts written without spaces are indexed by character bigrams, which
needs no dictionary (Manning et al., Introduction to Information Retrieval, section 2.2).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from polyrank.errors import MissingDependencyError

__all__ = ["LexicalIndex", "words"]

# Thai, Lao, Myanmar, Khmer, Tibetan, kana, Han (with extensions): no spaces between words.
_UNSEGMENTED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_UNSEGMENTED_RUN = re.compile(f"[{_UNSEGMENTED}]")


@cache
def _runs() -> re.Pattern[str]:
    """Runs of unsegmented script, and words: a letter or digit, then those and their marks."""
    # Vowel signs of Indic scripts are marks, which \w leaves out.
    marks = "".join(chr(c) for c in range(0x10000) if unicodedata.category(chr(c))[0] == "M")
    marks = re.sub(f"[{_UNSEGMENTED}]", "", marks)
    letter = rf"[^\W_{_UNSEGMENTED}]"
    return re.compile(rf"[{_UNSEGMENTED}]+|{letter}(?:{letter}|[_{marks}])*")


def words(text: str) -> list[str]:
    """Lower-cased words; in scripts without spaces, character bigrams instead.

    >>> words("The life of 東京都")
    ['the', 'life', 'of', '東京', '京都']
    """
    found: list[str] = []
    for run in _runs().findall(unicodedata.normalize("NFKC", text).lower()):
        if _UNSEGMENTED_RUN.match(run):
            found.extend(_bigrams(run))
        else:
            found.append(run)
    return found


def _bigrams(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)] or [run]


class LexicalIndex:
    """BM25 (k1 1.5, b .75) over texts held in memory.

    Raises MissingDependencyError without bm25s.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise MissingDependencyError(
                "expected the package bm25s for BM25 mining; pip install 'polyrank[train]'"
            ) from error
        self._size = len(texts)
        self._index = bm25s.BM25()
        # A text without a word would make an empty row; its id is never retrieved with a score.
        self._index.index([words(t) or ["\x00"] for t in texts], show_progress=False)

    def search(
        self, queries: Sequence[str], k: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """[N, k] best texts by index, best first, and their scores; 0 where no word is shared."""
        k = min(k, self._size)
        if not queries:
            return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
        found, scores = self._index.retrieve(
            [words(q) or ["\x00"] for q in queries], k=k, show_progress=False
        )
        return np.asarray(found, np.int64), np.asarray(scores, np.float32)
