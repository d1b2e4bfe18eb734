"""What is scored: pairs of the user's own, or made up of random tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from polyrank.errors import InputError
from polyrank.tokenization import PairTokenizer

__all__ = ["Workload", "synthesise", "workload_of"]

_QUERY_TOKENS = 8
_DOCUMENTS = 8  # of a query
_MEDIAN, _SIGMA = 140, 0.6  # of a pair's length in tokens, lognormal
_SHORTEST, _LONGEST = 24, 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """Distinct pairs of texts."""

    pairs: tuple[tuple[str, str], ...]
    synthetic: bool
    """Whether the text is made of random tokens, which says nothing of quality."""

    @property
    def queries(self) -> list[list[int]]:
        """Places of each query's documents."""
        places: dict[str, list[int]] = {}
        for i, (query, _) in enumerate(self.pairs):
            places.setdefault(query, []).append(i)
        return list(places.values())

    @property
    def one_query(self) -> list[tuple[str, str]]:
        """The query with the most documents, with 8 of them, or others' where it has fewer."""
        query = Counter(q for q, _ in self.pairs).most_common(1)[0][0]
        own_first = sorted(self.pairs, key=lambda pair: pair[0] != query)
        texts = list(dict.fromkeys(text for _, text in own_first))
        return [(query, text) for text in texts[:_DOCUMENTS]]


def workload_of(pairs: Iterable[tuple[str, str]]) -> Workload:
    """Take the user's pairs; equal ones count once, as they would run once."""
    distinct = tuple(dict.fromkeys(pairs))
    if not distinct:
        raise InputError("expected at least one pair to measure with, got none")
    return Workload(pairs=distinct, synthetic=False)


def synthesise(tokenizer: PairTokenizer, *, count: int, max_length: int, seed: int = 0) -> Workload:
    """Make up pairs of random tokens, 8 documents a query, the same ones each time.

    Lengths are lognormal, from 24 to 512 tokens or `max_length`, 140 in the middle. They are met
    about: text made of tokens may be read as others.
    """
    draw = np.random.default_rng(seed)
    special = len(tokenizer.template)
    lengths = np.exp(draw.normal(np.log(_MEDIAN), _SIGMA, count))
    lengths = np.clip(lengths, _SHORTEST, min(_LONGEST, max_length)).astype(int)
    text_lengths = [max(1, int(n) - _QUERY_TOKENS - special) for n in lengths]
    queries = _texts(tokenizer, [_QUERY_TOKENS] * -(-count // _DOCUMENTS), draw)
    texts = _texts(tokenizer, text_lengths, draw)
    pairs = {(queries[i // _DOCUMENTS], text): None for i, text in enumerate(texts)}
    return Workload(pairs=tuple(pairs), synthetic=True)


def _texts(tokenizer: PairTokenizer, lengths: list[int], draw: np.random.Generator) -> list[str]:
    """Texts of about these lengths in tokens."""
    t = tokenizer.template
    marks = [*t.prefix, *t.middle, *t.suffix]
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size, dtype=np.int32), marks)
    texts = [tokenizer.decode(draw.choice(ordinary, n)) for n in lengths]
    # Pieces of words joined anew are often more tokens than they were.
    again = tokenizer.tokenize(texts)
    return [tokenizer.decode(ids[:n]) for ids, n in zip(again, lengths, strict=True)]
