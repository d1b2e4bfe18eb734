"""Lengths in, batches under a token budget out. Pure functions; a batch's cost is said here.

Packed batches have no padding, so a batch costs its tokens; attention is cheapest when the
lengths in a batch are alike, so pairs are taken in order of length.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["groups_of_like_length", "plan_batches"]


def plan_batches(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Indices of the pairs of each batch: longest first, each batch filled up to the budget.

    Every index occurs once. Equal lengths keep input order. A pair over the budget goes alone.
    """
    batches: list[list[int]] = []
    room = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or lengths[i] > room:
            batches.append([])
            room = max_batch_tokens
        batches[-1].append(i)
        room -= lengths[i]
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
