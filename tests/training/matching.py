"""A small matching task: a query names a topic, the positive holds a word of that topic."""

from __future__ import annotations

import numpy as np

from polyrank.training.groups import Group

TOPICS = 6


def matching_groups(count: int, seed: int, *, texts: int = 4, lang: str = "") -> list[Group]:
    """Queries `w100`.. name a topic; texts hold `w200`.. of one topic among noise words."""
    rng = np.random.default_rng(seed)
    groups = []
    for _ in range(count):
        topics = rng.permutation(TOPICS)[:texts]
        bodies = []
        for topic in topics:
            noise = [f"w{n}" for n in rng.integers(300, 500, rng.integers(2, 6))]
            noise.insert(int(rng.integers(len(noise) + 1)), f"w{200 + topic}")
            bodies.append(" ".join(noise))
        groups.append(Group(query=f"w{100 + topics[0]}", texts=tuple(bodies), lang=lang))
    return groups
