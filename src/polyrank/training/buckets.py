"""Steps of like length: few long groups or many short ones. A pure function of (seed, step).

Long texts make a step dear and short ones leave memory unused, so a step draws from one bucket of
lengths and takes as many groups as that bucket says (mGTE, arXiv 2407.19669, appendix).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from polyrank.errors import InputError
from polyrank.training.groups import Group
from polyrank.training.sampling import Mixture, Part

__all__ = ["BucketedMixture"]

_BLOCK = 1024  # steps whose buckets are drawn at once


class BucketedMixture:
    """A mixture for each bucket of lengths. Buckets are drawn so that groups come equally often.

    Raises InputError for lengths that do not rise, and for a bucket of no groups.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        buckets: Sequence[tuple[int, int]],
        *,
        seed: int,
        exponent: float = 0.5,
    ) -> None:
        bounds = [length for length, _ in buckets]
        if bounds != sorted(set(bounds)) or any(groups < 1 for _, groups in buckets):
            raise InputError(
                f"expected buckets of rising lengths with 1 group or more, got {list(buckets)}"
            )
        self.mixtures: list[Mixture] = []
        self._groups: list[int] = []
        weights = []
        least = 0
        for i, (most, groups) in enumerate(buckets):
            # The last bucket also takes what is longer: it is cut to the part's max_length.
            end = most if i + 1 < len(buckets) else 1 << 60
            inside = [_share(part, least, end) for part in parts]
            kept = [part for part in inside if part is not None]
            if kept:
                mixture = Mixture(kept, seed=seed * 31 + i, exponent=exponent)
                self.mixtures.append(mixture)
                self._groups.append(groups)
                weights.append(sum(part.weight for part in kept) / groups)
            least = most
        self._odds: npt.NDArray[np.float64] = np.array(weights) / sum(weights)
        self._seed = seed

    def step(self, step: int) -> list[tuple[Group, Part]]:
        """The groups of one step, all from one bucket."""
        block, place = divmod(step, _BLOCK)
        before = np.zeros(len(self._odds), np.int64)
        for earlier in range(block):
            before += np.bincount(self._block(earlier), minlength=len(self._odds))
        drawn = self._block(block)
        bucket = int(drawn[place])
        turn = int(before[bucket]) + int((drawn[:place] == bucket).sum())
        return self.mixtures[bucket].step(turn, self._groups[bucket])

    def _block(self, block: int) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng((self._seed, 5, block))
        return rng.choice(len(self._odds), size=_BLOCK, p=self._odds).astype(np.int64)


def _share(part: Part, least: int, most: int) -> Part | None:
    """The part's groups of these lengths, at their share of its weight; None: there are none."""
    inside = part.file.between(least, most)
    count = sum(map(len, inside.by_lang.values()))
    if not count:
        return None
    return replace(part, file=inside, weight=part.weight * count / len(part.file))
