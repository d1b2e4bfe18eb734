"""A collection in a folder, as BEIR and our development pools lay it out. No network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from polyrank.errors import InputError
from polyrank.evaluation.reading import BadLines, find_file, read_objects
from polyrank.evaluation.runs import read_qrels, read_run
from polyrank.evaluation.values import Collection, Notice, Qrels, notice_of

__all__ = ["check_collection", "language_of", "read_collection", "read_documents", "read_queries"]

_QRELS = ("qrels.tsv", "qrels.txt", "qrels.trec", "qrels")
_CANDIDATES = ("bm25.top100.tsv", "candidates.tsv")
_PAIR = re.compile(r"([a-z]{2,3}(?:-\w+)*)>([a-z]{2,3}(?:-\w+)*):")
# Two letters, or three with a script: `faq.dev` and `faq.new` are no languages.
_SUFFIX = re.compile(r".+\.([a-z]{2}(?:-\w+)*|[a-z]{3}-\w+)")


def read_collection(folder: str | Path, *, split: str = "test") -> Collection:
    """Read a folder with corpus.jsonl, queries.jsonl and qrels; each plain, .gz or .xz.

    Qrels: `qrels.tsv`, `qrels.txt`, `qrels.trec`, or `qrels/SPLIT.tsv`. A run beside them,
    `bm25.top100.tsv` or `candidates.tsv`, becomes the collection's candidates. The language is the
    end of the folder's name (`qa-jaquad.ja`; two letters, or three with a script), or each query's
    `lang` field, or the head of its id (`de>ja:12`).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"expected a collection's folder, found none at {folder}; check the path")
    name = folder.resolve().name
    suffix = _SUFFIX.fullmatch(name)
    language = suffix.group(1) if suffix else None
    documents, notices = read_documents(_needed(folder, "corpus.jsonl"))
    queries, languages, found = read_queries(_needed(folder, "queries.jsonl"), language)
    qrels, repeated = read_qrels(_qrels_file(folder, split))
    candidates = None
    if path := find_file(folder, *_CANDIDATES):
        candidates, flat = read_run(path)
        repeated += flat
    return check_collection(
        Collection(
            name=name,
            queries=queries,
            documents=documents,
            qrels=qrels,
            languages=languages,
            language=language,
            candidates=candidates,
            notices=(*notices, *found, *repeated),
        )
    )


def check_collection(collection: Collection) -> Collection:
    """Compare ids across a collection's files; what does not fit becomes notices.

    Judged queries without a text are left out, since nothing can rank for them. Raises InputError
    if none is left.
    """
    documents, queries = collection.documents, collection.queries
    lost = [q for q in collection.qrels if q not in queries]
    qrels: Qrels = {q: grades for q, grades in collection.qrels.items() if q in queries}
    if not qrels and not collection.answers:
        raise InputError(
            f"expected judgements of the queries in {collection.name}, got {len(lost)} judged ids "
            f"that are none of its {len(queries)} queries (first: {', '.join(lost[:3])}); check "
            "that qrels and queries belong together"
        )
    unknown = [
        f"{q} {d}"
        for q, grades in qrels.items()
        for d, g in grades.items()
        if d not in documents and g > 0
    ]
    beside = [
        f"{q} {d}"
        for q, grades in qrels.items()
        for d, g in grades.items()
        if d not in documents and g <= 0
    ]
    barren = [q for q, grades in qrels.items() if max(grades.values()) < 1]
    blank = [d for d, row in documents.items() if not (row["text"].strip() or row.get("title"))]
    notices = [
        *collection.notices,
        *notice_of("judged queries have no text: left out of every average", lost),
        *notice_of(
            "relevant judgements name documents that are not in the corpus: they stay in "
            "the ideal ranking and cannot be found",
            unknown,
        ),
        *notice_of(
            "judgements of grade 0 name documents that are not in the corpus: no effect", beside
        ),
        *notice_of(
            "judged queries have no relevant document: they count as 0, as in trec_eval", barren
        ),
        *notice_of("documents are blank", blank),
    ]
    return replace(collection, qrels=qrels, notices=tuple(notices))


def read_documents(path: Path) -> tuple[dict[str, dict[str, Any]], list[Notice]]:
    """Documents of a corpus file by id: `_id`, `id` or `docid`; `text`; `title` if there is one.

    Raises InputError for malformed lines, an id with two different texts, and no documents.
    """
    bad = BadLines(path, "a JSON object with `_id` and `text`")
    documents: dict[str, dict[str, Any]] = {}
    repeated = []
    for number, row in read_objects(path, "a JSON object with `_id` and `text`", "text"):
        key = _key(row)
        title = row.get("title")
        document = {"id": key, "text": row["text"], "title": "" if title is None else title}
        if key is None or (wrong := _wrong(document)):
            bad.add(number, "no id" if key is None else wrong)
            continue
        known = documents.setdefault(key, document)
        if known is not document:
            if known != document:
                bad.add(number, f"the id {key!r} again, with another text,")
            repeated.append(key)
    bad.check()
    if not documents:
        raise InputError(f"expected documents, got an empty corpus at {path}")
    return documents, notice_of("documents are repeated word for word: read once", repeated)


def read_queries(
    path: Path, language: str | None = None
) -> tuple[dict[str, str], dict[str, str], list[Notice]]:
    """Queries by id, their languages by id, and what was noticed.

    Raises InputError for malformed lines, an id with two texts, a blank query, and no queries.
    """
    bad = BadLines(path, "a JSON object with `_id` and a `text` that is not blank")
    queries: dict[str, str] = {}
    languages: dict[str, str] = {}
    repeated = []
    for number, row in read_objects(path, "a JSON object with `_id` and `text`", "text"):
        key, text = _key(row), row["text"]
        if key is None or (wrong := _wrong({"id": key, "text": text})):
            bad.add(number, "no id" if key is None else wrong)
        elif not text.strip():
            bad.add(number, f"the text {text!r}")
        elif key not in queries:
            queries[key] = text
            languages[key] = language_of(key, row, language)
        elif queries[key] == text:
            repeated.append(key)
        else:
            bad.add(number, f"the id {key!r} again, with another text,")
    bad.check()
    if not queries:
        raise InputError(f"expected queries, got none at {path}")
    known = {key: value for key, value in languages.items() if value}
    return queries, known, notice_of("queries are repeated word for word: read once", repeated)


def language_of(key: str, row: Mapping[str, Any], default: str | None) -> str:
    """A query's language: its own field, the head of its id (`de>ja:12`), or the default; or ''."""
    stated = row.get("lang") or row.get("language")
    if isinstance(stated, str):
        return stated
    pair = _PAIR.match(key)
    return f"{pair.group(1)}>{pair.group(2)}" if pair else default or ""


def _key(row: Mapping[str, Any]) -> str | None:
    for name in ("_id", "id", "docid"):
        value = row.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and str(value).strip():
            return str(value)
    return None


def _wrong(fields: Mapping[str, Any]) -> str:
    """What is wrong with the first field that is no string of Unicode; '' where none is."""
    for name, value in fields.items():
        whose = "" if name == "id" else f" of {fields['id']!r}"
        if not isinstance(value, str):
            return f"the {name}{whose} as {type(value).__name__}"
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return f"the {name}{whose} with a lone surrogate"
    return ""


def _needed(folder: Path, name: str) -> Path:
    path = find_file(folder, name)
    if path is None:
        held = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise InputError(
            f"expected {name} (plain, .gz or .xz) in {folder}, found {held}; give the folder that "
            "holds corpus.jsonl, queries.jsonl and qrels"
        )
    return path


def _qrels_file(folder: Path, split: str) -> Path:
    path = find_file(folder, *_QRELS) or find_file(folder / "qrels", f"{split}.tsv")
    if path is None:
        splits = sorted(p.name for p in (folder / "qrels").glob("*")) or ["no qrels folder"]
        raise InputError(
            f"expected qrels.tsv or qrels/{split}.tsv in {folder}, found {', '.join(splits)}; name "
            "the split that exists"
        )
    return path
