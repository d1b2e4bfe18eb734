"""Which pairs go into a batch: all, none twice, none starved, small requests first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyrank.engine.scheduler import Scheduler
from polyrank.errors import QueueFullError

requests_of_lengths = st.lists(st.lists(st.integers(1, 50), max_size=20), max_size=8)


@given(requests_of_lengths, st.integers(1, 120))
def test_every_pair_runs_once_and_batches_keep_to_the_budget(
    requests: list[list[int]], budget: int
) -> None:
    scheduler = Scheduler(max_batch_tokens=budget)
    for number, lengths in enumerate(requests):
        scheduler.admit(number, lengths)
    done = []
    while batch := scheduler.next_batch():
        assert len(batch) == 1 or sum(requests[r][i] for r, i in batch) <= max(
            budget, requests[batch[0][0]][batch[0][1]]
        )
        done += batch
    assert sorted(done) == [
        (r, i) for r, lengths in enumerate(requests) for i in range(len(lengths))
    ]
    assert (scheduler.queued_pairs, scheduler.queued_tokens) == (0, 0)


@given(requests_of_lengths, st.integers(1, 120), st.data())
def test_cancelled_pairs_leave_the_queue_and_no_others(
    requests: list[list[int]], budget: int, data: st.DataObject
) -> None:
    scheduler = Scheduler(max_batch_tokens=budget)
    for number, lengths in enumerate(requests):
        scheduler.admit(number, lengths)
    done = scheduler.next_batch()
    gone = data.draw(st.sets(st.integers(0, 9)))
    for number in gone:
        scheduler.cancel(number)
    while batch := scheduler.next_batch():
        assert not {r for r, _ in batch} & gone
        done += batch
    kept = [(r, i) for r, n in enumerate(requests) if r not in gone for i in range(len(n))]
    assert sorted(d for d in done if d[0] not in gone) == kept
    assert (scheduler.queued_pairs, scheduler.queued_tokens) == (0, 0)


def test_a_small_request_does_not_wait_for_a_large_one() -> None:
    scheduler = Scheduler(max_batch_tokens=100)
    scheduler.admit(0, [10] * 10_000)
    scheduler.next_batch()
    scheduler.admit(1, [10] * 5)
    two = [*scheduler.next_batch(), *scheduler.next_batch()]
    assert {(1, i) for i in range(5)} <= set(two)


def test_small_requests_overtake_and_the_oldest_has_every_other_batch() -> None:
    scheduler = Scheduler(max_batch_tokens=100)
    for request, size in enumerate([1000, 30, 400, 200]):
        scheduler.admit(request, [10] * (size // 10))
    ends = _ends(scheduler)
    assert sorted(ends, key=ends.__getitem__) == [1, 3, 2, 0]
    assert ends[1] == 1
    assert ends[3] <= 5  # of batches 1, 3 and 5 it has what the smaller one left


def test_a_large_request_ends_though_small_ones_keep_coming() -> None:
    scheduler = Scheduler(max_batch_tokens=100)
    scheduler.admit(0, [10] * 100)
    for batch in range(1, 50):
        scheduler.admit(batch, [10] * 10)  # as much as a batch holds
        if (0, 99) in scheduler.next_batch():
            break
    assert batch in (19, 20)  # every other one was its own


def test_long_pairs_do_not_starve_behind_as_long_ones() -> None:
    scheduler = Scheduler(max_batch_tokens=100)
    scheduler.admit(0, [90] * 3)
    done = []
    for batch in range(1, 9):
        scheduler.admit(batch, [80])
        done += [request for request, _ in scheduler.next_batch()]
    assert done.count(0) == 3


def _ends(scheduler: Scheduler) -> dict[int, int]:
    """request -> the number of the batch that ended it"""
    ends = {}
    number = 0
    while taken := scheduler.next_batch():
        number += 1
        ends |= {request: number for request, _ in taken}
    return ends


def test_a_long_pair_is_not_starved_by_a_stream_of_short_ones() -> None:
    scheduler = Scheduler(max_batch_tokens=100)
    scheduler.admit(0, [10] * 1000)
    scheduler.admit(1, [500])
    taken = [scheduler.next_batch() for _ in range(3)]
    assert (1, 0) in [job for batch in taken for job in batch]


def test_a_request_over_the_queue_limit_is_refused_whole() -> None:
    scheduler = Scheduler(max_batch_tokens=10, max_queue_tokens=30)
    scheduler.admit(0, [50])  # an empty queue takes a request of any size
    with pytest.raises(QueueFullError, match=r"at most 30 tokens in the queue, got 6 more"):
        scheduler.admit(1, [3, 3])
    assert scheduler.queued_pairs == 1
