from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from polyrank.evaluation.comparison import bootstrap, compare, randomisation_test


def test_the_p_value_is_that_of_all_sign_patterns() -> None:
    difference = np.array([0.3, 0.1, -0.05, 0.2, 0.15, 0.05, 0.12, -0.02])
    means = [abs(np.mean(difference * s)) for s in product((-1, 1), repeat=8)]
    exact = np.mean(np.array(means) >= abs(difference.mean()) - 1e-12)
    assert randomisation_test(difference, rounds=40_000) == pytest.approx(exact, abs=0.01)


def test_equal_systems_do_not_differ() -> None:
    values = np.array([0.1, 0.5, 1.0])
    c = compare(values, values, before="a", after="b", metric="map", seed=0)
    assert (c.p_value, c.difference, c.ties) == (1.0, 0.0, 3)


def test_no_p_value_is_zero() -> None:
    assert randomisation_test(np.ones(200), rounds=999) == 1 / 1000


def test_the_interval_holds_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(0.5, 0.2, 400)
    interval = bootstrap(values)
    half = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.003)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.003)


def test_the_same_seed_gives_the_same_numbers() -> None:
    a, b = np.random.default_rng(2).random((2, 50))
    first = compare(a, b, before="a", after="b", metric="map", seed=3)
    assert first == compare(a, b, before="a", after="b", metric="map", seed=3)
    assert first.interval != compare(a, b, before="a", after="b", metric="map", seed=4).interval


def test_wins_and_losses_are_counted_by_query() -> None:
    before, after = np.array([0.0, 0.5, 0.5, 1.0]), np.array([1.0, 0.5, 0.6, 0.0])
    c = compare(before, after, before="a", after="b", metric="map", seed=0)
    assert (c.wins, c.ties, c.losses) == (2, 1, 1)
