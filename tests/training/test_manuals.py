"""Translated manuals that the recipe reads: a mirror and packages of a few lines."""

from __future__ import annotations

import gzip
import json
import lzma
import sys
from pathlib import Path
from typing import Any

import pytest

from training.test_documents import deb

RECIPE = Path(__file__).parents[2] / "recipes" / "polyrank_mini"

ENGLISH = "Photographs open in a window, from which they can be printed and sent."
SWEDISH = "Fotografier öppnas i ett fönster, och kan därifrån skrivas ut och skickas vidare."
GERMAN = "Bilder öffnen sich in einem Fenster und lassen sich von dort aus drucken."
KNOWN = "Spara bilden i en fil som andra program också kan öppna och visa."
KDE = """\
<?xml version="1.0" ?>
<!DOCTYPE book PUBLIC "-//KDE//DTD" "dtd/kdedbx45.dtd" [
  <!ENTITY photos "<application>Photos</application>">
  <!ENTITY more SYSTEM "more.docbook">
]>
<book id="photos" lang="&language;"><title>&photos;</title>
<chapter id="open"><title>{0}</title><para>{1}</para>
<para><menuchoice><shortcut><keycombo action="simul">&Ctrl;<keycap>O</keycap></keycombo></shortcut>
<guimenu>A</guimenu><guimenuitem>B</guimenuitem></menuchoice> &amp; &unheard.of;</para>
<sect1><title>{0} 2</title><para>{1} 2</para></sect1></chapter>
<chapter id="rights"><title>Credits and License</title><para>{1} 3</para></chapter>
&more;
</book>
"""
MORE = '<!-- left out --><chapter id="more"><title>{0} 3</title><para>{1} 4</para></chapter>'
BOOK = """\
<book xmlns="http://docbook.org/ns/docbook" xmlns:xi="http://www.w3.org/2001/XInclude">
<info><title>Photos</title></info><xi:include href="more.xml"/></book>
"""
INCLUDED = """\
<?xml version="1.0"?><chapter xml:id="open" its:translate="yes"><title>{0}</title>
<para>{1}</para></chapter>
"""
GIMP = """\
<html><body><div class="navheader">1.2.<hr /></div>
<h1 class="title"><a id="colours"></a>1.2. {0}</h1><p>{1}<br/>
<span>A</span> &rarr; B</p><h2><a id="idm12"></a>1.2.1. {0} 2</h2><p>{1} 2</p>
<div class="navfooter">1.3.</div></body></html>
"""
HELP = """\
<body><p>left out</p><div id="DisplayArea"><h1 id="hd_id1">{0}</h1><p>{1}</p>
<h2 id="hd_id2">{0} 2</h2><p>{1} <span hidden="true">A</span><span hidden="true">B</span></p>
<h2 id="hd_id3">{0} 3</h2><p>{2}</p><a name="relatedtopics"></a><p>left out</p></div>
<div id="SearchFrame"></div></body>
"""


@pytest.fixture
def mirror() -> dict[str, bytes]:
    """What a mirror holds, by address."""
    release = "http://mirror/dists/bookworm/main"
    said = {
        "en": ("Open a photograph", ENGLISH),
        "sv": ("Öppna ett fotografi", SWEDISH),
        "de": ("Bilder öffnen", GERMAN),
    }
    shared = "./usr/share/kf5/kdoctools/customization"
    keys = {
        f"{shared}/en/user.entities": '<!ENTITY Ctrl "<keycap>Ctrl</keycap>">',
        f"{shared}/de/user.entities": '<!ENTITY Ctrl "<keycap>Strg</keycap>">',
    }
    handbooks, books, images = {}, {}, {}
    for lang, text in said.items():
        folder = f"./usr/share/doc/HTML/{lang}/photos"
        handbooks[f"{folder}/index.docbook"] = KDE.format(*text)
        handbooks[f"{folder}/more.docbook"] = MORE.format(*text)
        folder = f"./usr/share/help/{lang.replace('en', 'C')}/album"
        books |= {f"{folder}/index.docbook": BOOK, f"{folder}/more.xml": INCLUDED.format(*text)}
    for lang, text in (("sv", said["sv"]), ("fi", said["en"])):
        images[lang] = {f"./usr/share/gimp/2.0/help/{lang}/light.html": GIMP.format(*text)}
    images["en"] = {"./usr/share/gimp/2.0/help/en/light.html": GIMP.format(*said["en"])}
    office = {
        lang: {
            f"./usr/share/libreoffice/help/{name}/text/a/b.html": HELP.format(*said[lang], known)
        }
        for lang, name, known in (
            ("en", "en-US", "Save the picture in a file that programs of others open."),
            ("sv", "sv", KNOWN),
        )
    }
    files = {
        "kdoctools5": keys,
        "photos-data": handbooks,
        "album-common": books,
        **{f"gimp-help-{lang}": held for lang, held in images.items()},
        **{f"libreoffice-help-{lang}": held for lang, held in office.items()},
    }
    listed = "\n\n".join(f"Package: {name}\nFilename: pool/{name}.deb" for name in files)
    installer = b"Package: disks\nFilename: pool/disks.udeb"
    contents = (
        "usr/share/doc/HTML/en/photos/index.docbook kde/photos-data\n"
        "usr/share/help/C/album/index.docbook gnome/album-common\nusr/bin/photos kde/photos\n"
    )
    return {
        f"{release}/binary-amd64/Packages.xz": lzma.compress(listed.encode()),
        f"{release}/debian-installer/binary-amd64/Packages.xz": lzma.compress(installer),
        f"{release}/Contents-all.gz": gzip.compress(contents.encode()),
        f"{release}/Contents-amd64.gz": gzip.compress(b""),
        **{f"http://mirror/pool/{name}.deb": deb({}, held) for name, held in files.items()},
    }


def test_sections_of_one_key_are_the_same_in_every_language(
    mirror: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))
    import documents
    import manuals

    def fetch(url: str, size: int | None = None) -> bytes:
        return mirror[url][:size]

    for module in (documents, manuals):
        monkeypatch.setattr(module, "fetch", fetch)
    known, out = tmp_path / "known", tmp_path / "weak"
    known.mkdir()
    with lzma.open(known / "sv.jsonl.xz", "wt", encoding="utf-8") as file:
        row = {"lang": "sv", "key": "elsewhere", "source": "libreoffice-help", "positive": KNOWN}
        file.write(json.dumps(row))
    given = ["--mirror", "http://mirror/", "--known", str(known), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["manuals", *given])
    manuals.main()
    there: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for path in out.glob("*.jsonl.xz"):
        with lzma.open(path, "rt", encoding="utf-8") as file:
            for row in map(json.loads, file):
                there.setdefault((row["source"], row["key"]), {})[row["lang"]] = row
    assert {key: sorted(found) for key, found in there.items()} == {
        ("kde-handbooks", "photos#open"): ["de", "en", "sv"],
        ("kde-handbooks", "photos#open/0/1"): ["de", "en", "sv"],
        ("kde-handbooks", "photos#more"): ["de", "en", "sv"],
        ("desktop-handbooks", "album#open"): ["de", "en", "sv"],
        ("gimp-help", "light#colours"): ["en", "sv"],  # the Finnish one is English
        ("gimp-help", "light#1/2"): ["en", "sv"],
        ("libreoffice-help-2", "a/b.html#hd_id1"): ["en", "sv"],
        ("libreoffice-help-2", "a/b.html#hd_id3"): ["en"],  # the Swedish one is known
    }
    opened = there["kde-handbooks", "photos#open"]["de"]
    assert opened["query"] == "Bilder öffnen"
    assert opened["positive"] == f"{GERMAN}\nA → B (Strg+O) & unheard.of"
    coloured = there["gimp-help", "light#colours"]["sv"]
    assert coloured["query"] == "Öppna ett fotografi"
    assert coloured["positive"] == f"{SWEDISH}\nA → B"


def test_a_heading_that_repeats_has_the_one_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))
    from documents import Row
    from manuals import kept

    found = [
        ("Blur", Row("gimp-help", "en", "blur#1", "Options", f"{ENGLISH} 1")),
        ("Crop", Row("gimp-help", "en", "crop#1", "Options", f"{ENGLISH} 2")),
        ("Crop", Row("gimp-help", "en", "crop#2", "Edges", f"{ENGLISH} 3")),
        ("Crop", Row("gimp-help", "en", "crop#3", "Copied", f"{ENGLISH} 3")),
    ]
    assert [row.heading for row in kept(found)] == ["Blur: Options", "Crop: Options", "Edges"]
