"""Lengths in, batches under a token budget out. Pure functions; a batch's cost is said here.

Packed batches have no padding, so a batch costs its tokens; attention is cheapest when the
lengths in a batch are alike, so pairs are taken in order of length.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["fill", "groups_of_like_length", "plan_batches"]


def fill(lengths: Sequence[int], max_batch_tokens: int) -> int:
    """How many of the first pairs fit the budget. At least one: a pair is never split."""
    total = 0
    for taken, length in enumerate(lengths):
        total += length
        if total > max_batch_tokens and taken:
            return taken
    return len(lengths)


def plan_batches(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Indices of the pairs of each batch: longest first, each batch filled up to the budget.

    Every index occurs once. Equal lengths keep input order.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches = []
    while order:
        taken = fill([lengths[i] for i in order], max_batch_tokens)
        batches.append(order[:taken])
        order = order[taken:]
    return batches


def groups_of_like_length(lengths: Sequence[int], max_waste: float) -> list[list[int]]:
    """Indices grouped so that padding a group to its longest wastes at most that share.

    `max_waste` is in [0, 1); 0 groups equal lengths only. Longest group first.
    """
    groups: list[list[int]] = []
    used = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups:
            longest = lengths[groups[-1][0]]
            padded = longest * (len(groups[-1]) + 1)
            if padded - used - lengths[i] <= max_waste * padded:
                groups[-1].append(i)
                used += lengths[i]
                continue
        groups.append([i])
        used = lengths[i]
    return groups
