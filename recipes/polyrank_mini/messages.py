"""Long translated messages of games and of programs for school, home and hobby: `train/weak`.

    python recipes/polyrank_mini/messages.py --mirror MIRROR --out MORE/train/weak

`--mirror` is a mirror of Debian, as for documents.py; the packages are read from it. A message
is cut after its first sentence, or after its title, which is the query. The same `source` and
`key` in two languages are the same message, and what has stayed English is left out.

| source | what | licence of the package |
|---|---|---|
| messages-wesnoth | stories of the campaigns, units, help | GPL-2+ |
| messages-cataclysm | things, creatures and talk of a role-playing game | CC BY-SA 3.0 |
| messages-freeciv | peoples, technology, rules | GPL-2+ |
| messages-ufoai | research and reports of a game | GPL-2+ |
| messages-gcompris | how children's exercises work | GPL-3+, one translation LGPL |
| messages-kstars, -step, -kig, -kturtle | astronomy, physics, geometry, programming | GPL-2+ |
| messages-kalzium | chemistry | GPL-2+ |
| messages-gbrainy | riddles | GPL-2+ |
| messages-gramps | genealogy | GPL-2+ |
| messages-gnucash, -kmymoney | accounts and money | GPL-2+ |
| messages-gnumed | a doctor's practice | GPL-2+ |
| messages-calibre | books | GPL-3 |
| messages-workrave | exercises for the body at a desk | GPL-3+ |
| messages-klavaro | lessons in typing | GPL-3+ |
| messages-minetest | settings of a game | LGPL-2.1+ |
| messages-pychess | chess and how to play it | GPL-3+ |
| messages-ksirk, -manaplus | settings of games | GPL-2+, GPL-2 |

Left out: freedombox (AGPL); widelands, warzone2100 and freedroidrpg (130 to 370 MB each);
supertux and pingus (no compiled catalogue); aisleriot, marble, unknown-horizons, tuxpaint,
tuxmath and lordsawar (fewer than ten long messages).
"""

from __future__ import annotations

import argparse
import hashlib
import html
import io
import re
import struct
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from documents import Row, language_of, member, packages, tidy, translated, write_rows
from passages import sentences

CAMPAIGNS = """
    did dm dw ei httt l low nr sof sota sotbe thot trow tsg ttb utbs
"""
PROJECTS = {
    "wesnoth": " ".join(f"wesnoth-1.16-{name}" for name in ["data", *CAMPAIGNS.split()]),
    "cataclysm": "cataclysm-dda-data",
    "freeciv": "freeciv-data",
    "gcompris": "gcompris-qt-data",
    "kstars": "kstars-data",
    "kalzium": "kalzium-data",
    "gramps": "gramps",
    "gnucash": "gnucash-common",
    "calibre": "calibre",
    "kmymoney": "kmymoney-common",
    "ufoai": "ufoai-misc",
    "minetest": "minetest-data",
    "gnumed": "gnumed-client",
    "kturtle": "kturtle",
    "ksirk": "ksirk",
    "step": "step",
    "pychess": "pychess",
    "gbrainy": "gbrainy",
    "kig": "kig",
    "klavaro": "klavaro",
    "workrave": "workrave-data",
    "manaplus": "manaplus-data",
}
LEAST, MOST = 120, 3000  # characters of a message in English
SHORTEST, LONGEST = 15, 150  # of a first sentence; a title may have five
LEAST_BYTES = 60  # of what follows: a Chinese character says about as much as three letters
LEAST_LANGUAGES = 3  # besides English
MOST_PLACEHOLDERS = 2
CATALOGUE = re.compile(
    r"(?:.*/)?([^/]+)/LC_MESSAGES/(\w[\w.-]*)\.mo|.*/(gcompris)_([A-Za-z_@]+)\.qm"
)
PLACEHOLDER = re.compile(
    r"\[\w+\]|%(?:\d+\$)?[-+#0]*\d*(?:\.\d+)?l{0,2}[sdiufgxc]\b|%\(\w+\)|%L?\d+|\{[\w.:]*\}"
    r"|\$\{?[A-Za-z_]\w*"
)
DIALECTS = {"racv"}  # besides those of documents.py
ALONE = {"br", "hr", "p", "li", "img", "nl"}  # tags that need no end
BREAKS = re.compile(r"<(?:br|nl|hr)\s*/?>|</?(?:p|li|ul|ol|h\d|para|title|tr)\b[^<>]*>")
COMMAND = re.compile(r"(?:^|\s|\[)--[a-z]|%prog|^[Uu]sage:|\[options\]")  # how a program is started
TAG = re.compile(r"<(/?)([A-Za-z][\w:.-]*)((?:[\s=/][^<>]*)?)>")


class Message(NamedTuple):
    """A message: where it is from, in which language, and what it says in English."""

    project: str
    domain: str
    lang: str
    english: str
    text: str


def gettext(blob: bytes) -> Iterator[tuple[str, str]]:
    """The messages of a .mo file, without their contexts; none of those with a plural."""
    order = "<" if blob[:4] == b"\xde\x12\x04\x95" else ">"
    count, there, here = struct.unpack(f"{order}3I", blob[8:20])
    coding = "utf-8"
    for i in range(count):
        size, start = struct.unpack_from(f"{order}2I", blob, there + 8 * i)
        key = blob[start : start + size].decode(coding, "replace")
        size, start = struct.unpack_from(f"{order}2I", blob, here + 8 * i)
        if not key and (named := re.search(rb"charset=([\w-]+)", blob[start : start + size])):
            coding = named[1].decode()
        if key and "\0" not in key:
            yield key.split("\4")[-1], blob[start : start + size].decode(coding, "replace")


def qt(blob: bytes) -> Iterator[tuple[str, str]]:
    """The messages of a .qm file that keeps their English; none of those with a plural."""
    place, found = 16, b""
    while place + 5 <= len(blob):
        tag, size = struct.unpack_from(">BI", blob, place)
        if tag == 0x69:
            found = blob[place + 5 : place + 5 + size]
        place += 5 + size
    place, key, texts = 0, "", list[str]()
    while place < len(found):
        tag = found[place]
        if tag == 1:  # the end of a message
            if key and len(texts) == 1:
                yield key, texts[0]
            place, key, texts = place + 1, "", []
            continue
        size = struct.unpack_from(">I", found, place + 1)[0]
        value = found[place + 5 : place + 5 + size] if size != 0xFFFFFFFF else b""
        if tag == 3:
            texts.append(value.decode("utf-16-be", "replace"))
        elif tag == 6:
            key = value.decode("utf-8", "replace")
        place += 5 + len(value)


def catalogues(tar: tarfile.TarFile) -> Iterator[tuple[str, str, bytes]]:
    """Domain, language and content of the catalogues of a package, or of an archive in it."""
    for file in tar.getmembers():
        inside = tar.extractfile(file) if file.isfile() else None
        if inside and (match := CATALOGUE.fullmatch(file.name)):
            yield match[2] or match[3], match[1] or match[4], inside.read()
        elif inside and file.name.endswith("/locales.zip"):
            with zipfile.ZipFile(io.BytesIO(inside.read())) as archive:
                for name in archive.namelist():
                    if match := re.fullmatch(r"([^/]+)/(messages)\.mo", name):
                        yield match[2], match[1], archive.read(name)


def messages(project: str, tar: tarfile.TarFile) -> Iterator[Message]:
    """The long messages of a package, a language's own name before those of its regions."""
    for domain, name, blob in sorted(catalogues(tar), key=lambda c: (c[1] != "pt_BR", c[1])):
        lang = language_of(name)
        if lang and lang != "en" and name not in DIALECTS:
            for english, text in (qt if blob[:1] == b"<" else gettext)(blob):
                if LEAST <= len(english) <= 2 * MOST and text.strip() and text != english:
                    yield Message(project, domain, lang, english, text)


@cache
def plain(text: str) -> str:
    """A message without markup and accelerators; empty where words are put in later."""
    tags = [(end, name) for end, name, rest in TAG.findall(text) if not rest.endswith("/")]
    ended = {name for end, name in tags if end} | ALONE
    if any(not end and name not in ended for end, name in tags):
        return ""
    if COMMAND.search(text):
        return ""
    text = re.sub(r"^(?:[a-z][\w -]*\^|\?[\w -]+:)", "", text)  # what tells two messages apart
    text = re.sub(r"<(\w+)>[^<]*?\btext='((?:\\.|[^'\\])*)'[^<]*</\1>", r"\2", text)
    text = re.sub(r"<(img|style)>.*?</\1>", "", text, flags=re.DOTALL)
    text = TAG.sub("", BREAKS.sub("\n", html.unescape(TAG.sub("", BREAKS.sub("\n", text)))))
    text = re.sub(r"\([&_]\w\)|(?<!\w)[&_](?=\w)|(?<=\w)&(?=[a-z])", "", text)
    text = text.replace("\\n", "\n").replace("\\", "").replace("\u00ad", "").strip()
    return "" if len(PLACEHOLDER.findall(text)) > MOST_PLACEHOLDERS else text


def wrapped(text: str) -> bool:
    """Whether the lines of a text are those of a narrow page, and no paragraphs."""
    return bool(re.search(r"[a-z,]\n[a-z]", text))


def cut(text: str) -> tuple[str, str] | None:
    """A title or the first sentence, and what follows; a very short one with the next."""
    found = sentences(text)
    end = 0
    for i, sentence in enumerate(found[:-1]):
        end = text.index(sentence, end) + len(sentence)
        title = i == 0 and text[end:].startswith("\n") and sentence[-1] not in ".,;!?。！？।۔"
        if end >= (5 if title else SHORTEST):
            break
    heading, section = text[:end].strip(" -*•\n"), text[end:].strip()
    enough = len(section.encode()) >= LEAST_BYTES and "://" not in heading
    return (heading, section) if 4 < len(heading) <= LONGEST and enough else None


def key_of(message: Message) -> str:
    """The name of a message: its domain and the hash of its English."""
    return f"{message.domain}/{hashlib.sha256(message.english.encode()).hexdigest()[:16]}"


def row_of(message: Message, text: str) -> Row | None:
    """The row of a message in its language or, with its English for a text, in English."""
    bare, english = plain(text), plain(message.english)
    if not bare or not LEAST <= len(english) <= MOST or len(bare) > 2 * MOST:
        return None
    if wrapped(english):
        bare = re.sub(r"(?<!\n)[ \t]*\n(?![\n*•-])", " ", bare)
    lines = (" ".join(line.split()) for line in bare.split("\n"))
    if not (parts := cut("\n".join(filter(None, lines)))):
        return None
    lang = "en" if text == message.english else message.lang
    return tidy(Row(f"messages-{message.project}", lang, key_of(message), *parts))


def apart(row: Row, english: Row) -> bool:
    """Whether a row is in its language, its query too."""
    whole, other = (r._replace(section=f"{r.heading} {r.section}") for r in (row, english))
    return translated(whole, other.section)


def rows(found: list[Message]) -> Iterator[Row]:
    """Rows of the messages of one domain that enough languages have, English first."""
    domains: dict[str, set[str]] = defaultdict(set)
    for message in found:
        domains[message.english].add(f"{message.project}/{message.domain}")
    there: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    seen: set[tuple[str, str, str]] = set()
    for message in found:
        place = (message.project, key_of(message), message.lang)
        if len(domains[message.english]) > 1 or place in seen:
            continue
        seen.add(place)
        kept = there[place[:2]]
        english = kept.get("en") or row_of(message, message.english)
        row = row_of(message, message.text) if english else None
        if english and row and apart(row, english):
            kept.setdefault("en", english)
            kept[message.lang] = row
    for kept in there.values():
        if len(kept) > LEAST_LANGUAGES:
            yield from kept.values()


def main() -> None:
    """Read the arguments and write a file for each language."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", required=True, help="a mirror of Debian: https://...")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    mirror = args.mirror.rstrip("/")
    where = {p["Package"]: p["Filename"] for p in packages(mirror)}
    found: list[Message] = []
    for project, names in PROJECTS.items():
        before = len(found)
        for name in names.split():
            found += messages(project, member(f"{mirror}/{where[name]}", "data.tar"))
        print(f"{project}: {len(found) - before} messages", flush=True)
    write_rows(rows(found), args.out)


if __name__ == "__main__":
    main()
