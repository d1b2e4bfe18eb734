"""Whether two orders are the same, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from polyrank.bench.agreement import agreement_of, kendall_tau, top_overlap


@pytest.mark.parametrize(
    ("reference", "other", "tau"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        # Of 6 pairs, 5 are concordant and 1 is not.
        ([1, 2, 3, 4], [1, 2, 4, 3], 4 / 6),
        # One pair is tied in the first list, another in the second; the other 4 are concordant.
        ([1, 1, 2, 3], [1, 2, 3, 3], 4 / 5),
        # The same pair is tied in both.
        ([1, 1, 2], [5, 5, 9], 1.0),
        # Concordant 1, discordant 1, tied in the second 1: 0 / sqrt(3 * 2).
        ([1, 2, 3], [2, 1, 2], 0.0),
        # Concordant 2, tied in the second 1: 2 / sqrt(3 * 2).
        ([1, 2, 3], [1, 2, 2], 2 / 6**0.5),
    ],
)
def test_tau_is_kendall_s_tau_b(reference: list[float], other: list[float], tau: float) -> None:
    assert kendall_tau(reference, other) == pytest.approx(tau, abs=1e-12)
    assert kendall_tau(other, reference) == pytest.approx(tau, abs=1e-12)
    assert kendall_tau(reference, [-x for x in other]) == pytest.approx(-tau, abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b"), [([1, 1, 1], [1, 2, 3]), ([1, 2], [3, 3]), ([1], [2]), ([], [])]
)
def test_what_has_no_order_has_no_tau(a: list[float], b: list[float]) -> None:
    assert kendall_tau(a, b) is None


def test_the_top_overlaps_by_what_is_in_it_not_by_its_order() -> None:
    reference = [9.0, 8.0, 7.0, 1.0, 0.0]
    assert top_overlap(reference, [7, 8, 9, 1, 0], 3) == 1.0
    assert top_overlap(reference, [9, 0, 7, 8, 1], 3) == pytest.approx(2 / 3)
    assert top_overlap(reference, [0, 0, 0, 9, 9], 2) == 0.0
    assert top_overlap([1, 1, 1], [2, 2, 2], 2) == 1.0  # ties keep the order of the input


def test_orders_are_compared_within_a_query() -> None:
    # Across the two queries everything is turned around; within them, one pair of the second is.
    reference = np.array([1, 2, 3, 11, 12, 13])
    other = np.array([101, 102, 103, 1, 3, 2])
    found = agreement_of(reference, other, [[0, 1, 2], [3, 4, 5]])
    assert found.tau == pytest.approx((1 + 1 / 3) / 2)
    assert found.largest_difference == 100
    assert found.top_10_overlap is None


def test_queries_without_an_order_do_not_count() -> None:
    reference, other = [1.0, 5.0, 6.0], [2.0, 8.0, 7.0]
    assert agreement_of(reference, other, [[0], [1, 2]]).tau == -1.0
    assert agreement_of(reference, other, [[0], [1], [2]]).tau is None


def test_the_top_10_counts_where_there_are_more_than_10() -> None:
    reference = np.arange(12.0)
    other = reference.copy()
    other[[0, 11]] = other[[11, 0]]  # the best and the worst change places
    both = np.concatenate([reference, reference]), np.concatenate([other, reference])
    queries = [list(range(12)), list(range(12, 22))]
    assert agreement_of(*both, queries).top_10_overlap == pytest.approx(0.9)
