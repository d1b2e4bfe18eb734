"""More translated documents about software: headings and their sections, the rows of `train/weak`.

    pip download --no-deps homeassistant==2024.3.3 home-assistant-frontend==20250109.2 -d parts
    npm pack electron-i18n@1.1347.0 --pack-destination parts
    python recipes/polyrank_mini/documents.py --parts parts --mirror MIRROR --out MORE/train/weak

`--mirror` is a mirror of Debian, as apt's list of sources names it; about 500 MB are read from
it. The same `source` and `key` in two languages are the same section, and what has stayed English
in a translation is left out.

| source | what | licence |
|---|---|---|
| debconf-templates | what packages ask when set up | each package's own (GPL and BSD families) |
| debian-descriptions-2 | one line on a package, and its description | the same |
| gnome-apps-help | help of desktop applications | CC BY-SA 3.0 and 4.0, some GPL or GFDL |
| electron-docs | the documentation of Electron | MIT |
| home-assistant | names and descriptions of settings | Apache-2.0 |
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import json
import lzma
import re
import tarfile
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from languages import language

RELEASE = "dists/bookworm/main"
START = 48 << 10  # bytes of a package that hold its templates, as a rule
MOST_DESCRIPTIONS = 14_000
LANGUAGES_OF_A_DESCRIPTION = 3
LONGEST = 6000  # characters of a section
AS_IN_WEAK = {"C": "en", "no": "nb", "tl": "fil"}
DIALECTS = {"en-GB", "sr-Latn", "zh-HK", "de-CH", "nn-XX", "pt-PT"}
OTHER_SCRIPTS = (
    "ar fa he ru uk bg sr mk be el ja ko zh zh-Hant th hi bn ta te ml kn mr gu pa ne ka am km my ur"
    " kk si ug bo dz or as ckb"
)
DESCRIBED_IN = (
    "ca cs da de el en eo es eu fi fr hr hu id it ja ko nb nl pl pt pt_BR ro ru sk sr sv tr uk vi"
    " zh_CN zh_TW km"
)


class Row(NamedTuple):
    """A section: what it is of, in which language, and under which heading."""

    source: str
    lang: str | None  # none: a dialect, which is left out
    key: str
    heading: str
    section: str

    def line(self) -> str:
        """The row as `train/weak` has it."""
        fields = {"lang": self.lang, "query": self.heading, "positive": self.section}
        fields |= {"source": self.source, "key": self.key}
        return json.dumps(fields, ensure_ascii=False) + "\n"

    def fits(self) -> bool:
        """Whether it has a language, and a heading and a section of some length."""
        return bool(self.lang) and 4 <= len(self.heading) <= 200 and len(self.section) > 40


def language_of(name: str) -> str | None:
    """The language as `train/weak` names it; none for a dialect that is left out."""
    name = name.replace("_", "-")
    if name in DIALECTS or "@" in name:
        return None
    return AS_IN_WEAK.get(code := language(name), code)


def fetch(url: str, size: int | None = None, tries: int = 5) -> bytes:
    """A file of the mirror, or its first bytes."""
    headers = {} if size is None else {"Range": f"bytes=0-{size - 1}"}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as file:
            return bytes(file.read())
    except urllib.error.URLError as error:
        if tries == 1 or isinstance(error, urllib.error.HTTPError):
            raise
    time.sleep(20 / tries)
    return fetch(url, size, tries - 1)


def member(url: str, name: str, size: int | None = None) -> tarfile.TarFile:
    """control.tar or data.tar of a Debian package, which is an `ar` archive."""
    blob = fetch(url, size)
    place = 8
    while True:
        if place + 60 > len(blob):
            blob = fetch(url)
        header = blob[place : place + 60]
        end = place + 60 + int(header[48:58])
        if header.startswith(name.encode()):
            blob = blob if end <= len(blob) else fetch(url, end)
            return tarfile.open(fileobj=io.BytesIO(blob[place + 60 : end]))
        place = end + end % 2


def packages(mirror: str) -> Iterator[dict[str, str]]:
    """The packages of the release and those of its installer, field by field."""
    for folder in ("", "debian-installer/"):
        packed = fetch(f"{mirror}/{RELEASE}/{folder}binary-amd64/Packages.xz")
        for stanza in lzma.decompress(packed).decode().strip().split("\n\n"):
            yield dict(s.split(": ", 1) for s in stanza.split("\n") if ": " in s and s[0] != " ")


def paragraphs(lines: list[str]) -> str:
    """Text of a control file: lines to join, a point alone between paragraphs, lists as lines."""
    found = [""]
    for line in lines:
        if line.strip() in (".", ""):
            found.append("")
        elif line.startswith((" ", "-", "*")):
            found.append(line.strip())
        else:
            found[-1] = f"{found[-1]} {line.strip()}".strip()
    return "\n".join(filter(None, found))


def templates(mirror: str, found: list[dict[str, str]]) -> Iterator[Row]:
    """The questions of debconf: the short description stands over the long one."""

    def read(url: str) -> str:
        try:
            tar = member(url, "control.tar", START)
        except urllib.error.HTTPError as error:  # not every mirror has the installer's
            print(f"left out: {url}: {error}", flush=True)
            return ""
        file = next((m for m in tar.getmembers() if m.name.endswith("templates")), None)
        inside = tar.extractfile(file) if file else None
        return inside.read().decode("utf-8", "replace") if inside else ""

    files = [
        p["Filename"]
        for p in found
        if p["Filename"].endswith(".udeb")
        or "debconf" in p.get("Depends", "") + p.get("Pre-Depends", "")
    ]
    with ThreadPoolExecutor(24) as pool:
        texts = pool.map(read, [f"{mirror}/{file}" for file in files])
        for stanza in (s for text in texts for s in re.split(r"\n\s*\n", text)):
            fields: dict[str, list[str]] = {}
            last: list[str] = []
            for line in stanza.split("\n"):
                if match := re.match(r"([A-Za-z][\w@.-]*): ?(.*)", line):
                    fields[match[1]] = last = [match[2]]
                elif line.startswith(" "):
                    last.append(line[1:])
            for name, (heading, *rest) in fields.items():
                match = re.fullmatch(r"Description(?:-([A-Za-z_@]+)\.UTF-8)?", name, re.IGNORECASE)
                if match and "Template" in fields:
                    lang, key = language_of(match[1] or "C"), fields["Template"][0]
                    yield Row("debconf-templates", lang, key, heading, paragraphs(rest))


def descriptions(mirror: str) -> Iterator[Row]:
    """Descriptions of the packages that exist in the most languages."""
    texts: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    one = re.compile(r"^Description-(?!md5)\w+: (.*)\n((?: .*\n?)*)", re.MULTILINE)
    for name in DESCRIBED_IN.split():
        packed = f"{mirror}/{RELEASE}/i18n/Translation-{name}"
        if name == "en":
            text = lzma.decompress(fetch(f"{packed}.xz")).decode()
        else:
            text = bz2.decompress(fetch(f"{packed}.bz2")).decode()
        for stanza in text.split("\n\n"):
            package, match = re.match(r"Package: (\S+)", stanza), one.search(stanza)
            if package and match:
                section = paragraphs([line[1:] for line in match[2].split("\n")])
                texts[package[1]].setdefault(language_of(name) or "", (match[1], section))
    often = Counter({package: len(set(there) - {"en"}) for package, there in texts.items()})
    for package, count in often.most_common(MOST_DESCRIPTIONS):
        if count >= LANGUAGES_OF_A_DESCRIPTION:
            for lang, (heading, section) in texts[package].items():
                yield Row("debian-descriptions-2", lang, package, heading, section)


def help_pages(mirror: str, found: list[dict[str, str]]) -> Iterator[Row]:
    """Pages of help in Mallard, page by page and section by section."""
    listed = gzip.decompress(fetch(f"{mirror}/{RELEASE}/Contents-all.gz")).decode()
    listed += gzip.decompress(fetch(f"{mirror}/{RELEASE}/Contents-amd64.gz")).decode()
    owners = re.findall(r"^usr/share/help/C/\S+\.page\s+\S*/([^\s,/]+)", listed, re.MULTILINE)
    where = {p["Package"]: p["Filename"] for p in found}
    for package in sorted(set(owners) - {"gnome-user-docs"}):  # that is in train/weak
        tar = member(f"{mirror}/{where[package]}", "data.tar")
        for file in tar.getmembers():
            match = re.fullmatch(r"\./usr/share/help/([^/]+)/(.+\.page)", file.name)
            inside = tar.extractfile(file) if match else None
            if match and inside:
                try:
                    root = ET.fromstring(inside.read())
                except ET.ParseError as error:  # an entity that is defined elsewhere
                    print(f"left out: {package}: {file.name}: {error}", flush=True)
                    continue
                yield from page(root, language_of(match[1]), match[2])


def page(element: ET.Element, lang: str | None, key: str) -> Iterator[Row]:
    """A page or a section without those inside it, then those."""

    def tag(one: ET.Element) -> str:
        return str(one.tag).rsplit("}", 1)[-1]

    def lines(one: ET.Element) -> Iterator[str]:
        for child in one:
            if tag(child) in ("p", "screen", "code", "title"):
                yield " ".join("".join(child.itertext()).split())
            elif tag(child) not in ("section", "info", "links", "media", "comment"):
                yield from lines(child)

    titles = [" ".join("".join(c.itertext()).split()) for c in element if tag(c) == "title"]
    body = [line for line in lines(element) if line not in titles[:1]]
    yield Row("gnome-apps-help", lang, key, titles[0] if titles else "", "\n".join(body))
    for child in element:
        if tag(child) == "section" and child.get("id"):
            yield from page(child, lang, f"{key.split('#')[0]}#{child.get('id')}")


def electron(parts: Path) -> Iterator[Row]:
    """Sections of Markdown under their headings, less most of the names of functions."""

    def plain(text: str) -> str:
        text = re.sub(r"```.*?```", lambda m: m[0][:400], text, flags=re.DOTALL)
        text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
        return re.sub(r"[*`|]+", " ", re.sub(r"<[^>\n]+>", "", text)).strip()

    [path] = parts.glob("electron-i18n-*.tgz")
    with tarfile.open(path) as tar:
        file = tar.extractfile("package/index.json")
        assert file is not None
        docs: dict[str, dict[str, dict[str, Any]]] = json.load(file)["docs"]
    for name, pages in docs.items():
        for place, document in pages.items():
            for i, section in enumerate(document.get("sections") or ()):
                match = re.match(r"\s*#+\s*(.+)", section["body"])
                if match and not (re.search(r"\w[.(]\w|\(\)", match[1]) and i % 4):
                    body = plain(section["body"][match.end() :])
                    yield Row(
                        "electron-docs", language_of(name), f"{place}#{i}", plain(match[1]), body
                    )


def home_assistant(parts: Path) -> Iterator[Row]:
    """Names and descriptions that stand beside one another in the translations."""

    def pairs(tree: Any, key: str) -> Iterator[tuple[str, str, str]]:
        if not isinstance(tree, dict):
            return
        for name in ("name", "title"):
            yield f"{key}/{name}", tree.get(name, ""), tree.get("description", "")
        named, described = tree.get("data"), tree.get("data_description")
        if isinstance(named, dict) and isinstance(described, dict):
            for field, text in described.items():
                yield f"{key}/data/{field}", named.get(field, ""), text
        for name, child in tree.items():
            yield from pairs(child, f"{key}/{name}")

    def interface(tree: Any, key: str) -> Iterator[tuple[str, str, str]]:
        for name, text in tree.items():
            base, ends = re.subn(r"[._](description|text)$", "", name)
            headings = [
                tree[base + x] for x in (".name", ".title", ".label", "") if base + x in tree
            ]
            if ends and headings:
                yield f"{key}/{base}", headings[0], text

    integrations = r"homeassistant/components/(\w+)/translations/([\w-]+)\.json"
    pages = r".*/(translations)/([\w-]+?)-[0-9a-f]{32}\.json"
    for wheel, pattern, read in (
        ("homeassistant", integrations, pairs),
        ("home_assistant_frontend", pages, interface),
    ):
        [path] = parts.glob(f"{wheel}-*.whl")
        with zipfile.ZipFile(path) as archive:
            for file in archive.namelist():
                if match := re.fullmatch(pattern, file):
                    tree = json.loads(archive.read(file))
                    for key, heading, text in read(tree, match[1]):
                        if isinstance(heading, str) and isinstance(text, str):
                            yield Row("home-assistant", language_of(match[2]), key, heading, text)


def tidy(row: Row) -> Row:
    """The row with single spaces and no empty lines."""
    lines = [" ".join(line.split()) for line in row.section.split("\n")]
    section = "\n".join(filter(None, lines))[:LONGEST]
    return row._replace(heading=" ".join(row.heading.split()).rstrip(":"), section=section)


def translated(row: Row, english: str) -> bool:
    """Whether a section is in its language, and not the English one or half of it."""
    if row.lang in OTHER_SCRIPTS.split():
        letters = [c for c in row.section if c.isalpha()]
        return sum(ord(c) > 0x24F for c in letters) >= 0.3 * len(letters)
    known = {w.lower() for w in re.findall(r"\w{4,}", english)}
    found = [w.lower() for w in re.findall(r"\w{4,}", row.section)]
    return sum(w in known for w in found) <= 0.5 * len(found)


def write_rows(rows: Iterable[Row], out: Path) -> None:
    """Write a file for each language, and say how many rows there are of each source."""
    counts: Counter[str] = Counter()
    files: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        counts[row.source] += 1
        files[row.lang or ""].append(row.line())
    out.mkdir(parents=True, exist_ok=True)
    for lang, lines in files.items():
        with lzma.open(out / f"{lang}.jsonl.xz", "wt", encoding="utf-8") as file:
            file.writelines(lines)
    print(", ".join(f"{source}: {count}" for source, count in counts.items()), len(files), "files")


def main() -> None:
    """Read the arguments and write a file for each language."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", type=Path, required=True, help="the wheels and the npm package")
    parser.add_argument("--mirror", required=True, help="a mirror of Debian: https://...")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    mirror = args.mirror.rstrip("/")
    found = list(packages(mirror))
    kept: dict[tuple[str, str, str], Row] = {}
    for source in (
        templates(mirror, found),
        descriptions(mirror),
        help_pages(mirror, found),
        electron(args.parts),
        home_assistant(args.parts),
    ):
        for row in map(tidy, source):
            if row.fits():
                kept.setdefault((row.source, row.lang or "", row.key), row)
    english = {
        (source, key): row.section for (source, lang, key), row in kept.items() if lang == "en"
    }
    write_rows(
        (
            row
            for row in kept.values()
            if row.lang == "en" or translated(row, english.get((row.source, row.key), ""))
        ),
        args.out,
    )


if __name__ == "__main__":
    main()
