"""English groups scored by the teacher: BM25's candidates over short English passages.

    python recipes/polyrank_mini/english.py --data ../shared/data --teacher reranker_en \
        --out groups/english.jsonl

Queries are the English questions of the training data, its titles and headings; some are turned
into keywords, as people type them. Passages are cut to about 70 words, as in MS MARCO. Written
line by line in a shuffled order, so that any beginning of the file is a fair sample; a second
run goes on after the last line.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

import numpy as np
from sources import evaluation_texts, leaks, rows
from teacher import Teacher

from polyrank.training.lexical import LexicalIndex, words

QA = ("covid-faq.en", "covid-qa.en", "masakhanews.en", "pira.en", "pubmedqa.en")
WEAK = ("freecodecamp-guide", "gnome-help", "libreoffice-help", "hf-course", "opensource-guide")
WEAK += ("debian-reference", "debian-faq", "javascript-questions", "tldr", "monero-site")
STOP = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "by",
        "did",
        "do",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "how",
        "in",
        "is",
        "it",
        "of",
        "on",
        "or",
        "that",
        "the",
        "to",
        "was",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "whom",
        "why",
        "will",
        "with",
    ]
)
PASSAGE_WORDS = 70


def passages(text: str) -> list[str]:
    """Whole sentences up to about PASSAGE_WORDS words."""
    cut: list[list[str]] = [[]]
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", text):
        parts = sentence.split()
        if cut[-1] and len(cut[-1]) + len(parts) > PASSAGE_WORDS:
            cut.append([])
        cut[-1].extend(parts[: 2 * PASSAGE_WORDS])
    return [" ".join(p) for p in cut if len(p) >= 5]


def gather(data: Path, rng: random.Random) -> tuple[list[tuple[str, str]], list[str]]:
    """(query, source) pairs and the passages of all English sources."""
    queries: dict[str, str] = {}
    texts: dict[str, None] = {}
    for name in QA:
        for row in rows(data / f"train/qa/{name}.jsonl.xz"):
            queries[row["query"]] = row["source"]
            texts |= dict.fromkeys(passages(row["positive"]))
    for path in sorted((data / "train/qa").glob("afriqa.*.xz")):
        for row in rows(path):
            if row.get("passage_lang") == "en":
                queries[row.get("query_translated") or row["query"]] = "afriqa"
                texts |= dict.fromkeys(passages(row["positive"]))
    for row in rows(data / "train/negatives/squad2-dev.en.jsonl.xz"):
        queries[row["query"]] = row["source"]
        texts |= dict.fromkeys(passages(row["negative"]))
    weak = [r for r in rows(data / "train/weak/en.jsonl.xz") if r["source"] in WEAK]
    for row in weak:
        texts |= dict.fromkeys(passages(row["positive"])[:4])
    for row in rng.sample(weak, 2000):
        queries[row["query"]] = row["source"]
    forbidden = evaluation_texts(data)
    kept = [(q, s) for q, s in queries.items() if len(q) < 300 and not leaks((q,), forbidden)]
    return kept, [t for t in texts if not leaks((t,), forbidden)]


def as_typed(query: str, rng: random.Random) -> str:
    """A question as it stands, or as people type it: lower case, no mark, at times keywords."""
    kind = rng.random()
    if kind < 0.3:
        return query
    plain = query.lower().rstrip("?. ")
    if kind < 0.75:
        return plain
    kept = [w for w in words(plain) if w not in STOP]
    return " ".join(kept) if len(kept) >= 2 else plain


def main() -> None:
    """Read the arguments, search, score, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--candidates", type=int, default=14)
    parser.add_argument("--limit", type=int, default=10**9, help="groups to write at most")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    queries, texts = gather(args.data, rng)
    rng.shuffle(queries)
    queries = [(as_typed(q, rng), s) for q, s in queries][: args.limit]
    index, teacher = LexicalIndex(texts), Teacher(args.teacher)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    done = sum(1 for _ in args.out.open(encoding="utf-8")) if args.out.exists() else 0
    print(f"{len(queries)} queries, {len(texts)} passages, {done} groups done", flush=True)
    with args.out.open("a", encoding="utf-8") as out:
        for start in range(done, len(queries), 64):
            chunk = queries[start : start + 64]
            found, _ = index.search([q for q, _ in chunk], 60)
            draw = random.Random(args.seed + start)
            picked = [_pick(list(map(int, f)), args.candidates, draw) for f in found]
            pairs = [(q, texts[i]) for (q, _), p in zip(chunk, picked, strict=True) for i in p]
            scores = np.split(teacher.score(pairs), np.cumsum([len(p) for p in picked])[:-1])
            for (query, source), p, s in zip(chunk, picked, scores, strict=True):
                group = {"query": query, "texts": [texts[i] for i in p], "lang": "en"}
                scored = {"scores": [round(float(x), 3) for x in s], "source": f"english-{source}"}
                out.write(json.dumps(group | scored, ensure_ascii=False) + "\n")
            out.flush()
            print(f"{start + len(chunk)}/{len(queries)}", flush=True)


def _pick(found: list[int], n: int, rng: random.Random) -> list[int]:
    """BM25's best half, and a sample of what follows."""
    best = found[: n // 2]
    return best + rng.sample(found[n // 2 :], n - len(best))


if __name__ == "__main__":
    main()
