"""Lines of plain, .gz and .xz files with their numbers, and an error that names all bad ones."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from polyrank.errors import InputError

__all__ = ["BadLines", "find_file", "numbered_lines", "open_binary", "read_objects"]

PACKED = ("", ".xz", ".gz")
_SHOWN = 5  # bad lines that a message names


def find_file(folder: Path, *names: str) -> Path | None:
    """The first of these files that exists, plain or with .xz or .gz at its end."""
    for name in names:
        for packed in PACKED:
            path = folder / (name + packed)
            if path.is_file():
                return path
    return None


def open_binary(path: Path) -> BinaryIO:
    """Open a file for reading, unpacked if its name ends in .gz or .xz."""
    if not path.is_file():
        raise InputError(f"expected a file at {path}, found none; check the path")
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".xz":
        return lzma.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, counted from 1, without line ends; blank ones are passed over.

    Raises InputError at a line that is not UTF-8 and where a packed file is damaged.
    """
    number = 0
    with closing(open_binary(path)) as file:
        try:
            for number, line in enumerate(file, start=1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if text.strip():
                    yield number, text
        except UnicodeDecodeError as error:
            raise InputError(
                f"expected UTF-8, got the byte 0x{error.object[error.start]:02x} at "
                f"{path}:{number}; convert the file to UTF-8"
            ) from None
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise InputError(
                f"expected a whole {path.suffix} file, got one that ends or breaks after line "
                f"{number} of {path} ({error}); fetch it again"
            ) from error


class BadLines:
    """Bad lines of one file: collected to its end, then raised as one error."""

    def __init__(self, path: Path, expected: str) -> None:
        self._path, self._expected = path, expected
        self._first: list[tuple[int, str]] = []
        self._count = 0

    def add(self, number: int, got: str) -> None:
        """Note a bad line and what was found in it."""
        self._count += 1
        if len(self._first) < _SHOWN:
            self._first.append((number, got if len(got) <= 80 else got[:79] + "…"))

    def check(self) -> None:
        """Raise InputError if there was any: how many, and the first of them with their numbers."""
        if not self._count:
            return
        shown = "; ".join(f"{got} at {self._path}:{number}" for number, got in self._first)
        more = f"; and {self._count - _SHOWN:,} more" if self._count > _SHOWN else ""
        all_of_them = "the line" if self._count == 1 else f"these {self._count:,} lines"
        raise InputError(
            f"expected {self._expected}, got {shown}{more}; correct or remove {all_of_them}"
        )


def read_objects(path: Path, expected: str, *required: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """JSON objects of a JSONL file with their line numbers.

    Raises InputError after the last line if some are no objects or lack a `required` field.
    """
    bad = BadLines(path, expected)
    for number, line in numbered_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            bad.add(number, f"no JSON ({line.strip()[:40]!r})")
            continue
        if not isinstance(row, dict):
            bad.add(number, f"a {type(row).__name__}")
        elif missing := [name for name in required if name not in row]:
            bad.add(number, f"no field `{missing[0]}`")
        else:
            yield number, row
    bad.check()
