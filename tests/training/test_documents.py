"""Translated documents that the recipe reads: a mirror and packages of a few lines."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sys
import tarfile
import urllib.error
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "polyrank_mini"

TEMPLATES = """\
Template: foo/server
Type: string
Description: Mail server:
 Please enter the name of the host that
 takes your mail for the whole domain.
 .
 It may be empty.
Description-sv.UTF-8: Postserver:
 Ange namnet på den värd som tar emot din post för hela domänen.
 .
 Det kan vara tomt.
"""
PAGE = """\
<page xmlns="http://projectmallard.org/1.0/" id="index"><info><desc>left out</desc></info>
<title>{0}</title><p>{1}</p><section id="more"><title>{0} 2</title><p>{1}</p></section></page>
"""
ENGLISH = "Photographs open in a window, from which they can be printed and sent."
SWEDISH = "Fotografier öppnas i ett fönster, och kan därifrån skrivas ut och skickas vidare."
DESCRIPTIONS = {
    "en": "reads feeds of news\n Shows headlines of many sources.\n .\n Works offline.",
    "de": "liest Nachrichten\n Zeigt die Schlagzeilen vieler Quellen und läuft auch ohne Netz.",
    "fr": "lit les nouvelles\n Montre les titres de nombreuses sources, même sans réseau.",
    "ru": "читает новости\n Показывает заголовки многих источников, работает и без сети.",
}


def tar(files: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:xz") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def deb(control: dict[str, str], data: dict[str, str]) -> bytes:
    members = {"debian-binary": b"2.0\n", "control.tar.xz": tar(control), "data.tar.xz": tar(data)}
    out = b"!<arch>\n"
    for name, blob in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(blob):<10}`\n".encode()
        out += blob + b"\n" * (len(blob) % 2)
    return out


@pytest.fixture
def mirror() -> dict[str, bytes]:
    """What a mirror holds, by address."""
    release = "http://mirror/dists/bookworm/main"
    helped = {
        f"./usr/share/help/{lang}/photos/index.page": PAGE.format(title, text)
        for lang, title, text in (
            ("C", "Open a photograph", ENGLISH),
            ("sv", "Öppna ett fotografi", SWEDISH),
            ("de", "Open a photograph", ENGLISH),
        )
    }
    packages = (
        "Package: foo\nDepends: debconf (>= 0.5)\nFilename: pool/foo.deb\n\n"
        "Package: photos\nFilename: pool/photos.deb\nDescription: long\n text: more\n"
    )
    contents = (
        b"usr/share/help/C/photos/index.page      gnome/photos\nusr/bin/photos  gnome/photos\n"
    )
    installer = "Package: disks\nFilename: pool/disks.udeb\n\nPackage: gone\nFilename: gone.udeb\n"
    disks = (
        "Template: disks/guided\nDescription: Guided partitioning\n"
        " The whole disk is used, or what is left of it.\n"
    )
    found = {
        f"{release}/debian-installer/binary-amd64/Packages.xz": lzma.compress(installer.encode()),
        "http://mirror/pool/disks.udeb": deb({"./templates": disks}, {}),
        f"{release}/binary-amd64/Packages.xz": lzma.compress(packages.encode()),
        f"{release}/Contents-all.gz": gzip.compress(contents),
        f"{release}/Contents-amd64.gz": gzip.compress(b""),
        "http://mirror/pool/foo.deb": deb({"./control": "x", "./templates": TEMPLATES}, {}),
        "http://mirror/pool/photos.deb": deb({"./control": "x"}, helped),
    }
    for lang, text in DESCRIPTIONS.items():
        stanza = f"Package: feeds\nDescription-md5: 0\nDescription-{lang}: {text}\n\n".encode()
        packed = lzma.compress(stanza) if lang == "en" else bz2.compress(stanza)
        end = "xz" if lang == "en" else "bz2"
        found[f"{release}/i18n/Translation-{lang}.{end}"] = packed
    return found


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """The wheels and the npm package."""
    folder = tmp_path / "parts"
    folder.mkdir()
    text = {
        "en": "How the window is made and shown to people.",
        "ja": "ウィンドウを作成して利用者に表示する方法について、"
        "その手順を詳しく説明します。色も変えられます。",
    }
    docs = {
        lang: {"/docs/window": {"sections": [{"body": f"# {lang} head\n\n{text[lang[:2]]}"}]}}
        for lang in ("en-US", "ja-JP")
    }
    blob = tar({"package/index.json": json.dumps({"docs": docs})})
    (folder / "electron-i18n-1.0.0.tgz").write_bytes(blob)
    service = {"name": "Reload", "description": "Reads all of the settings from their file again."}
    setting = {
        "data": {"host": "Host"},
        "data_description": {"host": "The address of the device in your own network."},
    }
    with zipfile.ZipFile(folder / "homeassistant-1-py3-none-any.whl", "w") as wheel:
        name = "homeassistant/components/lamp/translations/en.json"
        wheel.writestr(name, json.dumps({"services": {"reload": service}, "step": setting}))
    with zipfile.ZipFile(folder / "home_assistant_frontend-1-py3-none-any.whl", "w") as wheel:
        name = f"hass_frontend/static/translations/en-{'0' * 32}.json"
        told = {
            "ui.a.title": "Areas",
            "ui.a.description": "Rooms are put together in areas of a house.",
        }
        wheel.writestr(name, json.dumps(told))
    return folder


def test_sections_of_one_key_are_the_same_in_every_language(
    mirror: dict[str, bytes],
    parts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))
    import documents

    monkeypatch.setattr(documents, "DESCRIBED_IN", " ".join(DESCRIPTIONS))

    def fetch(url: str, size: int | None = None) -> bytes:
        if url not in mirror:
            raise urllib.error.HTTPError(url, 404, "Not Found", Message(), None)
        return mirror[url][:size]

    monkeypatch.setattr(documents, "fetch", fetch)
    out = tmp_path / "weak"
    given = ["--parts", str(parts), "--mirror", "http://mirror/", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["documents", *given])
    documents.main()
    assert "left out: http://mirror/gone.udeb: HTTP Error 404" in capsys.readouterr().out
    rows: list[dict[str, Any]] = []
    for path in out.glob("*.jsonl.xz"):
        with lzma.open(path, "rt", encoding="utf-8") as file:
            rows += map(json.loads, file)
    there: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        there.setdefault((row["source"], row["key"]), {})[row["lang"]] = row
    assert {key: sorted(found) for key, found in there.items()} == {
        ("debconf-templates", "disks/guided"): ["en"],
        ("debconf-templates", "foo/server"): ["en", "sv"],
        ("debian-descriptions-2", "feeds"): ["de", "en", "fr", "ru"],
        ("gnome-apps-help", "photos/index.page"): ["en", "sv"],  # the German one is English
        ("gnome-apps-help", "photos/index.page#more"): ["en", "sv"],
        ("electron-docs", "/docs/window#0"): ["en", "ja"],
        ("home-assistant", "lamp/services/reload/name"): ["en"],
        ("home-assistant", "lamp/step/data/host"): ["en"],
        ("home-assistant", "translations/ui.a"): ["en"],
    }
    asked = there["debconf-templates", "foo/server"]
    assert asked["sv"]["query"] == "Postserver"
    assert asked["en"]["positive"] == (
        "Please enter the name of the host that takes your mail for the whole domain.\n"
        "It may be empty."
    )
    helped = there["gnome-apps-help", "photos/index.page"]["sv"]
    assert (helped["query"], helped["positive"]) == ("Öppna ett fotografi", SWEDISH)
    named = there["home-assistant", "lamp/step/data/host"]["en"]
    assert named["query"] == "Host"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("C", "en"),
        ("en-US", "en"),
        ("pt_BR", "pt"),
        ("zh_CN", "zh"),
        ("zh-Hans", "zh"),
        ("zh_TW", "zh-Hant"),
        ("zh-Hant", "zh-Hant"),
        ("nb_NO", "nb"),
        ("no", "nb"),
        ("tl-PH", "fil"),
        ("es-419", "es"),
        ("en_GB", None),
        ("sr@latin", None),
        ("pt_PT", None),
    ],
)
def test_languages_are_named_as_in_the_other_documents(
    name: str, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))
    import documents

    assert documents.language_of(name) == expected
