"""Groups small enough to carry to another machine: each text once, groups by its number.

    python recipes/polyrank_mini/carry.py pack groups parcel
    python recipes/polyrank_mini/carry.py unpack parcel groups

3 GB of groups, whose texts repeat and overlap, become 70 MB; packing takes ten minutes of one core
and 10 GB of memory, unpacking half a minute.
"""

from __future__ import annotations

import argparse
import json
import lzma
from pathlib import Path

# A window over all texts: stretches of one text lie far apart.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 768 << 20, "nice_len": 128}]


def pack(groups: Path, parcel: Path) -> None:
    """Write texts.xz and a NAME.xz for each NAME.jsonl, those of folders inside too."""
    numbers: dict[str, int] = {}
    for path in sorted(groups.rglob("*.jsonl")):
        rows = []
        with path.open(encoding="utf-8") as file:
            for line in file:
                group = json.loads(line)
                texts = [numbers.setdefault(text, len(numbers)) for text in group["texts"]]
                rows.append(json.dumps(group | {"texts": texts}, ensure_ascii=False))
        _write(parcel / path.relative_to(groups).with_suffix(".xz"), rows)
    _write(parcel / "texts.xz", [json.dumps(text, ensure_ascii=False) for text in numbers])


def unpack(parcel: Path, groups: Path) -> None:
    """Write each NAME.jsonl again."""
    texts = [json.loads(line) for line in _read(parcel / "texts.xz")]
    for path in sorted(set(parcel.rglob("*.xz")) - {parcel / "texts.xz"}):
        out = groups / path.relative_to(parcel).with_suffix(".jsonl")
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", encoding="utf-8") as file:
            for line in _read(path):
                group = json.loads(line)
                group["texts"] = [texts[number] for number in group["texts"]]
                file.write(json.dumps(group, ensure_ascii=False) + "\n")


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(path, "wb", format=lzma.FORMAT_XZ, filters=_FILTERS) as file:
        file.write("\n".join(lines).encode())


def _read(path: Path) -> list[str]:
    with lzma.open(path) as file:
        return file.read().decode().split("\n")


def main() -> None:
    """Read the arguments, pack or unpack."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    {"pack": pack, "unpack": unpack}[args.what](args.source, args.out)


if __name__ == "__main__":
    main()
