"""A run by name: settings that come with the package, and a model and groups to fill them with.

A recipe is `recipes/NAME.json`: a `RerankConfig` without its data's parts; `part` is what each
groups file becomes, and `about` a sentence for people. `model` is the default one, if there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from polyrank.errors import InputError
from polyrank.training.config import RerankConfig, read_object
from polyrank.training.typed import from_mapping

__all__ = ["recipe_names", "recipe_run"]

_FOLDER = Path(__file__).parent / "recipes"


def recipe_names() -> dict[str, str]:
    """Name -> what the recipe is for."""
    return {p.stem: str(read_object(p)["about"]) for p in sorted(_FOLDER.glob("*.json"))}


def recipe_run(
    name: str,
    *,
    model: str | None,
    groups: Sequence[str],
) -> RerankConfig:
    """The run that a recipe makes of a model and groups files, each drawn from equally often.

    `model`: None for the recipe's own. Raises InputError for an unknown name, and where a model or
    groups are missing.
    """
    path = _FOLDER / f"{name}.json"
    if name not in recipe_names():
        raise InputError(f"expected a recipe of {', '.join(recipe_names())}, got {name!r}")
    row = read_object(path)
    row.pop("about")
    part = row.pop("part")
    row["model"] = model or row.get("model")
    if row["model"] is None:
        raise InputError(f"expected a model to start from for the recipe {name}, got none")
    if not groups:
        raise InputError(f"expected at least one groups file for the recipe {name}, got none")
    row["data"] = {**row["data"], "parts": [{"path": path, **part} for path in groups]}
    return from_mapping(RerankConfig, row, where=str(path))
