"""`polyrank cache`: what is kept, and removing it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

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


def test_conversions_are_removed_by_folder_too(
    polyrank: Run, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polyrank("cache", "clear")
    polyrank("rank", "-m", tiny_model, "w1", stdin="w2\n")
    monkeypatch.chdir(tiny_model.parent)
    assert "removed 1 conversions" in polyrank("cache", "clear", "./tiny").err
    none = polyrank("cache", "clear", "tiny")
    assert none.code == 1
    assert "expected a conversion of tiny to remove" in none.err


@pytest.mark.parametrize("about", ["", "[]", '{"model": "x"}', "\xff"])
def test_a_damaged_conversion_is_not_listed_and_goes_with_all(
    polyrank: Run, tiny_model: Path, about: str
) -> None:
    polyrank("cache", "clear")
    polyrank("rank", "-m", tiny_model, "w1", stdin="w2\n")
    (row,) = map(json.loads, polyrank("cache", "list", "--json").lines)
    (Path(row["path"]) / "conversion.json").write_text(about, encoding="latin-1")
    assert polyrank("cache", "list").out == ""
    assert polyrank("cache", "clear").code == 0
    assert not Path(row["path"]).exists()
