"""What is scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polyrank.bench import synthesise, workload_of
from polyrank.errors import InputError
from polyrank.tokenization import PairTokenizer, Truncation


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PairTokenizer:
    return PairTokenizer.from_folder(tiny_model)


def lengths(tokenizer: PairTokenizer, pairs: tuple[tuple[str, str], ...]) -> list[int]:
    return [len(e) for e in tokenizer.encode_pairs(pairs, Truncation(max_length=8192))]


def test_made_up_pairs_are_of_the_promised_lengths(tokenizer: PairTokenizer) -> None:
    made = synthesise(tokenizer, count=64, max_length=8192)
    assert made.synthetic
    assert len(made.pairs) == 64
    assert [len(q) for q in made.queries] == [8] * 8
    found = lengths(tokenizer, made.pairs)
    assert min(found) >= 24
    assert max(found) <= 512
    assert 110 < np.median(found) < 180


def test_made_up_pairs_are_the_same_each_time(tokenizer: PairTokenizer) -> None:
    twice = [synthesise(tokenizer, count=5, max_length=8192) for _ in range(2)]
    assert twice[0] == twice[1]
    assert len(twice[0].queries) == 1


def test_made_up_pairs_fit_a_short_limit_and_hold_no_special_token(
    tokenizer: PairTokenizer,
) -> None:
    made = synthesise(tokenizer, count=32, max_length=40)
    assert max(lengths(tokenizer, made.pairs)) <= 40
    marks = [*tokenizer.template.prefix, *tokenizer.template.suffix]
    for ids in tokenizer.tokenize([text for _, text in made.pairs]):
        assert not np.isin(ids, marks).any()


def test_equal_pairs_count_once() -> None:
    taken = workload_of([("q", "a"), ("q", "b"), ("q", "a"), ("p", "a")])
    assert taken.pairs == (("q", "a"), ("q", "b"), ("p", "a"))
    assert taken.queries == [[0, 1], [2]]
    assert not taken.synthetic
    with pytest.raises(InputError, match="at least one pair"):
        workload_of([])


def test_one_query_is_the_one_with_the_most_documents() -> None:
    taken = workload_of([("p", "z"), *(("q", f"d{i}") for i in range(9))])
    assert taken.one_query == [("q", f"d{i}") for i in range(8)]


def test_one_query_borrows_documents_where_it_has_few() -> None:
    taken = workload_of([("p", "z"), ("q", "a"), ("q", "b"), ("r", "a")])
    assert taken.one_query == [("q", "a"), ("q", "b"), ("q", "z")]
