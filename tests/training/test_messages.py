"""Long messages of catalogues that the recipe reads: a mirror and packages of a few messages."""

from __future__ import annotations

import io
import json
import lzma
import struct
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "polyrank_mini"
STORY = (
    "The road to the north is long. In the winter of that year the river froze, and the people "
    "of the valley walked over the ice to the old mill."
)
TOLD = {
    "sv": "Vägen norrut är lång. Vintern det året frös floden till, och dalens folk gick över "
    "isen till den gamla kvarnen.",
    "de": "Der Weg nach Norden ist weit. Im Winter jenes Jahres fror der Fluss zu, und die Leute "
    "des Tals gingen über das Eis zur alten Mühle.",
    "ja": "北へ続く道はとても長く険しいものである。その年の冬には川が凍り、"
    "谷の人々は氷の上を歩いて古い水車小屋へ行った。",
    "fr": STORY,  # not translated
}


def mo(texts: dict[str, str], charset: str = "UTF-8") -> bytes:
    header = f"Content-Type: text/plain; charset={charset}\n"
    entries = [(b"", header.encode())]
    entries += [(key.encode(), text.encode(charset)) for key, text in sorted(texts.items())]
    place = 28 + 16 * len(entries)
    tables: list[bytes] = []
    blobs = b""
    for column in zip(*entries, strict=True):
        for blob in column:
            tables.append(struct.pack("<2I", len(blob), place + len(blobs)))
            blobs += blob + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(entries), 28, 28 + 8 * len(entries), 0, 0)
    return head + b"".join(tables) + blobs


def qm(texts: dict[str, list[str]]) -> bytes:
    def field(tag: int, value: bytes) -> bytes:
        return struct.pack(">BI", tag, len(value)) + value

    found = b""
    for key, forms in texts.items():
        found += b"".join(field(3, form.encode("utf-16-be")) for form in forms)
        found += field(6, key.encode()) + field(7, b"Activity") + b"\1"
    return b"<" + b"\0" * 15 + field(0x42, b"hashes") + field(0x69, found)


def package(files: dict[str, bytes]) -> tarfile.TarFile:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, blob in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(blob)
            archive.addfile(info, io.BytesIO(blob))
    return tarfile.open(fileobj=io.BytesIO(out.getvalue()))


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(RECIPE))
    import messages

    return messages


def read(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.jsonl.xz")):
        with lzma.open(path, "rt", encoding="utf-8") as file:
            rows += map(json.loads, file)
    return rows


def test_a_message_has_one_key_in_every_language(
    messages: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plural, again = f"{STORY}\0{STORY}", STORY.replace("north", "south")
    few = STORY.replace("winter", "summer")
    story, units, archive = {}, {}, io.BytesIO()
    for lang, text in TOLD.items():
        folder = f"./usr/share/locale/{lang}/LC_MESSAGES"
        told = {f"scene\4{STORY}": text, plural: f"{text}\0{text}", again: text, "Short.": "Kort."}
        story[f"{folder}/story.mo"] = mo(told | ({few: text} if lang in ("sv", "de") else {}))
        units[f"{folder}/units.mo"] = mo({again: text})
    story["./usr/share/locale/en_GB/LC_MESSAGES/story.mo"] = mo({STORY: f"{STORY} So it was."})
    with zipfile.ZipFile(archive, "w") as file:
        for lang in ("sv", "de", "ja"):
            file.writestr(f"{lang}/messages.mo", mo({STORY[:-1] + ", they say.": TOLD[lang]}))
    packages = {
        "http://mirror/story.deb": package(story),
        "http://mirror/units.deb": package(units),
        "http://mirror/books.deb": package({"./usr/share/books/locales.zip": archive.getvalue()}),
    }
    listed = [{"Package": name, "Filename": f"{name}.deb"} for name in ("story", "units", "books")]
    monkeypatch.setattr(messages, "packages", lambda mirror: iter(listed))
    monkeypatch.setattr(messages, "member", lambda url, name: packages[url])
    monkeypatch.setattr(messages, "PROJECTS", {"game": "story units", "books": "books"})
    out = tmp_path / "weak"
    given = ["messages", "--mirror", "http://mirror/", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", given)
    messages.main()
    found = {(row["source"], row["lang"]): row for row in read(out)}
    there = ("de", "en", "ja", "sv")  # the French one is English
    assert sorted(found) == [(f"messages-{p}", lang) for p in ("books", "game") for lang in there]
    assert len(read(out)) == len(found)  # one message of each: no plural, no twice, no few
    assert len({row["key"] for (source, _), row in found.items() if source[9:] == "game"}) == 1
    assert found["messages-game", "sv"] == {
        "lang": "sv",
        "query": "Vägen norrut är lång.",
        "positive": TOLD["sv"].split(". ", 1)[1],
        "source": "messages-game",
        "key": found["messages-game", "en"]["key"],
    }
    assert found["messages-game", "en"]["query"] == "The road to the north is long."


def test_catalogues_of_both_kinds_are_read(messages: Any) -> None:
    assert list(messages.gettext(mo({"one\4A key": "Ängar", "x\0xs": "y\0z"}, "ISO-8859-1"))) == [
        ("A key", "Ängar")
    ]
    assert list(messages.qt(qm({"A key": ["Ängar"], "%n keys": ["en", "flera"]}))) == [
        ("A key", "Ängar")
    ]
    tar = package({"./usr/share/translations/gcompris_pt_BR.qm": b"<", "./usr/share/x.mo": b""})
    assert list(messages.catalogues(tar)) == [("gcompris", "pt_BR", b"<")]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Press <b>&Open</b> &amp; wait.<br/>Then _close it.",
            "Press Open & wait.\nThen close it.",
        ),
        ("See <ref>dst='elves' text='the elves'</ref>.", "See the elves."),
        ("&lt;head/&gt;&lt;p&gt;Stars are far.&lt;/p&gt;", "Stars are far."),
        ("female^She is a healer.", "She is a healer."),
        ("%1 of %2 are left.", "%1 of %2 are left."),
        ("%s and %s and %s.", ""),
        ("Ask <the_smith> for a sword.", ""),
        ("usage: run --fast", ""),
    ],
)
def test_markup_is_left_out(messages: Any, text: str, expected: str) -> None:
    assert messages.plain(text) == expected


REST = "It grows in the woods of the north, and in the mountains of the east as well."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"The fir\n{REST}", ("The fir", REST)),
        (f"The fir is a tree. {REST}", ("The fir is a tree.", REST)),
        (f"Ah! The fir is a tree. {REST}", ("Ah! The fir is a tree.", REST)),
        ("The fir is a tree. It grows.", None),
        (f"{'The fir is a tree, ' * 9}they say. {REST}", None),
        (f"See https://example.org/fir. {REST}", None),
    ],
)
def test_the_query_is_a_title_or_the_first_sentence(
    messages: Any, text: str, expected: tuple[str, str] | None
) -> None:
    assert messages.cut(text) == expected
