"""Hard negatives: texts that look like an answer and are not. Resumable; writes groups.

Candidates come from a search (BM25, a bi-encoder, or both). A candidate that a judge scores
above the positive's score less a margin is likely an unlabelled answer and is left out
(NV-Retriever, arXiv 2407.15831, section 4).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from polyrank.errors import InputError
from polyrank.training.config import changes, read_object
from polyrank.training.groups import Group

__all__ = ["Judge", "MiningConfig", "Search", "mine"]


class Search(Protocol):
    """Finds texts for queries: `LexicalIndex`, `VectorIndex`."""

    def search(
        self, queries: Sequence[str], k: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """[N, k] best texts by index, best first, and their scores; 0: nothing in common."""
        ...


Judge = Callable[[Sequence[tuple[str, str]]], npt.NDArray[np.float32]]
"""[N] scores of (query, text) pairs, higher is better; compared within one query only."""


@dataclass(frozen=True, kw_only=True)
class MiningConfig:
    """What is kept of the candidates. Ranks count from 0."""

    hard: int = 6
    """Negatives taken from the candidates."""
    easy: int = 4
    """Negatives drawn at random from all texts."""
    skip_best: int = 0
    """Best candidates left out unseen, for data with many unlabelled answers."""
    depth: int = 50
    """Candidates taken from each search."""
    margin: float = 0.0
    """A candidate must score below the positive by this, in the judge's units."""
    relative: bool = False
    """Whether `margin` is a share of the positive's score (.05: below 95 % of it)."""
    batch: int = 64
    """Queries between two writes."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not math.isfinite(self.margin):
            raise InputError(f"expected a finite margin, got {self.margin}")
        for name, least in (
            ("hard", 0), ("easy", 0), ("skip_best", 0), ("depth", 1), ("batch", 1), ("seed", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise InputError(f"expected {name} as a whole number from {least}, got {value!r}")


def mine(
    groups: Sequence[Group],
    texts: Sequence[str],
    searches: Sequence[Search],
    config: MiningConfig,
    out: str | Path,
    *,
    judge: Judge | None = None,
    progress: Callable[[int, int], None] | None = None,
    identity: Mapping[str, Any] | None = None,
) -> int:
    """Add negatives from `texts` to labelled groups, and write them to `out`, in order.

    A known answer of a query is never its negative, whichever group it is in and however its white
    space is; a group's own negatives are held to that too. `progress` is called
    after every batch with (groups done, groups). A run that was stopped goes on after the last
    whole line; its negatives are those of an uninterrupted run. `identity`: what else must be the
    same for that, as JSON (names of the searches, hashes of the inputs).

    Returns how many groups the file has. Raises InputError where there is nothing to mine from,
    and where `out` was begun with other settings.
    """
    if not searches or not texts:
        raise InputError("expected at least one search and one text to mine from, got none")
    out = Path(out)
    settings = {**vars(config), "groups": len(groups), "texts": len(texts), **(identity or {})}
    done = _resume(out, {name: v for name, v in settings.items() if name != "batch"}, len(groups))
    answers: dict[str, set[str]] = {}
    for group in groups:
        answers.setdefault(group.query, set()).add(_plain(group.texts[0]))
    with out.open("a", encoding="utf-8") as file:
        for start in range(done, len(groups), config.batch):
            chunk = groups[start : start + config.batch]
            found = [search.search([g.query for g in chunk], config.depth) for search in searches]
            for i, group in enumerate(chunk):
                rng = np.random.default_rng((config.seed, start + i))
                # What shares nothing is no harder than a text drawn at random.
                hits = [ids[i][scores[i] != 0] for ids, scores in found]
                candidates = _interleave([list(map(int, best)) for best in hits])
                right, *given = group.texts
                given = [t for t in given if _plain(t) not in answers[group.query]]
                known = answers[group.query] | set(map(_plain, given))
                mined = _negatives(group, known, texts, candidates, config, judge, rng)
                # A teacher's scores, where there were any, say nothing of the new texts.
                whole = replace(group, texts=(right, *given, *mined), scores=None)
                file.write(whole.to_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
            if progress is not None:
                progress(start + len(chunk), len(groups))
    return len(groups)


def _negatives(
    group: Group,
    known: set[str],
    texts: Sequence[str],
    candidates: Iterable[int],
    config: MiningConfig,
    judge: Judge | None,
    rng: np.random.Generator,
) -> list[str]:
    fresh = dict.fromkeys(texts[c] for c in list(candidates)[config.skip_best :])
    hard = [text for text in fresh if _plain(text) not in known]
    if judge is not None and hard:
        scores = judge([(group.query, t) for t in (group.texts[0], *hard)])
        limit = scores[0] - (abs(scores[0]) * config.margin if config.relative else config.margin)
        hard = [text for text, score in zip(hard, scores[1:], strict=True) if score < limit]
    hard = hard[: config.hard]
    drawn = rng.integers(0, len(texts), 4 * config.easy)
    taken = known | set(map(_plain, hard))
    easy = [t for t in dict.fromkeys(texts[int(i)] for i in drawn) if _plain(t) not in taken]
    return [*hard, *easy[: config.easy]]


def _plain(text: str) -> str:
    """A text by which it is told from others: white space does not count."""
    return " ".join(text.split())


def _interleave(lists: list[list[int]]) -> list[int]:
    """The best of each search, then the second of each; no index twice."""
    merged: dict[int, None] = {}
    for rank in range(max(map(len, lists))):
        for found in lists:
            if rank < len(found):
                merged.setdefault(found[rank])
    return list(merged)


def _resume(out: Path, settings: Mapping[str, Any], most: int) -> int:
    """Whole lines already there; a line cut by a kill is taken off."""
    beside = out.with_name(out.name + ".mining.json")
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        part = beside.with_name(beside.name + ".part")
        part.write_text(json.dumps(settings) + "\n", encoding="utf-8")
        part.replace(beside)
        return 0
    begun = read_object(beside) if beside.exists() else None
    if begun != settings:
        found = changes(begun, settings) if begun else "a file without its settings beside it"
        raise InputError(
            f"expected {out} to have been begun with the same groups, texts and settings, got "
            f"{found}; remove it to mine anew"
        )
    whole, end = 0, 0
    with out.open("rb+") as file:
        for line in file:
            if line.endswith(b"\n"):
                whole, end = whole + 1, end + len(line)
        if whole > most:
            raise InputError(
                f"expected at most {most} lines in {out}, one a group, got {whole}; something else "
                "wrote to it: remove it to mine anew"
            )
        file.truncate(end)
    return whole
