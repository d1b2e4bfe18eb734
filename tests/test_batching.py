from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from polyrank.batching import groups_of_like_length, plan_batches

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


@given(lengths_of_pairs, st.integers(1, 2000))
def test_batches_hold_every_pair_once_longest_first_and_keep_to_the_budget(
    lengths: list[int], budget: int
) -> None:
    batches = plan_batches(lengths, budget)
    order = [i for batch in batches for i in batch]
    assert order == sorted(range(len(lengths)), key=lambda i: -lengths[i])
    tokens = [sum(lengths[i] for i in batch) for batch in batches]
    assert all(t <= budget or len(b) == 1 for t, b in zip(tokens, batches, strict=True))
    for before, (after, *_) in zip(tokens, batches[1:], strict=False):
        assert before + lengths[after] > budget
