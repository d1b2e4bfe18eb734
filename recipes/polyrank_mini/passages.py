"""Cut long passages to the stretch that shares most with a query, so that training is cheap.

Most question sets pair a question with a whole paragraph or page. The network has to see some of
them whole; from most, a hundred tokens around the shared words teach the same.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from polyrank.training.lexical import words

# Ends of sentences in Latin, Chinese, Devanagari, Ethiopic, Arabic, Urdu and Khmer script; lines.
_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？।።؟۔។])\s*|\n+")
STRETCH_WORDS = 75  # in scripts without spaces a word is a bigram: about 75 characters


def rarity(texts: Iterable[str]) -> dict[str, float]:
    """Inverse document frequency of the words of a source."""
    counts: Counter[str] = Counter()
    total = 0
    for text in texts:
        counts.update(set(words(text)))
        total += 1
    return {word: math.log(1 + total / n) for word, n in counts.items()}


def sentences(text: str) -> list[str]:
    """A text's sentences and lines, none of them empty."""
    return [s.strip() for s in _SENTENCE.split(text) if s and s.strip()]


def span(text: str, rng: random.Random) -> str:
    """A few words in a row of one sentence, a quarter of them left out; empty without any."""
    found = [s for s in sentences(text) if 20 <= len(s) <= 300]
    if not found:
        return ""
    chosen = rng.choice(found)
    parts = chosen.split()
    if len(parts) < 4:  # a script without spaces
        size = min(len(chosen), rng.randint(8, 24))
        start = rng.randint(0, len(chosen) - size)
        return chosen[start : start + size]
    size = rng.randint(3, min(12, len(parts)))
    start = rng.randint(0, len(parts) - size)
    kept = parts[start : start + size]
    return " ".join([word for word in kept if rng.random() < 0.75] or kept)


def best_stretch(query: str, text: str, weights: Mapping[str, float]) -> str:
    """Whole sentences of about STRETCH_WORDS words with the most of the query's rare words."""
    parts = sentences(text)
    found = [words(s) for s in parts]
    if sum(map(len, found)) <= 1.3 * STRETCH_WORDS:
        return text
    asked = set(words(query))
    best, best_score = (0, len(parts)), -1.0
    for start in range(len(parts)):
        end, length = start, 0
        seen: set[str] = set()
        while end < len(parts) and length < STRETCH_WORDS:
            seen |= asked & set(found[end])
            length += len(found[end])
            end += 1
        score = sum(weights.get(w, 0.0) for w in seen)
        if score > best_score:
            best, best_score = (start, end), score
        if end == len(parts):
            break
    return " ".join(parts[best[0] : best[1]])
