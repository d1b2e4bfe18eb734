"""Groups with BM25's hard negatives, from questions and from aligned documentation.

    python recipes/polyrank_mini/contrastive.py --data ../shared/data --out groups

Writes qa.jsonl (questions, negatives from the same source), short.jsonl (the same, each text cut
to the stretch that shares most with the question), weak.jsonl (headings with their
sections, one language), cross.jsonl (a heading in one language, the sections in another, cut by
the heading that stands over them), headings.jsonl (a heading, and headings in another language),
openings.jsonl (a section's first sentence, and how sections of another language begin),
sentences.jsonl (any sentence of a section, and whole sections of another language) and
mixed.jsonl (a heading, and each section in a language of its own: a language is no answer).

With candidates from further down BM25's list: words.jsonl (more questions, with BM25's scores),
deep.jsonl (the same without them), whole.jsonl (a heading in one language, whole sections in
another), sections.jsonl (the same in one language) and spans.jsonl (words of a passage, and
passages that share them; nobody knows which answers).
"""

from __future__ import annotations

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from passages import best_stretch, rarity, sentences, span
from sources import allowed, evaluation_texts, leaks, rows

from polyrank.training.groups import Group, write_groups
from polyrank.training.lexical import LexicalIndex

HARD, EASY = 6, 2
ROWS_PER_FILE = 3000
SHORT_ROWS_PER_FILE = 800
WEAK_PER_SOURCE = 250  # of one language: much of it is about software
MIXED_PER_SOURCE = 200
ASKED_IN = 2  # languages that ask for one text of another
OPENING = 400  # characters of a section, for openings.jsonl
FOUND = 30  # of BM25's list, for groups with candidates from further down
DEEP_ROWS_PER_FILE = 9000
SECTIONS_PER_CELL = 160  # a source in a language
SPANS_PER_FILE, SPANS_PER_CELL = 700, 40
Row = dict[str, Any]
Sections = dict[tuple[str, str], dict[str, Row]]


def text_of(row: Row, key: str, rng: random.Random) -> str:
    """Title and text as documents are read, at times without the title."""
    title = row.get("title", "").replace("_", " ")
    return f"{title} {row[key]}" if title and rng.random() < 0.7 else str(row[key])


def sampled(
    path: Path, rng: random.Random, most: int
) -> tuple[list[Row], list[str], list[str], dict[str, int]]:
    """Rows of a question set, what BM25 is asked for each, all passages, and a passage's place."""
    found = list(rows(path))
    texts = list({r["positive"]: text_of(r, "positive", rng) for r in found}.values())
    place = {key: i for i, key in enumerate({r["positive"]: None for r in found})}
    chosen = rng.sample(found, min(len(found), most))
    asked = [r.get("query_translated") or r["query"] for r in chosen]
    return chosen, asked, texts, place


def questions(data: Path, rng: random.Random, most: int) -> Iterator[Group]:
    """Real questions; judged negatives come first, then BM25's best, then random ones."""
    judged: dict[str, list[str]] = defaultdict(list)
    for path in allowed(data / "train/negatives"):
        for row in rows(path):
            judged[row["query"]].append(text_of(row, "negative", rng))
    for path in allowed(data / "train/qa"):
        chosen, asked, texts, place = sampled(path, rng, most)
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


def documentation(found: Sections, rng: random.Random) -> Iterator[Group]:
    """A heading and the sections of one source, in one language."""
    for (source, lang), keyed in found.items():
        texts = [row["positive"] for row in keyed.values()]
        rows_ = list(keyed.values())
        for i, others in with_negatives([r["query"] for r in rows_], texts, rng, WEAK_PER_SOURCE):
            yield group(rows_[i]["query"], texts[i], [texts[j] for j in others], lang, source)


def languages_of(found: Sections) -> dict[str, list[str]]:
    """Source -> the languages that it exists in."""
    languages: dict[str, list[str]] = defaultdict(list)
    for source, lang in found:
        languages[source].append(lang)
    return languages


def across(found: Sections, rng: random.Random, kind: str) -> Iterator[Group]:
    """What asks is in one language, the texts are in another; `kind` as the file is named."""
    languages = languages_of(found)
    for (source, lang), keyed in found.items():
        keys = list(keyed)
        asked = [row["query"] for row in keyed.values()]
        texts = [row["positive"] for row in keyed.values()]
        weights = rarity(texts) if kind == "cross" else {}
        if kind == "headings":
            texts = asked
        elif kind == "openings":
            asked, texts = [opening(t) for t in texts], [t[:OPENING] for t in texts]
        for i, hits in with_negatives(asked, texts, rng, WEAK_PER_SOURCE):
            there = [o for o in languages[source] if o != lang and keys[i] in found[source, o]]
            if not there:
                continue
            chosen = [texts[i], *(texts[j] for j in hits)]
            if kind == "cross":
                chosen = [best_stretch(asked[i], t, weights) for t in chosen]
            for other in rng.sample(there, min(len(there), ASKED_IN)):
                row = found[source, other][keys[i]]
                query = asking(row, kind, rng)
                if len(query) >= 4 and query not in texts[i]:  # else it is not translated
                    yield group(query, chosen[0], chosen[1:], lang, source)


def asking(row: Row, kind: str, rng: random.Random) -> str:
    """What of a row asks in `across`; empty where it has no such sentence."""
    if kind == "openings":
        return opening(row["positive"])
    if kind == "sentences":
        found = [s for s in sentences(row["positive"]) if 20 <= len(s) <= 220]
        return rng.choice(found) if found else ""
    return str(row["query"])


def deeper(data: Path, rng: random.Random) -> Iterator[Group]:
    """Real questions with other candidates than `questions` has, and BM25's scores of them all."""
    for path in allowed(data / "train/qa"):
        chosen, asked, texts, place = sampled(path, rng, DEEP_ROWS_PER_FILE)
        for row, scores in zip(chosen, lexical_scores(texts, asked), strict=True):
            own = place[row["positive"]]
            others = [*further_down(scores, own, rng), rng.randrange(len(texts))]
            places = list(dict.fromkeys([own, *others]))
            one = group(
                row["query"], texts[own], [texts[i] for i in others], row["lang"], row["source"]
            )
            if "query_translated" not in row and len(places) == len(one.texts):
                least = min(scores.values(), default=0.0)  # the answer is not always found
                values = [scores.get(i, least if i == own else 0.0) for i in places]
                one = replace(one, scores=tuple(round(v, 2) for v in values))
            yield one


def whole_sections(found: Sections, rng: random.Random, kind: str) -> Iterator[Group]:
    """A heading, in the sections' own language or (`kind` whole) in another, and whole sections."""
    languages = languages_of(found)
    for (source, lang), keyed in found.items():
        keys, texts = list(keyed), [row["positive"] for row in keyed.values()]
        chosen = rng.sample(range(len(keys)), min(len(keys), SECTIONS_PER_CELL))
        asked = [keyed[keys[i]]["query"] for i in chosen]
        for i, query, scores in zip(chosen, asked, lexical_scores(texts, asked), strict=True):
            easy = rng.sample(range(len(keys)), EASY)
            others = [j for j in [*further_down(scores, i, rng, deep=2), *easy] if j != i]
            there = [o for o in languages[source] if o != lang and keys[i] in found[source, o]]
            queries = [query]
            if kind == "whole":
                some = rng.sample(there, min(len(there), ASKED_IN))
                queries = [found[source, other][keys[i]]["query"] for other in some]
            for query in queries:
                if kind != "whole" or (len(query) >= 4 and query not in texts[i]):
                    yield group(query, texts[i], [texts[j] for j in others], lang, source)


def spans(data: Path, found: Sections, rng: random.Random) -> Iterator[Group]:
    """Some words of a passage, and passages that share them; which of them answers is not said."""
    cells = [
        (r[0].get("passage_lang", r[0]["lang"]), [x["positive"] for x in r], SPANS_PER_FILE)
        for r in (list(rows(path)) for path in allowed(data / "train/qa"))
    ]
    for (_, lang), keyed in found.items():
        cells.append((lang, [row["positive"] for row in keyed.values()], SPANS_PER_CELL))
    for lang, passages, most in cells:
        texts = list(dict.fromkeys(passages))
        chosen = rng.sample(range(len(texts)), min(len(texts), most))
        asked = {i: query for i in chosen if (query := span(texts[i], rng))}
        lexical = lexical_scores(texts, list(asked.values()))
        for (i, query), scores in zip(asked.items(), lexical, strict=True):
            dropped = i if rng.random() < 0.5 else -1  # half of them without their own passage
            best = [j for j in scores if j != dropped][:3]
            others = [*best, *further_down(scores, dropped, rng, 2, 2), rng.randrange(len(texts))]
            made = group(query, texts[others[0]], [texts[j] for j in others[1:]], lang, "span")
            yield replace(made, labelled=False)


def lexical_scores(texts: list[str], asked: list[str]) -> Iterator[dict[int, float]]:
    """For each query what BM25 finds, best first: place of the text -> score."""
    hits, scores = LexicalIndex(texts).search(asked, FOUND)
    for hit, score in zip(hits.tolist(), scores.tolist(), strict=True):
        yield {i: s for i, s in zip(hit, score, strict=True) if s > 0}


def further_down(
    scores: dict[int, float], own: int, rng: random.Random, best: int = 4, deep: int = 3
) -> list[int]:
    """Some of the best ten, and some of those below, without the query's own text."""
    found = [i for i in scores if i != own]
    first, rest = found[:10], found[10:]
    return rng.sample(first, min(best, len(first))) + rng.sample(rest, min(deep, len(rest)))


def opening(text: str) -> str:
    """A text's first sentences: 30 to 200 characters of it."""
    found = ""
    for sentence in sentences(text):
        found = f"{found} {sentence}".strip()
        if len(found) >= 30:
            break
    return found[:200]


def with_negatives(
    asked: list[str], texts: list[str], rng: random.Random, most: int
) -> Iterator[tuple[int, list[int]]]:
    """For a sample of the rows: the row, and others that BM25 finds or chance picks."""
    chosen = rng.sample(range(len(texts)), min(len(texts), most))
    hits, _ = LexicalIndex(texts).search([asked[i] for i in chosen], 2 * HARD)
    for i, hit in zip(chosen, hits, strict=True):
        easy = rng.sample(range(len(texts)), EASY)
        yield i, [*[j for j in hit if j != i][:HARD], *(j for j in easy if j != i)]


def clean(groups: Iterable[Group], forbidden: set[str]) -> tuple[list[Group], int]:
    """The groups of at least four texts, and how many touch a development pool and are left out."""
    kept, left_out = [], 0
    for one in groups:
        if leaks((one.query, *one.texts), forbidden):
            left_out += 1
        elif len(one.texts) >= 4:
            kept.append(one)
    return kept, left_out


def main() -> None:
    """Read the arguments and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--only", nargs="*", help="files to write, by name; all without it")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(args.seed)
    forbidden = evaluation_texts(args.data)
    found = sections(args.data)
    files = {
        "headings": across(found, random.Random(args.seed + 3), "headings"),
        "openings": across(found, random.Random(args.seed + 4), "openings"),
        "cross": across(found, random.Random(args.seed + 5), "cross"),
        "sentences": across(found, random.Random(args.seed + 10), "sentences"),
        "mixed": mixed_languages(found, random.Random(args.seed + 2)),
        "weak": documentation(found, rng),
        "short": shortened(args.data, random.Random(args.seed + 1)),
        "qa": questions(args.data, rng, ROWS_PER_FILE),
        "words": deeper(args.data, random.Random(args.seed + 6)),
        "whole": whole_sections(found, random.Random(args.seed + 7), "whole"),
        "sections": whole_sections(found, random.Random(args.seed + 8), "sections"),
        "spans": spans(args.data, found, random.Random(args.seed + 9)),
    }
    for name in args.only or files:
        kept, left_out = clean(files[name], forbidden)
        count = write_groups(args.out / f"{name}.jsonl", kept)
        if name == "words":
            write_groups(args.out / "deep.jsonl", (replace(g, scores=None) for g in kept))
        print(f"{name}: {count} groups; left out {left_out} that touch a development pool")


if __name__ == "__main__":
    main()
