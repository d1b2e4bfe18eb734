"""Bytes of files and of standard input -> documents and pairs. Every error names file and line.

Input is UTF-8, with or without a byte order mark; a line ends with LF or CR LF.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

from polyrank.errors import InputError

__all__ = ["Form", "lines_of", "open_bytes", "parse_pair", "place", "read_documents"]

Form = Literal["lines", "jsonl", "whole"]
Fields = dict[str, Any]

_BOM = b"\xef\xbb\xbf"
_STDIN = "-"


def place(name: str) -> str:
    """A file's name as messages and ids show it."""
    if name == _STDIN:
        return "standard input"
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@contextmanager
def open_bytes(name: str) -> Iterator[BinaryIO]:
    """Open a file, or standard input for `-`. Raises InputError where there is none."""
    if name == _STDIN:
        if sys.stdin is None:
            raise InputError("expected standard input to read from; it is closed")
        if sys.stdin.isatty():
            print("reading from the terminal; Ctrl-D on an empty line ends", file=sys.stderr)
        yield sys.stdin.buffer
        return
    try:
        stream = open(name, "rb")  # noqa: SIM115  closed below, outside of this except
    except OSError as error:
        raise InputError(f"expected a file at {place(name)}: {error.strerror}") from error
    with stream:
        yield stream


def read_documents(names: Sequence[str], form: Form) -> tuple[list[Fields], int]:
    """All documents of all files in order, and how many blank lines were passed over.

    A document without an id gets one: its line's number, counted from 1 over all lines, after
    `FILE:` where there are several files; the file's name where a document is a whole file.
    """
    documents: list[Fields] = []
    blank = 0
    for name in names or [_STDIN]:
        with open_bytes(name) as stream:
            if form == "whole":
                documents.append(_whole_document(stream, name))
                continue
            for number, raw in enumerate(lines_of(stream), start=1):
                here = f"{place(name)}:{number}"
                if raw.strip():
                    own_id = number if len(names) < 2 else here
                    documents.append(_line_document(raw, here, own_id, form))
                else:
                    blank += 1
    return documents, blank


def _whole_document(stream: BinaryIO, name: str) -> Fields:
    text = _decode(stream.read().removeprefix(_BOM), place(name))
    return {"id": name if name == _STDIN else place(name), "text": text}


def _line_document(raw: bytes, here: str, own_id: int | str, form: Form) -> Fields:
    if form == "lines":
        return {"id": own_id, "text": _line(raw, here)}
    fields = _json_document(raw, here)
    return fields if fields.get("id") is not None else {**fields, "id": own_id}


def parse_pair(raw: bytes, here: str, *, jsonl: bool) -> Fields:
    """A line as `query` and `text`, beside the line's other fields where it is JSON.

    Raises InputError that names `here`, the file and line.
    """
    if jsonl:
        from polyrank.tokenization import check_text

        fields = _json_document(raw, here)
        if "query" not in fields:
            raise InputError(
                f"expected the field `query` in {here}, found the fields {', '.join(fields)}"
            )
        check_text(fields["query"], f"{here}['query']")
        return fields
    query, tab, text = _line(raw, here).partition("\t")
    if not tab:
        raise InputError(
            f"expected `query TAB text`, got a line without TAB at {here}; for JSON lines, pass "
            "--jsonl"
        )
    return {"query": query, "text": text}


def lines_of(stream: Iterable[bytes]) -> Iterator[bytes]:
    """Lines with their ends, without a byte order mark."""
    for number, raw in enumerate(stream):
        yield raw if number else raw.removeprefix(_BOM)


def _line(raw: bytes, here: str) -> str:
    return _decode(raw.removesuffix(b"\n").removesuffix(b"\r"), here)


def _decode(raw: bytes, here: str) -> str:
    if raw.count(0) > len(raw) // 4:
        raise InputError(f"expected UTF-8, got many NUL bytes at {here}: UTF-16? Convert it first")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        at = f"byte {error.start + 1} of {here}" if line == 1 else f"{here}, line {line}"
        raise InputError(
            f"expected UTF-8, got the byte 0x{raw[error.start]:02x} at {at}; convert the file first"
        ) from None


def _json_document(raw: bytes, here: str) -> Fields:
    from polyrank.tokenization import document_text

    line = _line(raw, here)
    try:
        fields = json.loads(line, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected a JSON object a line, got none at {here}: {error}") from None
    if not isinstance(fields, dict):
        raise InputError(f"expected a JSON object a line, got {type(fields).__name__} at {here}")
    document_text(fields, here)
    return fields


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is no JSON number")
    return value
