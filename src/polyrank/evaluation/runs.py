"""Runs and qrels as files: TREC's columns and ours. Knows no corpus."""

from __future__ import annotations

import gzip
import lzma
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from polyrank.errors import InputError
from polyrank.evaluation.reading import BadLines, numbered_lines
from polyrank.evaluation.values import Notice, Qrels, Run, notice_of

__all__ = ["read_qrels", "read_run", "write_run"]

_RUN = "`query Q0 document rank score tag` or `query TAB document TAB score`"
_QRELS = "`query TAB document TAB grade` or `query 0 document grade`"
_HEADS = {"query", "query-id", "query_id", "queryid", "qid", "topic", "topic-id", "topic_id"}
_TAILS = {"score", "relevance", "relevant", "rel", "label", "grade"}
_GREATEST = 2**31 - 1  # grades are int32
_Number = TypeVar("_Number", int, float)


def read_run(path: str | Path) -> tuple[Run, list[Notice]]:
    """Read a run: TREC's six columns, or `query TAB document TAB score` (also .gz, .xz).

    Three columns may have a header. Ranks and tags are not used: as in trec_eval, the scores make
    the order. Raises InputError for malformed lines, scores that are not finite, a document twice
    under a query, and no lines.
    """
    path = Path(path)
    bad = BadLines(path, _RUN)
    run: dict[str, dict[str, float]] = {}
    for number, fields in _rows(path, bad, (3, 6)):
        query, document, text = fields if len(fields) == 3 else (fields[0], fields[2], fields[4])
        score = _number(text, float)
        if score is None:
            if not _is_header(number, fields):
                bad.add(number, f"the score {text!r}")
        elif not math.isfinite(score):
            bad.add(number, f"the score {text!r}, which is not finite,")
        elif document in run.setdefault(query, {}):
            bad.add(number, f"document {document!r} a second time for query {query!r}")
        else:
            run[query][document] = score
    bad.check()
    if not run:
        raise InputError(
            f"expected lines {_RUN}, got an empty run at {path}; check how it was made"
        )
    flat = [q for q, docs in run.items() if len(docs) > 1 and len(set(docs.values())) == 1]
    return run, notice_of(
        "queries of the run have equal scores throughout: their order is that of document ids, "
        "backwards, as in trec_eval",
        flat,
    )


def read_qrels(path: str | Path) -> tuple[Qrels, list[Notice]]:
    """Read judgements: three columns, with or without a header, or TREC's four (also .gz, .xz).

    Raises InputError for malformed lines, two grades for one pair, and no lines.
    """
    path = Path(path)
    bad = BadLines(path, _QRELS)
    qrels: dict[str, dict[str, int]] = {}
    repeated = []
    for number, fields in _rows(path, bad, (3, 4)):
        query, document, text = fields if len(fields) == 3 else (fields[0], fields[2], fields[3])
        grade = _number(text, _grade)
        if grade is None:
            if not _is_header(number, fields):
                bad.add(number, f"the grade {text!r}")
        elif abs(grade) > _GREATEST:
            bad.add(number, f"the grade {text!r}, which is over {_GREATEST:,},")
        elif (known := qrels.setdefault(query, {}).get(document)) is None:
            qrels[query][document] = grade
        elif known == grade:
            repeated.append(f"{query} {document}")
        else:
            bad.add(
                number, f"grades {known} and {grade} for query {query!r}, document {document!r}"
            )
    bad.check()
    if not qrels:
        raise InputError(f"expected lines {_QRELS}, got no judgement at {path}")
    return qrels, notice_of("judgements are repeated with the same grade: counted once", repeated)


def write_run(run: Mapping[str, Mapping[str, float]], path: Path, *, tag: str) -> None:
    """Write a run in TREC's six columns, packed if `path` ends in .gz or .xz."""
    opened = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    with opened(path, "wt", encoding="utf-8", newline="\n") as file:  # type: ignore[operator]
        for query, scores in run.items():
            order = sorted(sorted(scores, reverse=True), key=scores.__getitem__, reverse=True)
            for rank, document in enumerate(order, start=1):
                file.write(f"{query}\tQ0\t{document}\t{rank}\t{float(scores[document])!r}\t{tag}\n")


def _rows(path: Path, bad: BadLines, columns: tuple[int, int]) -> Iterator[tuple[int, list[str]]]:
    for number, line in numbered_lines(path):
        fields = line.split("\t") if line.count("\t") >= 2 else line.split()
        fields = [f.strip() for f in fields]
        if len(fields) not in columns or not all(fields):
            bad.add(number, f"{len(fields)} columns ({line.strip()[:40]!r})")
        else:
            yield number, fields


def _is_header(number: int, fields: Sequence[str]) -> bool:
    """Whether a line without a number names its columns, as BEIR's `query-id corpus-id score`."""
    named = fields[0].lower() in _HEADS or fields[-1].lower() in _TAILS
    return number == 1 and len(fields) == 3 and named


def _number(text: str, kind: Callable[[str], _Number]) -> _Number | None:
    try:
        return kind(text) if "_" not in text else None  # which Python takes for a separator
    except (ValueError, OverflowError):
        return None


def _grade(text: str) -> int:
    """A whole number, as trec_eval reads it: some tools write 1.0."""
    grade = float(text)
    if grade != int(grade):
        raise ValueError(text)
    return int(grade)
