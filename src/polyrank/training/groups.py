"""One query with its texts, and files of them. Knows JSON and bytes; no tokens, no tensor.

A groups file is JSONL, one object a line: `query`, `texts`, and optionally `labelled` (the first
text is the positive, the others are negatives; true unless there are `scores`), `scores` (a
teacher's logit for each text), `lang` and `source`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polyrank.errors import InputError

__all__ = ["BadLines", "Group", "GroupFile", "check_plain", "parse_group", "write_groups"]

# A guess that holds within a factor of two for all scripts: 4 letters, or 1.5 Chinese characters.
_BYTES_PER_TOKEN = 4
_LARGEST = 3e38  # of fp32


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """One query and the texts that compete for it."""

    query: str
    texts: tuple[str, ...]
    """The positive first, where the group is labelled."""
    labelled: bool = True
    """Whether the first text is known to answer the query, and the others not to."""
    scores: tuple[float, ...] | None = None
    """A teacher's logit for each text."""
    lang: str = ""
    source: str = ""

    def to_json(self) -> str:
        """One line of a groups file."""
        row: dict[str, Any] = {"query": self.query, "texts": self.texts}
        row |= {"labelled": self.labelled, "lang": self.lang, "source": self.source}
        if self.scores is not None:
            row["scores"] = self.scores
        return json.dumps(row, ensure_ascii=False)


@dataclass(kw_only=True)
class BadLines:
    """Lines that were left out: how many, and where the first were."""

    count: int = 0
    first: tuple[str, ...] = ()

    def add(self, problem: str) -> None:
        """Count a line; the first eight are kept word by word."""
        self.count += 1
        if len(self.first) < 8:
            self.first = (*self.first, problem)


def parse_row(line: str | bytes, where: str) -> dict[str, Any]:
    """Read a line that is a JSON object. Raises InputError that names `where`."""
    try:
        text = line if isinstance(line, str) else line.decode("utf-8-sig")
        row = json.loads(text)
        if "\\u" in text:  # which may name half of a character
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            f"expected valid Unicode at {where}, got a lone surrogate; decode its source with "
            "errors='replace'"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected JSON at {where}: {error}") from error
    if not isinstance(row, dict):
        raise InputError(f"expected a JSON object at {where}, got {type(row).__name__}")
    return row


def parse_group(line: str | bytes, where: str) -> Group:
    """Read one line of a groups file. Raises InputError that says what is wrong at `where`."""
    row = parse_row(line, where)
    query, texts, scores = row.get("query"), row.get("texts"), row.get("scores")
    if not isinstance(query, str) or not query.strip():
        raise InputError(f"expected a non-empty `query` at {where}, got {query!r}")
    if not isinstance(texts, list) or not texts or not all(isinstance(t, str) for t in texts):
        hint = "; this is a pair: mine negatives for it first" if "positive" in row else ""
        raise InputError(f"expected `texts`, a list of strings, at {where}{hint}")
    if scores is not None:
        if not isinstance(scores, list) or len(scores) != len(texts):
            raise InputError(f"expected `scores`, one for each of {len(texts)} texts, at {where}")
        scores = tuple(_finite(s, where) for s in scores)
    labelled = row.get("labelled")
    if labelled is None:
        labelled = scores is None
    if labelled not in (0, 1):
        raise InputError(f"expected `labelled` as true or false at {where}, got {labelled!r}")
    return Group(
        query=query,
        texts=tuple(texts),
        labelled=bool(labelled),
        scores=scores,
        lang=str(row.get("lang") or ""),
        source=str(row.get("source") or ""),
    )


def _finite(score: object, where: str) -> float:
    number = not isinstance(score, bool) and isinstance(score, (int, float))
    if not number or not abs(score) < _LARGEST:  # type: ignore[arg-type]
        raise InputError(f"expected finite numbers in `scores` at {where}, got {score!r:.40}")
    return float(score)  # type: ignore[arg-type]


def check_plain(path: Path) -> None:
    """Raise InputError for a name that says the file is compressed."""
    if path.suffix in (".gz", ".xz"):
        raise InputError(
            f"expected a plain .jsonl file of groups, which are read in any order, got {path}; "
            "unpack it, or give a name without .gz or .xz"
        )


def write_groups(path: str | Path, groups: Iterable[Group]) -> int:
    """Write a groups file; return how many there are."""
    with Path(path).open("w", encoding="utf-8") as file:
        return sum(1 for g in groups if file.write(g.to_json() + "\n"))


class GroupFile:
    """Random access to a groups file that stays on disk; 8 bytes of memory a line.

    Bad lines are left out and counted in `bad`. Opening reads the file once. Raises InputError for
    a file that is missing or has no group.
    """

    def __init__(
        self,
        path: str | Path,
        parse: Callable[[str | bytes, str], Group] = parse_group,
        *,
        lacks: Callable[[Group], str] = lambda group: "",
    ) -> None:
        """`lacks`: what a group needs to be learned from, where it has not got it; else ""."""
        self.path = Path(path)
        check_plain(self.path)
        self.bad = BadLines()
        self._parse = parse
        offsets: list[int] = []
        tokens: list[int] = []
        by_lang: dict[str, list[int]] = {}
        for number, offset, line in self._lines():
            try:
                group = parse(line, f"{self.path}:{number}")
                if missing := lacks(group):
                    raise InputError(f"expected {missing} at {self.path}:{number}")
            except InputError as error:
                self.bad.add(str(error))
                continue
            by_lang.setdefault(group.lang, []).append(len(offsets))
            offsets.append(offset)
            tokens.append(len(line) // (_BYTES_PER_TOKEN * len(group.texts)))
        if not offsets:
            first = f": {self.bad.first[0]}" if self.bad.first else ", which is empty"
            raise InputError(f"expected at least one group in {self.path}{first}")
        self._offsets: npt.NDArray[np.int64] = np.array(offsets, np.int64)
        self.by_lang = {lang: np.array(rows, np.int64) for lang, rows in sorted(by_lang.items())}
        """Rows of each language."""
        self._tokens: npt.NDArray[np.int64] = np.array(tokens, np.int64)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, row: int) -> Group:
        with self.path.open("rb") as file:
            file.seek(int(self._offsets[row]))
            return self._parse(file.readline(), f"{self.path} at byte {self._offsets[row]}")

    def between(self, least: int, most: int) -> GroupFile:
        """The groups whose pairs have about `least` to under `most` tokens; there may be none."""
        part = copy.copy(self)
        inside = (self._tokens >= least) & (self._tokens < most)
        kept = {lang: rows[inside[rows]] for lang, rows in self.by_lang.items()}
        part.by_lang = {lang: rows for lang, rows in kept.items() if len(rows)}
        return part

    def _lines(self) -> Iterator[tuple[int, int, bytes]]:
        offset = 0
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise InputError(f"expected a groups file at {self.path}: {error.strerror}") from error
        with file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, offset, line
                offset += len(line)
