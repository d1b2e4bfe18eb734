"""What every client is asked for, and how a script reports it. The standard library only."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

address, query, documents = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
count = len(documents)
many: list[str] = [*documents] * 6
"""More documents than the server takes."""
large: list[str] = ["w20 " * 30_000]
"""More bytes than the server takes."""

_folder = Path(sys.argv[4])
_rankings: dict[str, Any] = {}
_errors: dict[str, Any] = {}
_waits: dict[str, float] = {}

Call = Callable[[], Any]


def rows(
    results: Iterable[Any], index: str = "index", score: str = "relevance_score"
) -> list[list[float]]:
    """`[index, score]` of results that are objects or mappings."""
    return [
        [r[index], r[score]] if isinstance(r, dict) else [getattr(r, index), getattr(r, score)]
        for r in results
    ]


def found(pairs: Iterable[tuple[str, float]]) -> list[list[float]]:
    """`[index, score]` of a document's text and its score, for clients that give no index."""
    return [[documents.index(text), score] for text, score in pairs]


def ranking(what: str, given: Sequence[Sequence[float]], length: int = count) -> None:
    """A ranking, of `length` documents."""
    assert len(given) == length, f"{what}: {len(given)} documents instead of {length}"
    _rankings[what] = given


def error(what: str, call: Call, *expected: str) -> None:
    """A call that fails; what the client raises, or gives, has these words."""
    try:
        got = str(call())
    except Exception as raised:  # noqa: BLE001  which one it is, is what is asked
        got = f"{type(raised).__name__} {raised}"
    _errors[what] = [got, expected]


def overload(what: str, call: Call, *expected: str) -> None:
    """A call while the server is overloaded, by a client that does not try again."""
    (_folder / "refuse").touch()
    error(what, call, *expected)


def retried(what: str, call: Call) -> None:
    """A call while the server is overloaded, by a client that tries again; it gives a ranking."""
    (_folder / "refuse").touch()
    ranking(what, call())
    _waits[what] = float((_folder / "waited").read_text())


def report() -> None:
    """Say it all."""
    json.dump({"rankings": _rankings, "errors": _errors, "waits": _waits}, sys.stdout)
