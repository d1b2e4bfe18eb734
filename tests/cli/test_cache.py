"""`polyrank cache`: what is kept, and removing it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from .conftest import Ran

Run = Callable[..., Ran]


def test_conversions_are_listed_and_removed(polyrank: Run, tiny_model: Path) -> None:
    polyrank("cache", "clear")
    polyrank("rank", "-m", tiny_model, "w1", stdin="w2\nw3\n")
    listed = polyrank("cache", "list", "--json")
    (row,) = map(json.loads, listed.lines)
    assert (row["model"], row["dtype"]) == ("tiny", "fp32")
    assert Path(row["path"]).is_dir()
    (line,) = polyrank("cache", "list").lines
    assert line.split("\t")[:2] == ["tiny", "fp32"]
    cleared = polyrank("cache", "clear", "tiny")
    assert "removed 1 conversions" in cleared.err
    assert not Path(row["path"]).exists()
    assert polyrank("cache", "list").out == ""
