"""Collections by name, from the hub or ir_datasets: MIRACL, MLDR, MKQA, BEIR. It knows their files.

`miracl:sw`, `mldr:de`, `mkqa:ja`, `beir:scifact`, `irds:beir/scifact/test`.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from polyrank.errors import InputError, MissingDependencyError
from polyrank.evaluation.folders import check_collection, read_documents, read_queries
from polyrank.evaluation.reading import BadLines, numbered_lines, read_objects
from polyrank.evaluation.runs import read_qrels
from polyrank.evaluation.values import Collection, Notice
from polyrank.models import cache_folder, fetch_dataset

__all__ = ["LANGUAGES", "NAMED", "load_named"]

_WORDS = """
miracl ar bn de en es fa fi fr hi id ja ko ru sw te th yo zh
mldr ar de en es fr hi it ja ko pt ru th zh
mkqa ar da de en es fi fr he hu it ja km ko ms nl no pl pt ru sv th tr vi zh_cn zh_hk zh_tw
beir arguana climate-fever dbpedia-entity fever fiqa hotpotqa msmarco nfcorpus nq quora scidocs
 scifact trec-covid webis-touche2020
"""
LANGUAGES = {
    name: tuple(rest)
    for name, *rest in map(str.split, _WORDS.replace("\n ", " ").split("\n")[1:-1])
}
"""What each name takes after its colon: languages, and the sets of BEIR."""
_MKQA = "https://github.com/apple/ml-mkqa/raw/main/dataset/mkqa.jsonl.gz"
_NOT_RANKED = ("unanswerable", "binary", "long_answer")  # 6,619 of 10,000 queries are left


def load_named(name: str, *, split: str = "test", offline: bool = False) -> Collection:
    """Load a collection by name, downloading it once.

    Raises InputError for unknown names and for data that cannot be had, MissingDependencyError
    for `irds:` without ir_datasets.
    """
    kind, _, part = name.partition(":")
    if kind not in NAMED:
        raise InputError(f"expected one of {', '.join(NAMED)} before the colon, got {name!r}")
    if kind in LANGUAGES and part not in LANGUAGES[kind]:
        raise InputError(f"expected {kind}: with one of {', '.join(LANGUAGES[kind])}, got {name!r}")
    return check_collection(NAMED[kind](part, split, offline))


def _miracl(lang: str, split: str, offline: bool) -> Collection:
    """MIRACL's dev split, the one with public judgements (Zhang et al. 2023)."""
    head = f"miracl-v1.0-{lang}"
    topics = f"{head}/topics/topics.{head}-dev.tsv"
    judged = f"{head}/qrels/qrels.{head}-dev.tsv"
    root = fetch_dataset("miracl/miracl", [topics, judged], offline=offline)
    shards = f"miracl-corpus-v1.0-{lang}/docs-*.jsonl.gz"
    corpus = fetch_dataset("miracl/miracl-corpus", [shards], offline=offline)
    documents: dict[str, dict[str, Any]] = {}
    notices: list[Notice] = []
    for path in sorted(corpus.glob(shards)):
        found, noticed = read_documents(path)
        documents.update(found)
        notices += noticed
    queries = _tab_queries(root / topics)
    qrels, repeated = read_qrels(root / judged)
    return _of(
        f"miracl.{lang}",
        queries,
        documents,
        qrels=qrels,
        notices=(*notices, *repeated),
        languages=dict.fromkeys(queries, lang),
        language=lang,
    )


def _mldr(lang: str, split: str, offline: bool) -> Collection:
    """MLDR (Chen et al. 2024): long documents, one relevant document a query."""
    rows = f"mldr-v1.0-{lang}/{split}.jsonl.gz"
    corpus = f"mldr-v1.0-{lang}/corpus.jsonl.gz"
    root = fetch_dataset("Shitao/MLDR", [rows, corpus], offline=offline)
    documents, notices = read_documents(root / corpus)
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    expected = "an object with `query_id`, `query`, `positive_passages`"
    for _, row in read_objects(
        root / rows, expected, "query_id", "query", "positive_passages", "negative_passages"
    ):
        key = str(row["query_id"])
        queries[key] = row["query"]
        grades = {str(p["docid"]): 0 for p in row["negative_passages"]}
        qrels[key] = grades | {str(p["docid"]): 1 for p in row["positive_passages"]}
    return _of(
        f"mldr.{lang}",
        queries,
        documents,
        qrels=qrels,
        notices=tuple(notices),
        languages=dict.fromkeys(queries, lang),
        language=lang,
    )


def _mkqa(lang: str, split: str, offline: bool) -> Collection:
    """MKQA (Longpre et al. 2021): a query in any language over NQ's English passages.

    A passage is relevant if it holds an English answer; queries that are unanswerable or answered
    by yes, no or a paragraph are left out.
    """
    corpus = fetch_dataset("BeIR/nq", ["corpus.jsonl.gz"], offline=offline)
    documents, notices = read_documents(corpus / "corpus.jsonl.gz")
    queries, answers = {}, {}
    expected = "an object with `example_id`, `queries`, `answers`"
    for _, row in read_objects(_mkqa_file(offline), expected, "example_id", "queries", "answers"):
        given = row["answers"]["en"]
        if any(a["type"] in _NOT_RANKED for a in given):
            continue
        key = str(row["example_id"])
        texts = [t for a in given for t in (a["text"], *a.get("aliases", ())) if t]
        queries[key], answers[key] = row["queries"][lang], texts
    pair = lang if lang == "en" else f"{lang}>en"
    return _of(
        f"mkqa.{lang}",
        queries,
        documents,
        answers=answers,
        notices=tuple(notices),
        languages=dict.fromkeys(queries, pair),
        language="en",
    )


def _beir(name: str, split: str, offline: bool) -> Collection:
    """A public set of BEIR (Thakur et al. 2021)."""
    split = "validation" if (name, split) == ("msmarco", "test") else split  # as BEIR's tables do
    files = ["corpus.jsonl.gz", "queries.jsonl.gz"]
    root = fetch_dataset(f"BeIR/{name}", files, offline=offline)
    judged = fetch_dataset(f"BeIR/{name}-qrels", [f"{split}.tsv"], offline=offline)
    documents, notices = read_documents(root / files[0])
    queries, languages, found = read_queries(root / files[1], "en")
    qrels, repeated = read_qrels(judged / f"{split}.tsv")
    return _of(
        f"beir.{name}",
        queries,
        documents,
        qrels=qrels,
        languages=languages,
        language="en",
        notices=(*notices, *found, *repeated),
    )


def _irds(name: str, split: str, offline: bool) -> Collection:
    """Whatever ir_datasets knows by that name; its documents' `default_text`, or text and title."""
    try:
        import ir_datasets
    except ImportError as error:
        raise MissingDependencyError(
            "expected ir_datasets for irds: names; install it with: pip install ir_datasets"
        ) from error
    try:
        source = ir_datasets.load(name)
    except KeyError:
        raise InputError(f"expected a name that ir_datasets knows, got {name!r}") from None
    documents = {d.doc_id: _irds_document(d) for d in source.docs_iter()}
    queries = {q.query_id: _irds_text(q) for q in source.queries_iter()}
    qrels: dict[str, dict[str, int]] = {}
    for row in source.qrels_iter():
        qrels.setdefault(row.query_id, {})[row.doc_id] = int(row.relevance)
    lang = source.docs_lang() if hasattr(source, "docs_lang") else None
    return _of(
        name.replace("/", "."),
        queries,
        documents,
        qrels=qrels,
        language=lang,
        languages=dict.fromkeys(queries, lang) if lang else {},
    )


def _irds_document(row: Any) -> dict[str, Any]:
    text = row.text if hasattr(row, "text") else row.default_text()
    return {"id": row.doc_id, "text": text, "title": getattr(row, "title", "") or ""}


def _irds_text(row: Any) -> str:
    text = row.text if hasattr(row, "text") else row.default_text()
    return str(text)


def _of(name: str, queries: dict[str, str], documents: dict[str, Any], **more: Any) -> Collection:
    return Collection(name=name, queries=queries, documents=documents, **{"qrels": {}, **more})


def _tab_queries(path: Path) -> dict[str, str]:
    return dict(_split_lines(path))


def _split_lines(path: Path) -> Iterator[tuple[str, str]]:
    bad = BadLines(path, "`query-id TAB query`")
    for number, line in numbered_lines(path):
        key, tab, text = line.partition("\t")
        if tab and text.strip():
            yield key.strip(), text.strip()
        else:
            bad.add(number, f"{line[:40]!r}")
    bad.check()


def _mkqa_file(offline: bool) -> Path:
    """MKQA's one file, beside the hub's cache."""
    path = cache_folder() / "mkqa.jsonl.gz"
    if path.exists():
        return path
    if offline:
        raise InputError(f"expected MKQA at {path} (offline); fetch {_MKQA} and put it there")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        urllib.request.urlretrieve(_MKQA, part)
    except OSError as error:
        raise InputError(f"expected MKQA from {_MKQA}: {error}; put it at {path}") from error
    part.replace(path)
    return path


NAMED: dict[str, Callable[[str, str, bool], Collection]] = {
    "miracl": _miracl,
    "mldr": _mldr,
    "mkqa": _mkqa,
    "beir": _beir,
    "irds": _irds,
}
"""Kinds of names, and what loads them: (what follows the colon, split, offline)."""
