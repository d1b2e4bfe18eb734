"""Questions in another language than the passages, from a few lines of data."""

from __future__ import annotations

import gzip
import json
import lzma
import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
NAMES = ("Tesla", "Fresno", "Luther", "Harvard", "Newton", "Chopin")


@pytest.fixture(autouse=True)
def recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's scripts can be imported."""
    path = Path(__file__).parents[2] / "recipes" / "polyrank_mini"
    monkeypatch.syspath_prepend(str(path))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with lzma.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def _number(value: int) -> str:
    found = DIGITS[value % 64]
    while value := value // 64:
        found = DIGITS[value % 64] + found
    return found


def _dictionary(folder: Path, pair: str, entries: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    blob, index = b"", []
    for head, rest in {"00databaseinfo": "about", **entries}.items():
        entry = f"{head} /ipa/ <n>\n{rest}\n".encode()
        index.append(f"{head.lower()}\t{_number(len(blob))}\t{_number(len(entry))}\n")
        blob += entry
    (folder / f"freedict-{pair}.index").write_text("".join(index), encoding="utf-8")
    (folder / f"freedict-{pair}.dict.dz").write_bytes(gzip.compress(blob))


@pytest.fixture
def squad(tmp_path: Path) -> Path:
    """Two articles in four languages; one Spanish passage has lost its second half."""
    import crossings

    ends = {"da": "hviler", "es": "descansa", "it": "riposa", "en": "rests"}
    for lang, name in crossings.SQUAD.items():
        found = []
        for article in range(2):
            for i in range(6):
                text = f"{NAMES[i]}{article} {ends[lang]} {1900 + 10 * article + i}. " * 4
                if (lang, article, i) == ("es", 0, 3):
                    text = text[:25]
                row = {"lang": lang, "title": f"{NAMES[article]} {article}", "source": "squad"}
                row |= {"query": f"{lang}: {NAMES[i]}{article}?", "positive": text.strip()}
                if lang == "en":
                    row["negative"] = row.pop("positive")
                found.append(row)
        _write(tmp_path / f"train/{name}.jsonl.xz", found)
    return tmp_path


def test_a_question_meets_the_same_passage_in_another_language(squad: Path) -> None:
    import crossings

    groups = list(crossings.squads(squad, random.Random(0)))
    assert {g.lang for g in groups} == {"da", "es", "it", "en"}
    assert max(sum(g.query == other.query for g in groups) for other in groups) <= 2
    for one in groups:
        lang, name = one.query.rstrip("?").split(": ")
        assert lang not in (one.lang, "en")
        assert name in one.texts[0]
        assert not any(name in text for text in one.texts[1:])
        assert not (one.lang == "es" and name == "Harvard0")  # its answer may be cut off


def test_only_clear_pairs_in_order_are_kept() -> None:
    import crossings

    scores = np.array([[0.9, 0.1, 0.1], [0.1, 0.6, 0.55], [0.1, 0.1, 0.2]])
    assert crossings.mutual(scores, 0.3, 1.3) == [(0, 0)]
    assert crossings.in_order([(0, 0), (1, 3), (2, 1), (3, 2)]) == [(0, 0), (2, 1), (3, 2)]


def test_an_entry_gives_the_words_of_its_first_sense() -> None:
    import lexicons

    entry = (
        "boat, ship /bəʊt/ <n>\n1. [naut.] das Boot <neut>, Schiff (groß), ein alter Kahn\n2. Rad"
    )
    assert lexicons.senses(entry, "en", "de") == (["boat", "ship"], ["Boot", "Schiff"])
    assert lexicons.senses("go\n   Note: often\nI. <V> gehen", "en", "de") == (["go"], ["gehen"])


@pytest.fixture
def dictionaries(tmp_path: Path) -> Path:
    """English to German, German to French, and Danish to English the other way round."""
    folder = tmp_path / "dictionaries"
    words = {"boat": "Boot", "old": "alt", "carry": "tragen", "France": "Frankreich"}
    _dictionary(folder, "eng-deu", words)
    _dictionary(folder, "deu-fra", {"Boot": "bateau", "alt": "vieux", "tragen": "porter"})
    _dictionary(folder, "eng-dan", {"boat": "båd", "old": "gammel", "carry": "bære"})
    return folder


def test_a_folder_without_dictionaries_is_an_error(tmp_path: Path) -> None:
    import lexicons

    with pytest.raises(SystemExit, match="FreeDict's dictionaries"):
        lexicons.Lexicons(tmp_path, lambda lang: lexicons.Usual(lexicons.Counter(), set()))


def test_words_are_switched_directly_or_through_another_language(dictionaries: Path) -> None:
    import lexicons

    nothing = lexicons.Usual(lexicons.Counter(), {"the"})
    found = lexicons.Lexicons(dictionaries, lambda lang: nothing)
    rng = random.Random(0)
    german, french = (dict(found.of("en"))[lang] for lang in ("de", "fr"))
    text = "Boats carried the old Dutch France's"
    assert german.switched(text, rng) == ("Boot tragen alt Dutch Frankreich", 1.0)
    assert french.switched("the old boats of Boat", rng) == ("vieux bateau of Boat", 2 / 3)
    danish = dict(found.of("da"))
    assert set(danish) == {"de", "en", "fr"}
    assert danish["de"].switched("gammel båd", rng)[0] == "alt Boot"
    kept, _ = german.switched("old boat " * 40, rng, 0.5)
    assert {"old", "alt", "boat", "Boot"} == set(kept.split())


def test_switched_questions_keep_the_texts_of_their_group(
    tmp_path: Path, dictionaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import crossings

    monkeypatch.setattr(crossings, "COMMON", 0)
    rows = [
        {"query": f"old boat carry {name}", "positive": f"An old boat carries {name} {i}."}
        | {"lang": "en", "source": "boats", "split": "train"}
        for i, name in enumerate(NAMES)
    ]
    _write(tmp_path / "train/qa/boats.en.jsonl.xz", rows)
    (tmp_path / "train/negatives").mkdir()
    (tmp_path / "train/weak").mkdir()
    forbidden = {"old boat carry luther"}
    groups = list(crossings.switched(tmp_path, dictionaries, random.Random(0), forbidden))
    assert {g.source for g in groups} <= {"switched-de", "switched-fr", "switched-da"}
    assert len(groups) >= 5
    for one in groups:
        name = one.query.split()[-1]
        assert name != "Luther"
        assert name in one.texts[0]
        assert one.lang == "en"
