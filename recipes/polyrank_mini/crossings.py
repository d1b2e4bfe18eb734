"""Real questions that are asked in another language than the passages.

    apt-get download $(apt-cache search dict-freedict | cut -d" " -f1 | grep ^dict-freedict)
    for package in *.deb; do dpkg-deb -x $package dictionaries; done
    python recipes/polyrank_mini/crossings.py --data ../shared/data \\
        --dictionaries dictionaries --out groups

Writes squads.jsonl (SQuAD's questions in Danish, Spanish and Italian over the same passages in
another of these languages or in English: the passages are aligned by what survives translation)
and switched.jsonl (questions and English headings put into another language word by word; a part
of them with only half of the words, in the texts too at times). The dictionaries of FreeDict are
under the GPL or CC BY-SA; each says which.
"""

from __future__ import annotations

import argparse
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from contrastive import clean, documentation, group, questions, sections, text_of
from lexicons import Lexicon, Lexicons, Usual
from passages import sentences
from sources import evaluation_texts, leaks, rows

from polyrank.training.groups import Group, write_groups
from polyrank.training.lexical import LexicalIndex, words

SQUAD = {
    "da": "qa/squad-da.da",
    "es": "qa/squad-es.es",
    "it": "qa/squad-it.it",
    "en": "negatives/squad2-dev.en",
}
LEAST, MARGIN = 0.30, 1.35  # of a passage's likeness to its translation, and over the next one's
SHORTEST = 0.75  # a passage, to its translation: some are cut
SAME_ARTICLE, LEXICAL, EASY = 5, 3, 2
SOURCES = {"en", "de", "es", "it", "fr", "pt", "da", "nb", "sv", "pl", "tr", "id", "sw"}
ROWS_PER_FILE, ROWS_READ, COMMON = 4000, 3000, 110
LEAST_SWITCHED = 0.6
MOST = 120_000  # groups of a file
TARGETS = 2  # languages that a question is asked over


class Passage(NamedTuple):
    """A passage and the questions that it answers."""

    title: str
    text: str
    questions: list[str]


def articles(data: Path, lang: str) -> list[list[Passage]]:
    """The passages of one language, article by article, in the file's order."""
    found: dict[str, dict[str, Passage]] = defaultdict(dict)
    for row in rows(data / f"train/{SQUAD[lang]}.jsonl.xz"):
        text, title = row.get("positive") or row["negative"], " ".join(row["title"].split())
        passage = found[title].setdefault(text, Passage(title.replace("_", " "), text, []))
        if "positive" in row:
            passage.questions.append(row["query"])
    return [list(keyed.values()) for keyed in found.values()]


def marks(text: str) -> set[str]:
    """What survives translation: numbers, names and beginnings of words, without accents."""
    bare = unicodedata.normalize("NFKD", text)
    bare = "".join(c for c in bare if not unicodedata.combining(c))
    numbers = {re.sub(r"\D", "", n) for n in re.findall(r"\d[\d.,]*", bare)}
    found = {w[:5].lower() for w in re.findall(r"[^\W\d_]{4,}", bare)}
    return numbers | found | {f"^{w[:6]}" for w in re.findall(r"[A-Z][^\W\d_]{2,}", bare)}


def likeness(one: list[set[str]], other: list[set[str]]) -> npt.NDArray[np.float64]:
    """[N, M] cosines of the marks that texts of two languages share, rare ones first."""
    common = set().union(*one) & set().union(*other)
    counts = Counter(m for found in (*one, *other) for m in found if m in common)
    total = len(one) + len(other)
    place = {m: i for i, m in enumerate(sorted(common))}

    def matrix(texts: list[set[str]]) -> npt.NDArray[np.float64]:
        values = np.zeros((len(texts), len(place)))
        for row, found in enumerate(texts):
            for mark in found & common:
                values[row, place[mark]] = np.log(1 + total / counts[mark])
        return np.asarray(values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9))

    return np.asarray(matrix(one) @ matrix(other).T)


def mutual(scores: npt.NDArray[np.float64], least: float, margin: float) -> list[tuple[int, int]]:
    """Pairs that are each other's best, by a margin over every other."""
    pairs = []
    for i, j in enumerate(scores.argmax(axis=1).tolist()):
        best = scores[i, j]
        others = max(
            np.delete(scores[i], j).max(initial=0), np.delete(scores[:, j], i).max(initial=0)
        )
        if best >= least and best >= margin * others:
            pairs.append((i, j))
    return pairs


def in_order(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The longest part of the pairs that keeps the order of both."""
    best: list[list[tuple[int, int]]] = []
    for pair in sorted(pairs):
        before = max((b for b in best if b[-1][1] < pair[1]), key=len, default=[])
        best.append([*before, pair])
    return max(best, key=len, default=[])


def same_articles(one: list[list[Passage]], other: list[list[Passage]]) -> list[tuple[int, int]]:
    """Places of the articles that exist in both languages."""
    found = [[marks(" ".join(p.text for p in a)) for a in side] for side in (one, other)]
    return mutual(likeness(*found), 0.1, 1.3)


def aligned(
    one: list[list[Passage]], other: list[list[Passage]]
) -> Iterator[tuple[Passage, list[Passage], Passage]]:
    """A passage of one language, the article in the other, and the same passage in that."""
    for a, b in same_articles(one, other):
        scores = likeness([marks(p.text) for p in one[a]], [marks(p.text) for p in other[b]])
        for i, j in in_order(mutual(scores, LEAST, MARGIN)):
            if len(other[b][j].text) >= SHORTEST * len(one[a][i].text):  # else part is missing
                yield one[a][i], other[b], other[b][j]


def squads(data: Path, rng: random.Random) -> Iterator[Group]:
    """SQuAD's questions in one language over its passages in another."""
    found = {lang: articles(data, lang) for lang in SQUAD}
    # English has articles besides that are kept for evaluation elsewhere.
    found["en"] = [found["en"][b] for _, b in same_articles(found["da"], found["en"])]
    over: dict[tuple[str, str], list[str]] = defaultdict(list)  # a question -> languages
    for lang, asking in found.items():
        for other in found:
            if lang != other:
                for passage, _, _ in aligned(asking, found[other]):
                    for query in passage.questions:
                        over[passage.text, query].append(other)
    chosen = {key: rng.sample(there, min(TARGETS, len(there))) for key, there in over.items()}
    for lang, asking in found.items():
        for other in found:
            pool = [p for article in found[other] for p in article]
            index = LexicalIndex([p.text for p in pool])
            for passage, article, own in aligned(asking, found[other]) if lang != other else ():
                hits, _ = index.search([sentences(own.text)[0]], 4 * LEXICAL)
                for query in passage.questions:
                    if other in chosen[passage.text, query]:
                        near = [p for p in article if p is not own]
                        near = rng.sample(near, min(len(near), SAME_ARTICLE))
                        best = [pool[i] for i in hits[0] if pool[i] not in (own, *near)][:LEXICAL]
                        rest = [
                            p for p in rng.sample(pool, EASY + 1) if p not in (own, *near, *best)
                        ]
                        texts = [shown(p, rng) for p in (*near, *best, *rest[:EASY])]
                        yield group(query, shown(own, rng), texts, other, "squads")


def shown(passage: Passage, rng: random.Random) -> str:
    """The passage as `contrastive` shows it, at times under its title."""
    return text_of({"title": passage.title, "text": passage.text}, "text", rng)


def usual(data: Path, lang: str) -> Usual:
    """The words in the texts of a language; common are those that most sets have often."""
    counts: Counter[str] = Counter()
    paths = [*(data / "train/qa").glob(f"*.{lang}.jsonl.xz"), data / f"train/weak/{lang}.jsonl.xz"]
    paths = [path for path in paths if path.exists()]
    sets: Counter[str] = Counter()
    for path in paths:
        found = list(islice(rows(path), ROWS_READ))
        texts = {r["positive"][:400] for r in found} | {r["query"] for r in found}
        here = Counter(word for text in texts for word in words(text))
        sets.update(word for word, _ in here.most_common(COMMON))
        counts += here
    return Usual(counts, {word for word, n in sets.items() if n >= 0.6 * len(paths)})


def over_english(one: Group) -> bool:
    """Whether a question is in another language than its texts, English: some of pira are."""
    found = [word for text in one.texts for word in words(text)]
    return one.lang != "en" and sum(w in ("the", "of", "and") for w in found) > 0.03 * len(found)


def switched(data: Path, folder: Path, rng: random.Random, forbidden: set[str]) -> Iterator[Group]:
    """Questions and headings whose words dictionaries put into another language."""
    lexicons = Lexicons(folder, lambda lang: usual(data, lang))
    groups: dict[str, list[Group]] = defaultdict(list)
    english = {cell: keyed for cell, keyed in sections(data).items() if cell[1] == "en"}
    for one in chain(questions(data, rng, ROWS_PER_FILE), documentation(english, rng)):
        if one.lang not in SOURCES or over_english(one):
            continue
        if not leaks((one.query, *one.texts), forbidden):
            groups[one.lang].append(one)
    for lang, asked in groups.items():
        into: dict[str, tuple[Lexicon, float]] = {}
        for other, lexicon in lexicons.of(lang) if lang in lexicons.languages else ():
            some = rng.sample(asked, min(len(asked), 200))
            reached = [lexicon.switched(g.query, rng)[1] for g in some]
            quality = sum(share >= LEAST_SWITCHED for share in reached) / len(reached)
            print(f"{lang}-{other}: {quality:.2f} of the questions", flush=True)
            if quality >= 0.3:
                into[other] = lexicon, quality**2 * (1 if lexicon.direct.found else 0.6)
        for one in asked if into else ():
            yield from switched_group(one, into, rng)


def switched_group(
    one: Group, into: dict[str, tuple[Lexicon, float]], rng: random.Random
) -> Iterator[Group]:
    """A group with its query in two other languages, and at times one with mixed words."""
    weights = [weight for _, weight in into.values()]
    for other in dict.fromkeys(rng.choices(list(into), weights, k=TARGETS)):
        query, share = into[other][0].switched(one.query, rng)
        if share >= LEAST_SWITCHED and query != one.query:
            yield replace(one, query=query, source=f"switched-{other}")
    if rng.random() < 1 / 3:
        [other] = rng.choices(list(into), weights)
        lexicon = into[other][0]
        query, texts = lexicon.switched(one.query, rng, 0.5)[0], one.texts
        if rng.random() < 0.5:
            texts = tuple(lexicon.switched(text, rng, 0.5)[0] for text in texts)
        if query != one.query:
            yield replace(one, query=query, texts=texts, source=f"switched-{other}")


def main() -> None:
    """Read the arguments and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dictionaries", type=Path, required=True, help="FreeDict's, unpacked")
    parser.add_argument("--seed", type=int, default=31)
    parser.add_argument("--only", nargs="*", help="files to write, by name; all without it")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    forbidden = evaluation_texts(args.data)
    files = {
        "squads": squads(args.data, random.Random(args.seed)),
        "switched": switched(args.data, args.dictionaries, random.Random(args.seed + 1), forbidden),
    }
    for name in args.only or files:
        kept, left_out = clean(files[name], forbidden)
        if len(kept) > MOST:
            kept = random.Random(args.seed).sample(kept, MOST)
        count = write_groups(args.out / f"{name}.jsonl", kept)
        print(f"{name}: {count} groups; left out {left_out} that touch a development pool")


if __name__ == "__main__":
    main()
