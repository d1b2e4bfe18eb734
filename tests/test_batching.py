from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from polyrank.batching import groups_of_like_length

lengths_of_pairs = st.lists(st.integers(1, 600), max_size=60)


@given(lengths_of_pairs, st.floats(0, 0.9))
def test_every_pair_is_in_one_group_and_no_group_wastes_more_than_allowed(
    lengths: list[int], max_waste: float
) -> None:
    groups = groups_of_like_length(lengths, max_waste)
    assert sorted(i for g in groups for i in g) == list(range(len(lengths)))
    for group in groups:
        padded = len(group) * max(lengths[i] for i in group)
        assert padded - sum(lengths[i] for i in group) <= max_waste * padded + 1e-9


@given(lengths_of_pairs)
def test_without_waste_a_group_has_one_length_and_each_length_one_group(lengths: list[int]) -> None:
    groups = groups_of_like_length(lengths, 0.0)
    assert all(len({lengths[i] for i in group}) == 1 for group in groups)
    assert len(groups) == len(set(lengths))
