"""Which groups make a step: a pure function of (seed, step). Reads groups, makes no tokens.

A mixture has parts; a part has languages. A draw picks a part by its weight, then a language by
its size to a power (exponent 0.5: a language with 100 times the data is drawn 10 times as often),
then the next row of that language's shuffled order; every row comes once before any comes twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from polyrank.errors import InputError
from polyrank.training.groups import Group, GroupFile

__all__ = ["Mixture", "Part"]

_BLOCK = 4096  # draws made at once; a step's draws are found by counting the blocks before it


@dataclass(frozen=True, kw_only=True)
class Part:
    """One groups file's place in a mixture."""

    file: GroupFile
    weight: float = 1.0
    """Share of the draws, relative to the other parts'."""
    group_size: int = 8
    """Texts of a group in a step at most: the positive, and a sample of the others."""
    max_length: int = 192
    """Limit of a pair in tokens."""


class Mixture:
    """An endless, reproducible stream of groups.

    Raises InputError without a part, and for a weight that is not above 0.
    """

    def __init__(self, parts: Sequence[Part], *, seed: int, exponent: float = 0.5) -> None:
        if not parts or any(p.weight <= 0 for p in parts):
            raise InputError("expected at least one part, each with a weight above 0")
        self.parts = tuple(parts)
        self.seed = seed
        self._cells = [(p, lang) for p, part in enumerate(parts) for lang in part.file.by_lang]
        shares = []
        for part in parts:
            sizes = np.array([len(r) for r in part.file.by_lang.values()], np.float64) ** exponent
            shares.append(part.weight * sizes / sizes.sum())
        self._shares: npt.NDArray[np.float64] = np.concatenate(shares) / sum(
            p.weight for p in parts
        )
        self._block = lru_cache(maxsize=4)(self._draw_block)
        self._drawn_before: list[npt.NDArray[np.int64]] = [np.zeros(len(self._cells), np.int64)]
        self._order = lru_cache(maxsize=256)(self._shuffle)

    def draw(self, number: int) -> tuple[Group, Part]:
        """The group of one draw, its texts sampled down to the part's group size."""
        block, place = divmod(number, _BLOCK)
        cells, ordinals = self._block(block)
        cell = int(cells[place])
        p, lang = self._cells[cell]
        part = self.parts[p]
        rows = part.file.by_lang[lang]
        turn, at = divmod(int(ordinals[place]), len(rows))
        group = part.file[int(rows[self._order(cell, turn)[at]])]
        rng = np.random.default_rng((self.seed, 2, number))
        return _sample_texts(group, part.group_size, rng), part

    def step(self, step: int, groups: int) -> list[tuple[Group, Part]]:
        """The groups of one step."""
        return [self.draw(step * groups + i) for i in range(groups)]

    def shares(self) -> dict[tuple[str, str], float]:
        """(file, language) -> its expected share of the draws."""
        names = [(self.parts[p].file.path.name, lang) for p, lang in self._cells]
        return dict(zip(names, map(float, self._shares), strict=True))

    def _draw_block(self, block: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Cells of a block's draws, and how often each cell was drawn before."""
        while len(self._drawn_before) <= block + 1:
            last = self._cells_of(len(self._drawn_before) - 1)
            counts = np.bincount(last, minlength=len(self._cells))
            self._drawn_before.append(self._drawn_before[-1] + counts)
        cells = self._cells_of(block)
        ordinals = np.empty(_BLOCK, np.int64)
        for cell in np.unique(cells):
            places = np.flatnonzero(cells == cell)
            ordinals[places] = self._drawn_before[block][cell] + np.arange(len(places))
        return cells, ordinals

    def _cells_of(self, block: int) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng((self.seed, 0, block))
        return rng.choice(len(self._cells), size=_BLOCK, p=self._shares).astype(np.int64)

    def _shuffle(self, cell: int, turn: int) -> npt.NDArray[np.int64]:
        p, lang = self._cells[cell]
        rng = np.random.default_rng((self.seed, 1, cell, turn))
        return rng.permutation(len(self.parts[p].file.by_lang[lang]))


def _sample_texts(group: Group, size: int, rng: np.random.Generator) -> Group:
    """At most `size` texts; the positive stays first, teacher-scored texts are drawn freely."""
    if len(group.texts) <= size:
        return group
    if group.labelled:
        chosen = [0, *sorted(1 + rng.choice(len(group.texts) - 1, size - 1, replace=False))]
    else:
        chosen = sorted(rng.choice(len(group.texts), size, replace=False))
    return Group(
        query=group.query,
        texts=tuple(group.texts[i] for i in chosen),
        labelled=group.labelled,
        scores=None if group.scores is None else tuple(group.scores[i] for i in chosen),
        lang=group.lang,
        source=group.source,
    )
