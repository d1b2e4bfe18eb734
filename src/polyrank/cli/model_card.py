"""What a model's README.md says of itself in its front matter: languages and license.

Reads only as much YAML as model cards use there: top-level scalars and lists of scalars.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["ModelCard", "read_model_card"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCard:
    """What the front matter states; None where it does not."""

    languages: tuple[str, ...] | None = None
    license: str | None = None


def read_model_card(folder: Path) -> ModelCard:
    """Read the card in a model's folder; one without statements where there is none."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ModelCard()
    fields = _front_matter(text)
    licenses = fields.get("license_name") or fields.get("license")
    return ModelCard(
        languages=tuple(fields.get("language", ())) or None,
        license=licenses[0] if licenses else None,
    )


def _front_matter(text: str) -> dict[str, list[str]]:
    """Top-level keys with their scalars, between the first two `---` lines."""
    first, *lines = text.removeprefix("\ufeff").splitlines() or [""]
    fields: dict[str, list[str]] = {}
    if first.rstrip() != "---":
        return fields
    key = ""
    for line in lines:
        if line.rstrip() in ("---", "..."):
            return fields
        item = line.lstrip()
        if item.startswith("- "):
            fields.setdefault(key, []).append(_scalar(item[2:]))
        elif line[:1] not in ("", " ", "\t", "#"):
            key, _, value = line.partition(":")
            value = value.strip()
            inside = value[1:-1].split(",") if value.startswith("[") else [value]
            fields[key] = [s for s in map(_scalar, inside) if s]
    return {}  # the second `---` never came


def _scalar(text: str) -> str:
    text = text.strip()
    if text[:1] in ("'", '"'):
        return text[1:].partition(text[0])[0]
    return text.partition(" #")[0].strip()
