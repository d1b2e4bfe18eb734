"""Which training sources the shipped weights may use, and what no group may contain."""

from __future__ import annotations

import json
import lzma
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

# No licence stated: trecqa, tquad, viquad-sample, parashoot. GPL-3 repository: persianqa.
LEFT_OUT = {"trecqa", "tquad", "viquad-sample", "parashoot", "persianqa"}


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of one compressed JSONL file."""
    with lzma.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def allowed(folder: Path) -> list[Path]:
    """Files of a training folder, named `source.language`, less those left out."""
    return [p for p in sorted(folder.glob("*.xz")) if p.name.split(".")[0] not in LEFT_OUT]


def same(text: str) -> str:
    """A form in which two copies of a text are equal."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def evaluation_texts(data: Path) -> set[str]:
    """Every query and passage of the development pools, in the form of `same`."""
    found: set[str] = set()
    for pool in sorted((data / "dev").iterdir()):
        for row in rows(pool / "corpus.jsonl.xz"):
            found.add(same(row["text"]))
            if row.get("title"):
                found.add(same(f"{row['title']} {row['text']}"))
        # A handbook's headings, such as "Introduction", are those of every handbook.
        least = 24 if pool.name.startswith("handbook") else 1
        queries = (same(row["text"]) for row in rows(pool / "queries.jsonl.xz"))
        found |= {query for query in queries if len(query) >= least}
    return found


def leaks(texts: Iterable[str], forbidden: set[str]) -> bool:
    """Whether one of a group's texts is in the development pools."""
    return any(same(text) in forbidden for text in texts)
