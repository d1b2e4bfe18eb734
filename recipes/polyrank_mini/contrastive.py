"""Groups with BM25's hard negatives, from questions and from aligned documentation.

    python recipes/polyrank_mini/contrastive.py --data ../shared/data --out groups

Writes qa.jsonl (questions, negatives from the same source), short.jsonl (the same, each text cut
to the stretch that shares most with the question), weak.jsonl (headings with their
sections, one language), cross.jsonl (a heading in one language, the sections in another) and
mixed.jsonl (a heading, and each section in a language of its own: a language is no answer).
"""

from __future__ import annotations

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from passages import best_stretch, rarity
from sources import allowed, evaluation_texts, leaks, rows

from polyrank.training.groups import Group, write_groups
from polyrank.training.lexical import LexicalIndex

HARD, EASY = 6, 2
ROWS_PER_FILE = 3000
SHORT_ROWS_PER_FILE = 800
WEAK_PER_SOURCE = 250  # of one language: much of it is about software
MIXED_PER_SOURCE = 40
Row = dict[str, Any]
Sections = dict[tuple[str, str], dict[str, Row]]


def text_of(row: Row, key: str, rng: random.Random) -> str:
    """Title and text as documents are read, at times without the title."""
    title = row.get("title", "").replace("_", " ")
    return f"{title} {row[key]}" if title and rng.random() < 0.7 else str(row[key])


def questions(data: Path, rng: random.Random, most: int) -> Iterator[Group]:
    """Real questions; judged negatives come first, then BM25's best, then random ones."""
    judged: dict[str, list[str]] = defaultdict(list)
    for path in allowed(data / "train/negatives"):
        for row in rows(path):
            judged[row["query"]].append(text_of(row, "negative", rng))
    for path in allowed(data / "train/qa"):
        found = list(rows(path))
        texts = list({r["positive"]: text_of(r, "positive", rng) for r in found}.values())
        place = {key: i for i, key in enumerate({r["positive"]: None for r in found})}
        chosen = rng.sample(found, min(len(found), most))
        asked = [r.get("query_translated") or r["query"] for r in chosen]
        hits, _ = LexicalIndex(texts).search(asked, 3 * HARD)
        for row, hit in zip(chosen, hits, strict=True):
            own = place[row["positive"]]
            hard = [texts[i] for i in hit if i != own][:HARD]
            hard = judged.get(row["query"], [])[:2] + hard
            easy = rng.sample(texts, min(EASY, len(texts)))
            yield group(row["query"], texts[own], hard + easy, row["lang"], row["source"])


def shortened(data: Path, rng: random.Random) -> Iterator[Group]:
    """The groups of `questions`, every text cut to its best stretch."""
    weights: dict[str, float] = {}
    last = None
    for one in questions(data, rng, SHORT_ROWS_PER_FILE):
        if (one.source, one.lang) != last:
            last = (one.source, one.lang)
            path = data / f"train/qa/{one.source}.{one.lang}.jsonl.xz"
            found = {r["positive"] for r in rows(path)} if path.exists() else set(one.texts)
            weights = rarity(found)
        texts = [best_stretch(one.query, text, weights) for text in one.texts]
        yield group(one.query, texts[0], texts[1:], one.lang, one.source)


def group(query: str, positive: str, negatives: list[str], lang: str, source: str) -> Group:
    """A labelled group without repeated texts."""
    texts = tuple(dict.fromkeys([positive, *negatives]))
    return Group(query=query, texts=texts, lang=lang, source=source)


def sections(data: Path) -> Sections:
    """(source, language) -> key -> row, less headings that stand over several sections."""
    found: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for path in sorted((data / "train/weak").glob("*.xz")):
        for row in rows(path):
            found[row["source"], row["lang"]][row["key"]] = row
    for cell, keyed in found.items():
        counts = Counter(r["query"] for r in keyed.values())
        found[cell] = {
            k: r
            for k, r in keyed.items()
            if counts[r["query"]] == 1 and 4 <= len(r["query"]) <= 200 and len(r["positive"]) > 40
        }
    return {cell: keyed for cell, keyed in found.items() if len(keyed) >= 8}


def mixed_languages(found: Sections, rng: random.Random) -> Iterator[Group]:
    """Groups whose texts are sections of one source, each in any language that it exists in."""
    there: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (source, lang), keyed in found.items():
        for key in keyed:
            there[source, key].append(lang)
    for (source, lang), keyed in found.items():
        keys = list(keyed)
        chosen = rng.sample(range(len(keys)), min(len(keys), MIXED_PER_SOURCE))
        asked = [keyed[keys[i]]["query"] for i in chosen]
        hits, _ = LexicalIndex([r["positive"] for r in keyed.values()]).search(asked, 2 * HARD)
        for i, query, hit in zip(chosen, asked, hits, strict=True):
            if len(there[source, keys[i]]) < 3:
                continue
            others = [keys[j] for j in hit if j != i][:HARD] + rng.sample(keys, EASY)
            texts = [
                found[source, rng.choice(there[source, key])][key]["positive"]
                for key in dict.fromkeys((keys[i], *others))
            ]
            yield group(query, texts[0], texts[1:], lang, source)


def documentation(found: Sections, rng: random.Random) -> tuple[list[Group], list[Group]]:
    """(same language, across languages) groups over the sections of one source."""
    languages: dict[str, list[str]] = defaultdict(list)
    for source, lang in found:
        languages[source].append(lang)
    same_language, across = [], []
    for (source, lang), keyed in found.items():
        keys = list(keyed)
        texts = [keyed[k]["positive"] for k in keys]
        chosen = rng.sample(range(len(keys)), min(len(keys), WEAK_PER_SOURCE))
        hits, _ = LexicalIndex(texts).search([keyed[keys[i]]["query"] for i in chosen], 2 * HARD)
        for i, hit in zip(chosen, hits, strict=True):
            hard = [texts[j] for j in hit if j != i][:HARD]
            negatives = hard + rng.sample(texts, EASY)
            asked = keyed[keys[i]]["query"]
            same_language.append(group(asked, texts[i], negatives, lang, source))
            others = [o for o in languages[source] if o != lang and keys[i] in found[source, o]]
            if others:
                other = found[source, rng.choice(others)][keys[i]]["query"]
                across.append(group(other, texts[i], negatives, lang, source))
    return same_language, across


def main() -> None:
    """Read the arguments and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(args.seed)
    forbidden = evaluation_texts(args.data)
    found = sections(args.data)
    weak, cross = documentation(found, rng)
    mixed = mixed_languages(found, random.Random(args.seed + 2))
    short = shortened(args.data, random.Random(args.seed + 1))
    qa = questions(args.data, rng, ROWS_PER_FILE)
    files = (("short", short), ("cross", cross), ("mixed", mixed), ("weak", weak), ("qa", qa))
    for name, groups in files:
        kept, left_out = [], 0
        for one in groups:
            if leaks((one.query, *one.texts), forbidden):
                left_out += 1
            elif len(one.texts) >= 4:
                kept.append(one)
        count = write_groups(args.out / f"{name}.jsonl", kept)
        print(f"{name}: {count} groups; left out {left_out} that touch a development pool")


if __name__ == "__main__":
    main()
