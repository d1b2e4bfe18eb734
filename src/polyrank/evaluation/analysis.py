"""Text -> terms for BM25, for every script: words, or characters where a script has no spaces."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import islice

__all__ = ["ENGLISH_STOPWORDS", "STEMMED", "Analyzer", "guess_language"]

_ALPHABETS = (
    "\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai
    "\u0e80-\u0ece"  # Lao
    "\u0f40-\u0fbc"  # Tibetan
    "\u1000-\u103f\u1050-\u108f\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17d3"  # Khmer
)
_CHARACTERS = (
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"  # kana
    "\u2e80-\u2fdf\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Han
)
# Accents of Latin, Greek and Cyrillic; points of Hebrew; vowel signs of Arabic. The marks of other
# scripts are letters in all but name.
_ACCENTS = re.compile("[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0640]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
STEMMED = {
    "ar": "arabic", "ca": "catalan", "da": "danish", "de": "german", "el": "greek",
    "en": "english", "es": "spanish", "eu": "basque", "fi": "finnish", "fr": "french",
    "ga": "irish", "hi": "hindi", "hu": "hungarian", "hy": "armenian", "id": "indonesian",
    "it": "italian", "lt": "lithuanian", "nb": "norwegian", "ne": "nepali", "nl": "dutch",
    "no": "norwegian", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian",
    "sv": "swedish", "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}  # fmt: skip
"""Languages that PyStemmer has an algorithm for."""
ENGLISH_STOPWORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by for if in into is it no not of on or such that the their "
        "then there these they this to was will with",
    )
)


class Analyzer:
    """Terms of a text: NFKC, case and accents folded, stemmed where the language is known.

    Runs of Han and kana become overlapping pairs of characters, runs of Thai, Lao, Khmer, Myanmar
    and Tibetan overlapping triples; everything else is split into words. `language`:
    ISO 639-1; None: no stemming. PyStemmer stems where it is installed; `stemmed` says so.
    """

    def __init__(self, language: str | None = None, *, stem: bool = True) -> None:
        self._stem = _stemmer(language) if stem else None
        self._stopwords = ENGLISH_STOPWORDS if language == "en" else frozenset[str]()
        self.stemmed = self._stem is not None
        self._pieces = _pieces()

    def __call__(self, text: str) -> list[str]:
        """Terms in the order of the text, repeated ones repeated."""
        words: list[str] = []
        grams: list[str] = []
        for characters, letters, word in self._pieces.findall(fold(text)):
            if not word:
                grams += _grams(characters, 2) if characters else _grams(letters, 3)
            elif word not in self._stopwords:
                words.append(word)
        return (self._stem(words) if self._stem else words) + grams


def fold(text: str) -> str:
    """NFKC and case folded, accents removed."""
    text = text.casefold()
    if not _NOT_ASCII.search(text):
        return text
    text = unicodedata.normalize("NFKD", text).casefold()
    return unicodedata.normalize("NFC", _ACCENTS.sub("", text))


def guess_language(texts: Iterable[str]) -> str | None:
    """ "en" where a fifth of the words of the first 200 texts are English function words."""
    words = [w for text in islice(texts, 200) for w in re.findall(r"\w+", text[:2000].lower())]
    common = sum(w in ENGLISH_STOPWORDS for w in words)
    return "en" if words and common >= len(words) / 5 else None


@lru_cache(maxsize=1)
def _pieces() -> re.Pattern[str]:
    # Python's \w lacks the marks that write the vowels of most Indian scripts.
    marks = "".join(
        chr(c)
        for c in range(0x300, min(sys.maxunicode, 0x1F000))
        if unicodedata.category(chr(c)) in ("Mn", "Mc")
    )
    unspaced = _CHARACTERS + _ALPHABETS
    return re.compile(f"([{_CHARACTERS}]+)|([{_ALPHABETS}]+)|((?:(?![{unspaced}_])[\\w{marks}])+)")


def _grams(run: str, n: int) -> list[str]:
    # A piece shorter than n is a term of its own.
    return [run[i : i + n] for i in range(max(1, len(run) - n + 1))]


def _stemmer(language: str | None) -> Callable[[list[str]], list[str]] | None:
    name = STEMMED.get(language or "")
    if name is None:
        return None
    try:
        from Stemmer import Stemmer, algorithms
    except ImportError:
        return None
    if name not in algorithms():
        return None
    stemmer = Stemmer(name)

    def stem(words: list[str]) -> list[str]:
        return list(stemmer.stemWords(words))

    return stem
