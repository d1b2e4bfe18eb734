"""More translated manuals of programs: headings and their sections, the rows of `train/weak`.

    python recipes/polyrank_mini/manuals.py --mirror MIRROR --known DATA/train/weak \\
        --out MORE/train/weak

`--mirror` is a mirror of Debian, as apt's list of sources names it; about 2.4 GB are read from
it, most of it pictures. The rules are those of documents.py; sections of LibreOffice's help that
`--known` has are left out.

| source | what | licence |
|---|---|---|
| kde-handbooks | handbooks of KDE's applications | GFDL 1.2, some GPL or CC BY-SA 4.0 |
| desktop-handbooks | DocBook help of MATE's and other applications | GFDL 1.1, some GPL |
| gimp-help | the manual of GIMP | GFDL 1.2 |
| libreoffice-help-2 | more of LibreOffice's help | MPL-2.0 |
"""

from __future__ import annotations

import argparse
import gzip
import html
import io
import re
import urllib.error
import xml.etree.ElementTree as ET
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from html.entities import html5
from pathlib import Path

from documents import (
    RELEASE,
    Row,
    fetch,
    language_of,
    member,
    packages,
    tidy,
    translated,
    write_rows,
)
from sources import rows, same

MOST_ROWS = 60_000  # of a language
MOST_OF_LIBREOFFICE = 4000
ORIGINALS = {"C", "en", "en-US", "en_US"}
TITLED_NAMES = """
    chapter article appendix preface section sect1 sect2 sect3 sect4 sect5 qandaentry
"""
TITLED = TITLED_NAMES.split()
BLOCKS_NAMES = """
    book para simpara title term listitem screen programlisting synopsis row literallayout
    step member caption question answer bridgehead formalpara seg segtitle
"""
BLOCKS = BLOCKS_NAMES.split()
BLOCKS += TITLED
UNREAD_NAMES = """
    bookinfo articleinfo chapterinfo prefaceinfo appendixinfo sectioninfo sect1info
    sect2info sect3info info screeninfo mediaobject inlinemediaobject graphic inlinegraphic
    indexterm remark toc index titleabbrev footnote glossary bibliography
"""
UNREAD = UNREAD_NAMES.split()
UNREAD += TITLED
INCLUDE = r"<xi:include\s[^>]*href=\"([^\"]+)\"[^>]*?(?:/>|>.*?</xi:include>)"
VERBATIM = {"screen", "programlisting", "synopsis", "literallayout"}
BOILERPLATE = re.compile(
    r"(?i)\W*(credits?|acknowledge?ments?|licen[cs]e|copyright|installation|installing|compil"
    r"|how to obtain|obtaining|requirements|authors?\b|contributors|translat(ors|ion)|legal"
    r"|gnu free doc|gnu general|feedback|about (this|the) (doc|manual)|reporting bugs"
    r"|revision|change ?log|(applicability|verbatim|modifications|combining|collections of doc"
    r"|aggregation|termination|future revisions|addendum)\b)"
)
RIGHTS = re.compile(r"(?i)copyright (©|\(c\)|20|19)|GNU (free|general|library)|licen[cs]ed under")
KDE = r"usr/share/doc/(?:kde/)?HTML/([^/\s]+)/(\S+)"
DESKTOP = r"usr/share/help/([^/\s]+)/(\S+)"
Found = tuple[str, Row]  # the heading above, and the row
Opened = dict[str, str]


def texts(mirror: str, place: str, pattern: str) -> Iterator[tuple[re.Match[str], str]]:
    """The files of a package whose whole names match."""
    try:
        tar = member(f"{mirror}/{place}", "data.tar")
    except urllib.error.HTTPError as error:
        print(f"left out: {place}: {error}", flush=True)
        return
    for file in tar:  # in its order: a packed archive is slow to go back in
        match = re.fullmatch(pattern, file.name)
        inside = tar.extractfile(file) if match and file.isreg() else None
        if match and inside:
            yield match, inside.read().decode("utf-8", "replace")


def contents(mirror: str) -> str:
    """The lists of the files of all packages, as far as they may be of a handbook."""
    found = bytearray()
    for name in ("all", "amd64"):
        packed = fetch(f"{mirror}/{RELEASE}/Contents-{name}.gz")
        with gzip.open(io.BytesIO(packed)) as file:
            found.extend(b"".join(x for x in file if b".docbook " in x or b".xml " in x))
    return found.decode()


def named(name: str) -> str | None:
    """The language of a folder; none for dialects, English ones too."""
    lang = language_of(name)
    return None if lang == "en" and name not in ORIGINALS else lang


def entities(text: str) -> Opened:
    """The entities that a file declares with their texts."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    declared = re.findall(r"<!ENTITY\s+(?:%\s+)?([\w.-]+)\s+(?:\"([^\"]*)\"|'([^']*)')", text)
    return {k: one or other for k, one, other in declared if not (one + other).startswith("%")}


def vocabulary(mirror: str, place: str) -> dict[str, Opened]:
    """KDE's entities, for names of keys and programs, by folder: "" for those of all languages."""
    found: dict[str, Opened] = defaultdict(dict)
    pattern = r".*/customization/(?:(?!entities/)([\w@-]+)/|entities/).*(?:entities|\.ent)"
    for match, text in texts(mirror, place, pattern):
        found[(match[1] or "").replace("-", "_")].update(entities(text))
    return found


def bare(text: str) -> str:
    """A document without its head and its comments."""
    text = re.sub(r"<!--.*?-->|<\?.*?\?>", "", text, flags=re.DOTALL)
    return re.sub(r"<!DOCTYPE[^\[>]*(\[.*?\]\s*)?>", "", text, flags=re.DOTALL)


def expanded(text: str, known: Opened, beside: Opened) -> str:
    """A DocBook document without its head, with entities and included files put in."""
    head = text[: text.find("]>") + 1]
    names = known | entities(head)
    pattern = r"<!ENTITY\s+([\w.-]+)\s+(?:SYSTEM|PUBLIC\s+\"[^\"]*\")\s+[\"']([^\"']+)"
    names |= {k: bare(beside.get(file, "")) for k, file in re.findall(pattern, head)}

    def put(match: re.Match[str]) -> str:
        name = match[1]
        if name in names:
            return names[name]
        return html.unescape(match[0]) if f"{name};" in html5 else name

    def include(match: re.Match[str]) -> str:
        return bare(beside.get(match[1], ""))

    body = bare(text)
    for _ in range(6):
        body = re.sub(INCLUDE, include, body)
        body = re.sub(r"&(?!(?:lt|gt|amp|quot|apos);)([A-Za-z][\w.-]*);", put, body)
    body = re.sub(r"\sxml:id=", " id=", re.sub(r"<(/?)\w+:", r"<\1", body))
    body = re.sub(r"\s\w+:\w+=(\"[^\"]*\"|'[^']*')", "", body)  # prefixes are declared anywhere
    return re.sub(r"&(?![#\w]+;)", "&amp;", body)


def tag(element: ET.Element) -> str:
    """An element's name without its namespace."""
    return str(element.tag).rsplit("}", 1)[-1]


def spoken(element: ET.Element, inside: bool = False) -> str:
    """The text of an element, blocks as lines, without the sections inside it."""
    name = tag(element)
    if inside and name in UNREAD:
        return ""
    parts = [(tag(child), spoken(child, True)) for child in element]
    if name == "keycombo":
        return "+".join(filter(None, (part.strip() for _, part in parts)))
    if name == "menuchoice":
        keys = [f" ({part.strip()})" for of, part in parts if of == "shortcut"]
        return " → ".join(part.strip() for of, part in parts if of != "shortcut") + "".join(keys)

    def flat(text: str | None) -> str:
        return text or "" if name in VERBATIM else re.sub(r"\s+", " ", text or "")

    text = flat(element.text)
    for child, (_, part) in zip(element, parts, strict=True):
        text += part + flat(child.tail)
    return f"\n{text}\n" if name in BLOCKS else f"{text} " if name == "entry" else text


def line(element: ET.Element | None) -> str:
    """An element's text in one line."""
    return "" if element is None else " ".join(spoken(element).split())


def handbook(root: ET.Element, source: str, lang: str | None, app: str) -> Iterator[Found]:
    """The sections of a handbook, those inside others after these."""

    def titled(element: ET.Element) -> ET.Element | None:
        if tag(element) == "qandaentry":
            return next((child for child in element if tag(child) == "question"), None)
        for child in element:
            if tag(child) == "title":
                return child
            if tag(child).endswith("info"):
                return next((one for one in child if tag(one) == "title"), None)
        return None

    def walk(element: ET.Element, key: str, above: str) -> Iterator[Found]:
        parts = [child for child in element if tag(child) in TITLED]
        for i, child in enumerate(element):
            name = tag(child)
            if name not in TITLED:
                if name in ("part", "reference", "qandaset", "qandadiv"):
                    yield from walk(child, f"{key}/{name}{i}", above)
                continue
            place = f"{parts.index(child)}/{len(parts)}"
            anchor = child.get("id")
            inner = f"{app}#{anchor}" if anchor else f"{key}/{place}"
            yield from section(child, inner, above)

    def section(element: ET.Element, key: str, above: str) -> Iterator[Found]:
        title = titled(element)
        heading = line(title)
        kept = ET.Element("section")
        kept.extend([child for child in element if child is not title])
        yield above, Row(source, lang, key, heading, spoken(kept))
        yield from walk(element, key, heading or above)

    if tag(root) == "article":
        yield from section(root, app, "")
    else:
        yield from walk(root, app, line(titled(root)))


def preferred(name: str) -> tuple[bool, str]:
    """Folders of one language in their order: Brazil's Portuguese before Portugal's."""
    return name.endswith(("pt", "pt-PT")), name


def docbook(
    mirror: str, where: dict[str, str], listed: str, source: str, folder: str
) -> Iterator[Found]:
    """The handbooks in folders of a pattern with two groups: language and application."""
    entry = re.compile(rf"^{folder}/\S+\.(?:docbook|xml)\s+(\S+)$", re.MULTILINE)
    owners = {one.split("/")[-1] for match in entry.finditer(listed) for one in match[3].split(",")}
    words = vocabulary(mirror, where["kdoctools5"]) if source.startswith("kde") else {}
    for package in sorted(owners & set(where)):
        pattern = rf"\./{folder}/([^/]+\.(?:docbook|xml|dtd|ent))"
        books: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        for match, text in texts(mirror, where[package], pattern):
            books[match[1], match[2]][match[3]] = text
        for name, app in sorted(books, key=lambda book: (book[1], *preferred(book[0]))):
            files, lang = books[name, app], named(name)
            main = files.get("index.docbook", files.get(f"{app.split('/')[-1]}.xml"))
            if lang is None or main is None:
                continue
            spelled = [words.get(one, {}) for one in ("", "en", name)]
            declared = "".join(files[one] for one in sorted(files) if one.endswith(("dtd", "ent")))
            spelled.append(
                {k: re.sub("<(?!/?accel).*?>", " ", v) for k, v in entities(declared).items()}
            )
            known = {k: v for one in spelled for k, v in one.items()}
            try:
                root = ET.fromstring(expanded(main, known, files))
            except ET.ParseError as error:
                print(f"left out: {package}: {name}/{app}: {error}", flush=True)
                continue
            yield from handbook(root, source, lang, app)


def plain(page: str) -> str:
    """The text of a piece of HTML, blocks as lines."""
    page = re.sub(r"<pre.*?</pre>", lambda m: m[0].replace("\n", "<br>"), page, flags=re.DOTALL)
    page = re.sub(r"</(td|th|dt)>", " ", re.sub(r"\s+", " ", page))
    page = re.sub(r"</?(p|div|li|tr|br|dd|dl|pre|ul|ol|table|h\d)\b[^>]*>", "\n", page)
    return html.unescape(re.sub(r"<[^>]+>", "", page)).strip()


def page(text: str, source: str, lang: str | None, name: str) -> Iterator[Found]:
    """The sections of a page of HTML, each by its heading's anchor or else its place."""
    _, *pieces = re.split(r"<h[1-6]([^>]*)>(.*?)</h[1-6]>", text, flags=re.DOTALL)
    sections = list(zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True))
    title = ""
    for i, (attributes, inner, body) in enumerate(sections):
        anchor = re.search(r"\bid=\"(?!idm?\d)([^\"]+)", attributes + inner)
        heading = " ".join(plain(inner).split())
        heading = re.sub(r"^(\w+ )?[\dA-Z]+(\.\d+)*\. ", "", heading)
        above, title = title, title or heading
        if 'hidden="true"' in inner + body:  # one of several texts, for the program that asks
            continue
        key = f"{name}#{anchor[1]}" if anchor else f"{name}#{i}/{len(sections)}"
        yield above, Row(source, lang, key, heading, plain(body))


def gimp(mirror: str, where: dict[str, str]) -> Iterator[Found]:
    """GIMP's manual, without its figures, lists of contents and licence."""
    ends = {"navheader": "<hr />", "navfooter": "</body>", "toc": r"</dl>\s*</div>"}
    ends["figure"] = '<br class="figure-break" />'
    apart = "|".join(rf'<div class="{name}">.*?{end}' for name, end in ends.items())
    for package in sorted((p for p in where if p.startswith("gimp-help-")), key=preferred):
        for match, text in texts(mirror, where[package], r".*/gimp/2\.0/help/([^/]+)/(.+)\.html"):
            if not re.match(r"gfdl|bibliography|index|help-missing", match[2]):
                body = re.sub(apart, "", text[text.find("<body") :], flags=re.DOTALL)
                yield from page(body, "gimp-help", named(match[1]), match[2])


def libreoffice(mirror: str, where: dict[str, str]) -> Iterator[Found]:
    """LibreOffice's help, without its links to other pages."""
    for package in sorted((p for p in where if p.startswith("libreoffice-help-")), key=preferred):
        pattern = r".*/libreoffice/help/([^/]+)/text/(.+\.html)"
        for match, text in texts(mirror, where[package], pattern):
            body = text[text.find('<div id="DisplayArea"') : text.find('<div id="SearchFrame">')]
            body = re.sub(r'<a name="relatedtopics">.*', "", body, flags=re.DOTALL)
            yield from page(body, "libreoffice-help-2", named(match[1]), match[2])


def kept(found: Iterable[Found]) -> list[Row]:
    """The rows of a source that are of use; a heading that repeats gets the one above it."""
    tidied = [(above, tidy(row)) for above, row in found if row.lang]
    tidied = [(above, row) for above, row in tidied if row.fits()]
    english: dict[str, str] = {}
    books: dict[str, list[str]] = defaultdict(list)
    bodies: dict[str, str] = {}
    left: set[str] = set()
    for _, row in tidied:
        if row.lang == "en" and row.key not in english:
            english[row.key] = row.section
            books[row.key.split("#")[0]].append(row.section)
            if bodies.setdefault(same(row.section), row.key) != row.key:
                left.add(row.key)
            if BOILERPLATE.match(row.heading) or RIGHTS.search(row.section[:600]):
                left.add(row.key)
    rows_: dict[tuple[str | None, str], Found] = {}
    for above, row in tidied:
        original = english.get(row.key) or " ".join(books[row.key.split("#")[0]])
        ours = row.lang == "en" or translated(row, original)
        if ours and row.key not in left and not RIGHTS.search(row.section[:600]):
            rows_.setdefault((row.lang, row.key), (above, row))
    often = Counter((row.lang, row.heading) for _, row in rows_.values())

    def whole(above: str, row: Row) -> Row:
        longer = f"{above}: {row.heading}"
        repeats = above and often[row.lang, row.heading] > 1 and len(longer) <= 200
        return row._replace(heading=longer) if repeats else row

    return [whole(above, row) for above, row in rows_.values()]


def spread(found: list[Row], known: Path, most: int) -> list[Row]:
    """The rows that are not known, by key or by text, of the keys in the most languages."""
    there = [r for path in sorted(known.glob("*.xz")) for r in rows(path)]
    there = [r for r in there if r["source"] == "libreoffice-help"]
    keys, bodies = {(r["lang"], r["key"]) for r in there}, {same(r["positive"]) for r in there}
    new = [r for r in found if (r.lang, r.key) not in keys and same(r.section) not in bodies]
    counts = Counter(row.key for row in new)
    order = sorted(counts, key=lambda key: (-counts[key], zlib.crc32(key.encode())))
    chosen = set(order[:most])
    return [row for row in new if row.key in chosen]


def capped(found: list[Row]) -> Iterator[Row]:
    """The first rows of each language."""
    counts: Counter[str | None] = Counter()
    for row in found:
        counts[row.lang] += 1
        if counts[row.lang] <= MOST_ROWS:
            yield row


def main() -> None:
    """Read the arguments and write a file for each language."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mirror", required=True, help="a mirror of Debian: https://...")
    parser.add_argument("--known", type=Path, required=True, help="rows that are there already")
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    args = parser.parse_args()
    mirror = args.mirror.rstrip("/")
    where = {p["Package"]: p["Filename"] for p in packages(mirror)}
    listed = contents(mirror)
    args.out.mkdir(parents=True)
    found = [
        *kept(docbook(mirror, where, listed, "kde-handbooks", KDE)),
        *kept(docbook(mirror, where, listed, "desktop-handbooks", DESKTOP)),
        *kept(gimp(mirror, where)),
        *spread(kept(libreoffice(mirror, where)), args.known, MOST_OF_LIBREOFFICE),
    ]
    write_rows(capped(found), args.out)


if __name__ == "__main__":
    main()
