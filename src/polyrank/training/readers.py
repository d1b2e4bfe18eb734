"""Training data as others write it -> labelled groups. Streams; nothing is held but ids and texts.

| format | a line or a folder |
|---|---|
| groups | JSONL of `polyrank.training.groups`; also a teacher's scored groups |
| pairs | JSONL: `query`, `positive`, and optionally `negative` or `negatives`, `title`, `lang` |
| triples | three columns: query, positive, negative, separated by tabs |
| beir | a folder: corpus.jsonl, queries.jsonl, qrels/NAME.tsv |
| texts | JSONL: `text` and optionally `title`; any other name: a text a line |

Files may be compressed (.gz, .xz). A bad line is left out, counted, and named in `BadLines`.
"""

from __future__ import annotations

import gzip
import itertools
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from polyrank.errors import InputError
from polyrank.training.groups import BadLines, Group, parse_group, parse_row

__all__ = [
    "decode",
    "read_beir",
    "read_groups",
    "read_labelled",
    "read_pairs",
    "read_texts",
    "read_triples",
]


def open_binary(path: str | Path) -> IO[bytes]:
    """Open a file, compressed or not. Raises InputError where there is none."""
    path = Path(path)
    try:
        if path.suffix == ".gz":
            return gzip.open(path, "rb")  # type: ignore[return-value]
        if path.suffix == ".xz":
            return lzma.open(path, "rb")
        return path.open("rb")
    except OSError as error:
        raise InputError(f"expected a file at {path}: {error.strerror}") from error


def read_labelled(
    path: str | Path, *, split: str = "train", bad: BadLines | None = None
) -> Iterator[Group]:
    """Labelled groups of a file or folder that may be any of the formats, told by its looks.

    A folder is BEIR's, a name with `.tsv` triples; a line of JSON is a group where it has `texts`,
    else a pair. Raises InputError where there is no such file, and at a bad line if `bad` is None.
    """
    path = Path(path)
    if path.is_dir():
        return read_beir(path, split, bad)
    if ".tsv" in path.suffixes[-2:]:
        return read_triples(path, bad)
    return _good(path, _parse_labelled, bad)


def read_groups(path: str | Path, bad: BadLines | None = None) -> Iterator[Group]:
    """Groups as written by mining or scored by a teacher.

    Raises InputError where there is no such file, and at a bad line if `bad` is None.
    """
    yield from _good(path, parse_group, bad)


def read_pairs(path: str | Path, bad: BadLines | None = None) -> Iterator[Group]:
    """Query, positive, negatives; a `title` goes before the positive, as documents are read.

    Raises InputError where there is no such file, and at a bad line if `bad` is None.
    """
    yield from _good(path, _parse_pair, bad)


def read_texts(path: str | Path, bad: BadLines | None = None) -> Iterator[str]:
    """Texts to mine from: JSON lines where the name ends in `.jsonl`, `.ndjson` or `.json`, else a
    text a line.

    Raises InputError where there is no such file, and at a bad line if `bad` is None.
    """
    name = re.sub(r"\.(gz|xz)$", "", Path(path).name.lower())
    json_lines = name.endswith((".jsonl", ".ndjson", ".json"))
    yield from _good(path, _parse_document if json_lines else _plain, bad)


def read_triples(path: str | Path, bad: BadLines | None = None) -> Iterator[Group]:
    """Lines of query, positive, negative; following lines of one query and positive are joined.

    Raises InputError where there is no such file, and at a bad line if `bad` is None.
    """
    triples = _good(path, _parse_triple, bad)
    for (query, positive), same in itertools.groupby(triples, key=lambda t: t[:2]):
        yield Group(query=query, texts=(positive, *dict.fromkeys(t[2] for t in same)))


def read_beir(
    folder: str | Path, split: str = "train", bad: BadLines | None = None
) -> Iterator[Group]:
    """A query with each text judged to answer it, and the texts judged not to (grade 0).

    The corpus stays in memory. Raises InputError where a file is missing, and at a bad line or a
    judged id that is in no file if `bad` is None.
    """
    folder = Path(folder)
    corpus = dict(_good(_found(folder, "corpus.jsonl"), _parse_text, bad))
    queries = dict(_good(_found(folder, "queries.jsonl"), _parse_text, bad))
    judged: dict[str, list[tuple[str, int]]] = {}
    beside = (folder / "qrels").is_dir()
    path = _found(folder / "qrels", f"{split}.tsv") if beside else _found(folder, "qrels.tsv")
    for query, text, grade in _good(path, _parse_judgement, bad):
        if query not in queries or text not in corpus:
            where = "queries.jsonl" if query not in queries else "corpus.jsonl"
            name = query if query not in queries else text
            problem = f"expected the id {name!r} of {path} in {where}, found none"
            if bad is None:
                raise InputError(problem)
            bad.add(problem)
            continue
        judged.setdefault(query, []).append((text, grade))
    for query, texts in judged.items():
        right = {corpus[t] for t, grade in texts if grade > 0}
        wrong = dict.fromkeys(corpus[t] for t, grade in texts if grade <= 0)
        negatives = [text for text in wrong if text not in right]
        for text, grade in texts:
            if grade > 0:
                yield Group(query=queries[query], texts=(corpus[text], *negatives))


# ---------------------------------------------------------------- lines


def _good(
    path: str | Path, parse: Callable[[str, str], Any], bad: BadLines | None
) -> Iterator[Any]:
    """Parsed lines; the bad ones are counted, or raise where nobody counts."""
    for number, raw in _numbered(path):
        where = f"{path}:{number}"
        try:
            value = parse(decode(raw, where), where)
        except InputError as error:
            if bad is None:
                raise
            bad.add(str(error))
            continue
        if value is not None:
            yield value


def _numbered(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers, without a byte order mark."""
    number = 0
    with open_binary(path) as file:
        try:
            for number, raw in enumerate(file, 1):
                raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                if raw.strip():
                    yield number, raw
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
            raise InputError(
                f"expected a whole compressed file, got one that breaks after line {number} of "
                f"{path} ({error}); fetch it again"
            ) from error


def decode(raw: bytes, where: str) -> str:
    """A line's text. Raises InputError that names `where` for what is no UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"expected UTF-8, got the byte 0x{raw[error.start]:02x} at {where}"
        ) from None


def _field(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"expected a non-empty string in {key!r} at {where}, got {value!r}")
    return value


def _parse_labelled(line: str, where: str) -> Group:
    row = parse_row(line, where)
    if "texts" not in row:
        return _pair_of(row, where)
    group = parse_group(line, where)
    if not group.labelled:
        raise InputError(f"expected a group whose first text is the positive at {where}")
    return group


def _parse_pair(line: str, where: str) -> Group:
    return _pair_of(parse_row(line, where), where)


def _pair_of(row: dict[str, Any], where: str) -> Group:
    positive = _field(row, "positive", where)
    if title := _title(row, where):
        positive = f"{title} {positive}"
    negatives = row.get("negatives") or []
    if row.get("negative") and isinstance(negatives, list):
        negatives = [row["negative"], *negatives]
    if not isinstance(negatives, list) or not all(isinstance(n, str) for n in negatives):
        raise InputError(f"expected strings in 'negatives' at {where}, got {negatives!r}")
    texts = tuple(dict.fromkeys([positive, *negatives]))
    query, lang = _field(row, "query", where), str(row.get("lang") or "")
    return Group(query=query, texts=texts, lang=lang, source=str(row.get("source") or ""))


def _parse_triple(line: str, where: str) -> tuple[str, ...]:
    columns = tuple(line.rstrip("\r\n").split("\t"))
    if len(columns) != 3 or not all(c.strip() for c in columns):
        raise InputError(
            f"expected query, positive and negative between tabs at {where}, got "
            f"{len(columns)} columns"
        )
    return columns


def _parse_text(line: str, where: str) -> tuple[str, str]:
    row = parse_row(line, where)
    name = row.get("_id")
    if isinstance(name, int) and not isinstance(name, bool):
        row["_id"] = str(name)
    if not row.get("text") and _title(row, where):  # a document may be a title alone
        return _field(row, "_id", where), _title(row, where)
    return _field(row, "_id", where), _text_of(row, where)


def _parse_document(line: str, where: str) -> str:
    return _text_of(parse_row(line, where), where)


def _text_of(row: dict[str, Any], where: str) -> str:
    text, title = _field(row, "text", where), _title(row, where)
    return f"{title} {text}" if title else text


def _title(row: dict[str, Any], where: str) -> str:
    """A row's title; "" where it has none."""
    title = row.get("title") or ""
    if not isinstance(title, str):
        raise InputError(f"expected a string in 'title' at {where}, got {title!r}")
    return title if title.strip() else ""


def _plain(line: str, where: str) -> str:
    return line.strip()


def _parse_judgement(line: str, where: str) -> tuple[str, str, int] | None:
    columns = line.split("\t") if line.count("\t") >= 2 else line.split()
    columns = [column.strip() for column in columns]
    if columns[0] in ("query-id", "query_id"):
        return None
    # BEIR has three columns; TREC has four, the second of them unused.
    if len(columns) not in (3, 4) or not re.fullmatch(r"-?[0-9]{1,10}", columns[-1]):
        raise InputError(f"expected query id, text id and grade at {where}, got {line.strip()!r}")
    return columns[0], columns[-2], int(columns[-1])


def _found(folder: Path, name: str) -> Path:
    for suffix in ("", ".gz", ".xz"):
        if (folder / (name + suffix)).exists():
            return folder / (name + suffix)
    raise InputError(f"expected {name} (or .gz, .xz) in {folder}; a BEIR folder has one")
