"""Lexicons from FreeDict's dictionaries, and texts switched word by word with them.

After Litschko, Artetxe, Glavas: Boosting Zero-shot Cross-lingual Retrieval by Training on
Artificially Code-Switched Data (Findings of ACL 2023).
"""

from __future__ import annotations

import gzip
import math
import random
import re
import string
import unicodedata
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from languages import MGTE, XLMR, language

NORWEGIAN = {"no": "nb"}
READ = {NORWEGIAN.get(lang, lang) for lang in MGTE | XLMR}
DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"

MARKS = r"[\u0300-\u036f\u064b-\u0652\u0900-\u0903\u093a-\u094f\u0951-\u0957\u0962\u0963\u30fb]"

ASIDE = re.compile(r"<[^>]*>|\[[^\]]*\]|\([^)]*\)|\{[^}]*\}?|\"[^\"]*\"|/[^/]*/")

GRAMMAR = {
    "en": r"^(?:to|the|an?) |\b(?:sb|sth|smb|smth)\b\.?|\b(?:somebody|something)\b",
    "de": r"^(?:sich|der|die|das) |\b(?:etw|jdn|jdm|jds|jd|sich)\b\.?",
    "sv": r"^att ",
    "da": r"^at ",
    "nb": r"^å ",
}

ELIDED = {
    "en": r"['’]s\b",
    "fr": r"\b(?:[ldnscjmt]|qu|jusqu|lorsqu|puisqu)['’] ?",
    "it": r"\b(?:[ldcs]|un|dell|all|nell|sull|dall|quell|quest|com|dov|cos)['’] ?",
}

ENDINGS = {
    "en": [("ies", "y"), ("es", ""), ("s", ""), ("ied", "y"), ("ed", ""), ("ed", "e"), ("d", "")]
    + [("ing", ""), ("ing", "e"), ("ly", ""), ("er", ""), ("er", "e"), ("est", "")]
    + [(c + c + end, c) for c in "bdglmnprt" for end in ("ed", "ing")],
}
MOST_OPTIONS, FREQUENT = 3, 400
TEXT = 50_000  # words that tell which are frequent
Options = list[tuple[str, float]]
Weighted = dict[str, dict[str, float]]


def languages_named(index: Path) -> tuple[str, str]:
    """The two languages of a dictionary, as `train` names them."""
    one, other = (language(name) for name in index.stem.split("-")[1:])
    return NORWEGIAN.get(one, one), NORWEGIAN.get(other, other)


def entries(index: Path) -> Iterator[str]:
    """The entries of a dictionary in dictd's format."""
    blob = gzip.decompress(index.with_suffix(".dict.dz").read_bytes())
    for line in index.read_text("utf-8").split("\n"):
        head, *places = line.split("\t")
        if len(places) == 2 and not head.startswith("00"):
            start, size = (
                sum(DIGITS.index(c) << 6 * i for i, c in enumerate(p[::-1])) for p in places
            )
            yield blob[start : start + size].decode("utf-8", "replace")


def tidy(text: str, lang: str) -> str:
    """A word or two, without what dictionaries add to them; empty for anything else."""
    text = unicodedata.normalize("NFKC", text.replace("~", " ").replace("\u2010", "-"))
    text = re.sub(r"(?<=[\u0400-\u04ff])\u0301", "", text)  # stress
    text = " ".join(re.sub(GRAMMAR.get(lang, r"^$"), "", " ".join(text.split())).split())
    if lang == "hu":
        text = text.translate(str.maketrans("ôûÔÛ", "őűŐŰ"))
    odd = not text or len(text.split()) > 2 or text[0] in "-'" or text[-1] in "-'"
    return "" if odd or re.search(r"[^\w\s'’-]", re.sub(MARKS, "", text)) else text


def senses(entry: str, one: str, other: str) -> tuple[list[str], list[str]]:
    """The headwords of an entry and the translations of its first sense."""
    first, _, rest = entry.partition("\n")
    heads = [tidy(part, one) for part in re.split(r"\s[/<\[(]", first)[0].split(",")]
    for line in rest.split("\n"):
        plain = re.sub(r"^\s*((\d+|[IVX]+)\.\s*)+", "", ASIDE.sub(" ", line)).strip()
        if plain and not re.match(r"(Note|Synonyms?|Antonyms?|see|cf)\s*:", plain):
            parts = re.split(r"[,;|]|\.(?:\s|$)|\s\d+\.", plain)
            return [h for h in heads if h], [t for p in parts if (t := tidy(p, other))][:4]
    return [], []


def translations(indexes: dict[tuple[str, str], Path], one: str, other: str) -> Weighted:
    """Single words of one language with their translations, from both directions' dictionaries."""
    found: Weighted = defaultdict(lambda: defaultdict(float))
    for source, target in ((one, other), (other, one)):
        times: Counter[str] = Counter()
        for entry in entries(indexes[source, target]) if (source, target) in indexes else ():
            heads, words_ = senses(entry, source, target)
            for head in heads:
                for i, word in enumerate(words_):
                    key, value = (head, word) if source == one else (word, head)
                    if " " not in key:
                        found[key][value] += 1 / (1 + times[head]) / (1 + i)
                times[head] += 1
    return found


def best(found: dict[str, float], often: Counter[str]) -> Options:
    """The few translations that are listed first and used most; their shares sum to 1."""
    scored = {
        text: s
        * (0.3 + math.log1p(min(often[w] for w in text.lower().split())))
        / len(text.split())
        for text, s in found.items()
    }
    kept = sorted(scored.items(), key=lambda item: -item[1])[:MOST_OPTIONS]
    kept = [(text, s) for text, s in kept if s >= 0.4 * kept[0][1]]
    total = sum(s for _, s in kept)
    return [(text, s / total) for text, s in kept]


class Table:
    """Words of one language with translations; finds the headword of an inflected word."""

    def __init__(self, found: Weighted, lang: str, often: Counter[str]) -> None:
        self.found = {head: best(counter, often) for head, counter in found.items()}
        self.order = sorted(self.found)
        self.lang = lang

    def options(self, word: str, *, name: bool = False) -> Options:
        """Translations of a word; of a name, those of exactly that, where they are names."""
        if name:
            return [(t, s) for t, s in self.found.get(word, ()) if t[0].isupper()]
        return self.found.get(self.headword(word), [])

    def headword(self, word: str) -> str:
        """The word itself, without its ending, or the one headword like it; else empty."""
        for form in (word, word.lower(), word.capitalize()):
            if form in self.found:
                return form
        word = word.lower()
        for ending, stem in ENDINGS.get(self.lang, ()):
            form = word.removesuffix(ending) + stem
            if word.endswith(ending) and len(form) >= 3 and form in self.found:
                return form
        if self.lang in ENDINGS or len(word) < 5:
            return ""
        prefix = word[: max(4, len(word) - 3)]
        place = bisect_left(self.order, prefix)
        near = [h for h in self.order[place : place + 7] if h.startswith(prefix)]
        near = [h for h in near if len(h) <= len(word) + 2]
        if 0 < len(near) < 6:
            return max(near, key=lambda h: (word.startswith(h[: len(word) - 1]), -len(h)))
        stems = (word[:n] for n in range(len(word) - 1, 3, -1) if self.lang == "tr")
        return next((s for s in stems if s in self.found), "")


class Usual(NamedTuple):
    """How often a language's words are used, and those that stand in any text of it."""

    often: Counter[str]
    common: set[str]


class Lexicon:
    """Translations from one language into another, direct or through a third."""

    def __init__(self, direct: Table, via: Via, words_of: dict[str, Usual], other: str) -> None:
        self.direct, self.via, self.often = direct, via, words_of[other].often
        self.known: dict[tuple[str, bool], Options] = {}
        self.common = words_of[direct.lang].common
        told = self.often.total() >= TEXT
        self.frequent = {word for word, _ in self.often.most_common(FREQUENT)} if told else None

    def options(self, word: str, *, name: bool = False) -> Options:
        """Translations of a word with their shares; those of a common word are common."""
        if (word, name) not in self.known:
            found = self.direct.options(word, name=name) or self.through(word, name)
            if word.lower() in self.common and self.frequent is not None:
                found = [(t, s) for t, s in found if t.lower() in self.frequent]
            self.known[word, name] = found
        return self.known[word, name]

    def through(self, word: str, name: bool) -> Options:
        """Translations of a word's translations into a third language."""
        for first, second in self.via:
            found: dict[str, float] = defaultdict(float)
            for middle, share in first.options(word, name=name):
                for text, part in second.options(middle, name=name):
                    found[text] += share * part
            if found:
                return best(found, self.often)
        return []

    def switched(self, text: str, rng: random.Random, share: float = 1.0) -> tuple[str, float]:
        """The text with a share of its words put into the other language, and how many were."""
        lang = self.direct.lang
        parts = re.split(r"([^\W\d_]+)", re.sub(ELIDED.get(lang, r"^$"), "", text))
        capitals = [word[0].isupper() for word in parts[1::2]]
        names = lang != "de" and sum(capitals) <= 0.6 * len(capitals)  # else it is a title
        content = done = 0
        for i in range(1, len(parts), 2):
            word = parts[i]
            before = "".join(parts[max(0, i - 3) : i]).rstrip()
            first = not before or before[-1] in '.?!:¿¡"“„«'
            name = names and word[0].isupper() and not first
            if rng.random() >= share:
                continue
            options = self.options(word, name=name)
            rare = not name and word.lower() not in self.common
            content += rare
            if options:
                parts[i] = rng.choices(*zip(*options, strict=True))[0]
                done += rare
                if first and word[0].isupper():
                    parts[i] = parts[i][0].upper() + parts[i][1:]
            elif share == 1 and not name and word.lower() in self.common:
                parts[i] = ""  # an article that the other language has not
        return " ".join("".join(parts).split()), done / max(1, content)


Via = list[tuple[Table, Table | Lexicon]]


class Lexicons:
    """Lexicons of all pairs of languages, from a folder of dictionaries."""

    def __init__(self, folder: Path, usual: Callable[[str], Usual]) -> None:
        found = {languages_named(p): p for p in sorted(folder.rglob("freedict-*.index"))}
        self.indexes = {k: p for k, p in found.items() if not set(k) - READ and k[0] != "ja"}
        if not self.indexes:
            raise SystemExit(
                f"expected FreeDict's dictionaries under {folder}, as freedict-eng-deu.index and "
                "freedict-eng-deu.dict.dz; got none of languages that are read; unpack Debian's "
                "dict-freedict-* packages there"
            )
        self.languages = sorted({lang for pair in self.indexes for lang in pair})
        self.usual = {lang: usual(lang) for lang in self.languages}
        self.table = cache(self._table)
        self.english = cache(self._english)

    def _table(self, one: str, other: str) -> Table:
        return Table(translations(self.indexes, one, other), one, self.usual[other].often)

    def _english(self, other: str) -> Lexicon:
        """From English, through German where nothing is direct."""
        via: Via = []
        if other != "de" and "de" in self.languages:
            via = [(self.table("en", "de"), self.table("de", other))]
        return Lexicon(self.table("en", other), via, self.usual, other)

    def of(self, one: str) -> Iterator[tuple[str, Lexicon]]:
        """From one language into every other that there is a way to."""
        for other in self.languages:
            if other == one:
                continue
            if one == "en":
                yield other, self.english(other)
            elif other == "en":
                yield other, Lexicon(self.table(one, "en"), [], self.usual, other)
            else:
                via: Via = []
                if "en" in self.languages:
                    via = [(self.table(one, "en"), self.english(other))]
                often = self.usual[other].often
                direct = Table(translations(self.indexes, one, other), one, often)
                yield other, Lexicon(direct, via, self.usual, other)
